"""One private client at the size of LLaMA-7B: ``python -m benchmarks.gpu`` on a CUDA card, ``--small`` anywhere.

Random weights in LLaMA-7B's layout (bfloat16, and 4-bit by bitsandbytes), LoRA of rank 8 on q, k, v and o. Measured,
with the device synchronized: one local step; encode with a new draw of the projection, encode alone, clip and noise;
decode.
The projection's bandwidth is the bytes that it must read (vector, permutation, signs) over its time, next to the card's
measured copy bandwidth. Prints one Markdown table, each row as soon as it is measured.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from client_app.local_update import local_update
from client_app.release import release_gradient
from common.codecs import LinearCodec
from common.config import LoraConfig, ModelConfig, TrainConfig
from common.data import TokenizedExamples
from common.demo.model import load_tokenizer
from common.model.adapted import AdaptedModel, assemble
from common.model.base import COMPUTE_DTYPE, prepare
from common.privacy.mechanism import ReleaseTerms
from common.privacy.noise import RandomSource
from workbench.cli.command_line import main_with_plain_errors
from workbench.planning.architectures import PUBLISHED, quantizable

SMALL = LlamaConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=512)
_READ_BYTES = 4 + 8 + 4  # per adapter value: float32 vector, int64 permutation, float32 signs
_SHARES = 5


@dataclass(frozen=True)
class Lap:
    """Seconds (median) and peak bytes of some work; bytes are ``None`` where they cannot be measured."""

    seconds: float
    peak: int | None


def measure(work: Callable[[], object], device: torch.device, repeats: int) -> Lap:
    """Run ``work`` once to warm up, then ``repeats`` times."""
    work()
    laps = []
    _reset_peak(device)
    for _ in range(repeats):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        laps.append(time.perf_counter() - started)
    return Lap(median(laps), _peak(device))


def copy_bandwidth(device: torch.device, values: int, repeats: int) -> float:
    """Bytes read and written per second by a copy of ``values`` float32 values."""
    source = torch.ones(values, device=device)
    target = torch.empty_like(source)
    return 8 * values / measure(lambda: target.copy_(source), device, repeats).seconds


def random_base(config: LlamaConfig, quantization: Literal["none", "4"], device: torch.device) -> PreTrainedModel:
    """A model with random weights on ``device``: bfloat16, or with linear layers in bitsandbytes' 4-bit format."""
    torch.manual_seed(0)
    with torch.device(device):
        base: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if quantization == "4":
        _quantize(base, device)
    settings = ModelConfig(name="random", quantization=quantization, dtype="bfloat16", gradient_checkpointing=True)
    return prepare(base, settings, device)


def _quantize(base: PreTrainedModel, device: torch.device) -> None:
    from bitsandbytes import nn as quantized  # noqa: PLC0415 - slow to import

    linear = {id(module) for module in quantizable(base)}
    for parent in list(base.modules()):
        for name, module in list(parent.named_children()):
            if id(module) in linear and isinstance(module, nn.Linear):
                layer = quantized.Linear4bit(  # type: ignore[attr-defined]
                    module.in_features, module.out_features, bias=False, compute_dtype=COMPUTE_DTYPE, device="meta"
                )
                layer.weight = quantized.Params4bit(  # type: ignore[attr-defined]
                    module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer
                )
                setattr(parent, name, layer.to(device))
    base.is_loaded_in_4bit = True  # type: ignore[assignment]


def local_step(adapted: AdaptedModel, batch: int, length: int) -> Callable[[], Tensor]:
    """One local step on a batch of random tokens."""
    vocabulary = int(adapted.model.config.vocab_size)
    tokens = torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))
    examples = TokenizedExamples(tokens, torch.ones_like(tokens), tokens)
    train = TrainConfig(local_steps=1, batch_size=batch)
    return lambda: local_update(adapted, adapted.initial, examples, train, 1)


def rows_of(adapted: AdaptedModel, name: str, arguments: argparse.Namespace) -> Iterator[str]:
    """The table's rows for one model, as they are measured; codes larger than its adapter are left out."""
    device, repeats = adapted.device, arguments.repeats
    size = adapted.layout.size
    copy = copy_bandwidth(device, max(size, 1 << 20) * arguments.copy_factor, repeats)
    step = measure(local_step(adapted, arguments.batch, arguments.length), device, repeats)
    gradient = adapted.gradient() + 1e-4
    yield _row(name, f"local step, {arguments.batch} x {arguments.length} tokens", step)
    for k in (k for k in arguments.codes if k <= size):
        codec = LinearCodec.of_form(adapted.layout, k, 1)
        terms = ReleaseTerms(k, 1.0, 1.0, "distributed", _SHARES, True)
        code = codec.encode(gradient)
        epochs = iter(range(1, 10_000))
        drawn = measure(lambda c=codec, e=epochs: c.redraw(next(e)).encode(gradient), device, repeats)  # type: ignore[misc]
        encoded = measure(lambda c=codec: c.encode(gradient), device, repeats)  # type: ignore[misc]
        privatized = measure(
            lambda c=codec, t=terms, e=epochs: release_gradient(gradient, c.redraw(next(e)), t, RandomSource.system()),  # type: ignore[misc]
            device,
            repeats,
        )
        decoded = measure(lambda c=codec, v=code: c.decode(v), device, repeats)  # type: ignore[misc]
        achieved = _READ_BYTES * size / encoded.seconds
        yield _row(name, f"draw + encode, k = {k:,}", drawn)
        yield _row(name, f"encode, k = {k:,}", encoded, f"{achieved / copy:.0%} of the copy's {copy / 1e9:,.0f} GB/s")
        yield _row(
            name,
            f"draw + encode + clip + noise, k = {k:,}",
            privatized,
            f"{privatized.seconds / step.seconds:.2%} of the local step (goal: 1 %)",
        )
        yield _row(name, f"decode, k = {k:,}", decoded)


def _row(name: str, what: str, lap: Lap, note: str = "") -> str:
    peak = "" if lap.peak is None else f"{lap.peak / 1e9:.2f} GB"
    return f"| {name} | {what} | {lap.seconds:.4g} s | {peak} | {note} |"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak(device: torch.device) -> int | None:
    """Peak memory since the reset: of the allocator on a GPU, of the process on a Linux CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform != "linux":
        return None
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def main(options: Sequence[str] | None = None) -> str:
    """Measure, print and return the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="two narrow layers: seconds on a CPU")
    parser.add_argument("--quantization", nargs="+", choices=["none", "4"], default=["none", "4"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--codes", type=int, nargs="+", default=[256, 4096, 65_536])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copy-factor", type=int, default=16, help="size of the measured copy over the adapter")
    arguments = parser.parse_args(options)
    device = torch.empty(0, device=arguments.device).device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    lines: list[str] = []
    _print_row(lines, f"| {card} | work | median | peak memory | |")
    _print_row(lines, "|---|---|---|---|---|")
    for quantization in arguments.quantization:
        config = SMALL if arguments.small else PUBLISHED["huggyllama/llama-7b"]
        base = random_base(config, quantization, device)  # type: ignore[arg-type]  # both are Llama configurations
        adapted = assemble(base, load_tokenizer(), LoraConfig(), 1, device)
        for row in rows_of(adapted, "bfloat16" if quantization == "none" else "4-bit", arguments):
            _print_row(lines, row)
        del base, adapted
    return "\n".join(lines)


def _print_row(lines: list[str], row: str) -> None:
    print(row, flush=True)
    lines.append(row)


if __name__ == "__main__":
    main_with_plain_errors(main)
