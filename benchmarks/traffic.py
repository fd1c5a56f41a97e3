"""Bytes of whole runs, both ways, and what rebuilding an adapter costs a client: ``python -m benchmarks.traffic``.

Bytes are counted twice: by ``dr-encoder plan``, and on the serialized messages of one client whose rounds are drawn,
with sums of Gaussian noise in place of gradients' (rounded to their own energy, they take as many bytes).
"""

import argparse
import random
import time
from collections.abc import Sequence
from statistics import mean

import numpy as np
import torch

from common.codecs.linear import LinearCodec
from common.config import RunConfig, Scalar
from common.trajectory import RoundSum, StepTerms, adapter_digest
from common.wire.records import release_bytes, serialized_bytes
from common.wire.sums import Entry, pack_sum
from server_app.privacy.plan import PrivacyPlan
from server_app.results.run_bytes import plain_lora_bytes, run_bytes
from server_app.results.units import data_size
from server_app.rounds.downlink import Downlink, Parcel
from server_app.run import plan_run
from server_app.strategies import recipe_of
from server_app.strategies.recipe import Recipe
from server_app.strategies.tasks import round_task
from workbench.cli.command_line import main_with_plain_errors
from workbench.planning.architectures import Shape, shape_of
from workbench.simulation.launcher import read_preset

NODE = 1
SEVEN_BILLION: dict[str, Scalar] = {
    "num-server-rounds": 40,
    "privacy.sampling-rate": 1.0,
    "stage-one.sampling-rate": 1.0,
}
BATCH, TOKENS = 8, 64  # a step of SmolLM2-135M on E2E: the batch of preset llm, rows as long as they mostly are
REPEATS = 5


class Run:
    """One configuration, its recipe and plan, without a model."""

    def __init__(self, preset: str, changes: dict[str, Scalar]) -> None:
        self.config = RunConfig.parse(read_preset(preset) | changes)
        self.shape: Shape = shape_of(self.config.model, self.config.lora)
        self.recipe: Recipe = recipe_of(self.config, self.shape.layout)
        self.plan: PrivacyPlan = plan_run(self.config, self.recipe, self.config.federation.num_clients)

    def messages(self, asked: Sequence[int]) -> tuple[list[int], list[int]]:
        """Serialized bytes of the instructions and of the replies of a client that is asked in these rounds."""
        generator, downlink = np.random.default_rng(1), Downlink()
        adapter, entries, down, up = torch.zeros(self.recipe.layout.size), list[Entry](), list[int](), list[int]()
        for number in range(1, max(asked) + 1):
            task = round_task(self.config.server, self.recipe, self.plan, number, sums=True)
            if number in asked:
                parcel = Parcel(task, self.recipe.encoder.spec, adapter, bytes(8), tuple(entries))
                down.append(serialized_bytes(downlink.content(parcel, NODE)))
                up.append(release_bytes(task.terms))
                downlink.note(parcel, {NODE: number - 1})
            noise = task.terms.noise_multiplier * task.terms.resolution
            total = np.rint(generator.normal(0, noise, task.terms.size)).astype(np.int64)
            entries.append(pack_sum(RoundSum.of(number, total)))
        return down, up


def demo_rows() -> list[str]:
    """The demo: per client and round that asks it, plan, messages of drawn clients, plain LoRA."""
    run = Run("demo", {})
    rounds, rate, draw = run.config.num_server_rounds, run.config.privacy.sampling_rate, random.Random(1)
    planned = run_bytes(run.config, run.recipe, run.plan, rounds)
    lora = plain_lora_bytes(run.config, run.recipe, run.plan, rounds)
    moved = []
    for _ in range(400):
        asked = [number for number in range(1, rounds + 1) if draw.random() < rate]
        moved.append(sum(map(sum, run.messages(asked))) if asked else 0)
    counted = mean(moved) / (rate * rounds)
    return [
        f"| demo, both ways, per client and round that asks it, by plan (stage 1 included) | "
        f"{planned.per_round(planned.both):,.0f} B | <= 1,500 B |",
        f"| – by serialized messages of 400 drawn clients (without stage 1) | {counted:,.0f} B | |",
        f"| – plain LoRA under the same noise | {lora.per_round(lora.both):,.0f} B | |",
        f"| – times smaller | {lora.both / planned.both:.0f} | >= 100 |",
    ]


def seven_billion_rows() -> list[str]:
    """LLaMA-7B at rank 8: 40 rounds that all ask a client, and a return after 30 missed rounds."""
    run = Run("dolly-llama", SEVEN_BILLION)
    planned = run_bytes(run.config, run.recipe, run.plan, 40)
    lora = plain_lora_bytes(run.config, run.recipe, run.plan, 40)
    down, up = run.messages(range(1, 41))
    back, _ = run.messages([1, 32])
    return [
        f"| LLaMA-7B, r = 8, 40 rounds, both ways, one client in every round, by plan (stage 1 included) | "
        f"{data_size(planned.both)} | <= 60 kB |",
        f"| – by serialized messages (without stage 1): up, down | {data_size(sum(up))}, {data_size(sum(down))} | |",
        f"| – plain LoRA under the same noise | {data_size(lora.both)} | |",
        f"| – the instruction after 30 missed rounds | {data_size(back[1])} | <= 25 kB |",
    ]


def rebuild_rows() -> list[str]:
    """SmolLM2-135M: CPU of the adapter's step from one sum, redraw and digest included, and of a local step."""
    run = Run("llm", {})
    layout = run.shape.layout
    terms = StepTerms(unit=1.0, denominator=50.0, factor=1.0, optimizer="sgd", learning_rate=0.1)
    codec = LinearCodec.of_form(layout, 256, 1)
    summed = RoundSum(1, 3, np.arange(256))
    optimizer = terms.start(torch.zeros(layout.size))
    kept, away = list[float](), list[float]()
    for epoch in range(1, REPEATS + 1):
        drawn = codec.redraw(epoch)
        for laps in (away, kept):  # first with a draw, as after a missed round; then with the one that encoded
            started = time.process_time()
            terms.advance(optimizer, [summed], lambda _, drawn=drawn: drawn)  # type: ignore[misc]
            adapter_digest(optimizer.adapter)
            laps.append(time.process_time() - started)
    step = _local_step(run.shape)
    return [
        f"| SmolLM2-135M, a client's rebuild over its local step ({BATCH} x {TOKENS} tokens, {1000 * step:,.0f} ms) | "
        f"{1000 * min(kept):.1f} ms, {min(kept) / step:.2%} | <= 2 % |",
        f"| – of each round that it missed | {1000 * min(away):.0f} ms, {min(away) / step:.1%} | |",
    ]


def _local_step(shape: Shape) -> float:
    """CPU seconds of a forward and a backward pass of the architecture, with weights of no meaning."""
    model = shape.model.to_empty(device="cpu").float()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokens = torch.randint(0, 1000, (BATCH, TOKENS))
    laps = []
    for _ in range(2):
        started = time.process_time()
        model(input_ids=tokens, labels=tokens).loss.backward()
        laps.append(time.process_time() - started)
    return min(laps)


def main() -> None:
    """Measure and print a table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    print("| quantity | value | goal |\n|---|---|---|")
    for rows in (demo_rows, seven_billion_rows, rebuild_rows):
        print("\n".join(rows()), flush=True)


if __name__ == "__main__":
    main_with_plain_errors(main)
