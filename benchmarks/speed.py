"""Speed of the demo, as ratios within one run: ``python -m benchmarks.speed`` (``make bench``).

1. CPU time of a simulated round through Flower against a plain PyTorch loop over the same clients in one process.
2. Privatizing (encode + clip + noise) against the local gradient.
3. Wall-clock and peak memory of all processes of the simulated run.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
import torch

from client_app.local_update import local_update
from client_app.release import release_gradient
from common.codecs import LinearCodec
from common.config import RunConfig
from common.data import private_tokens
from common.model.adapted import load_adapted_model
from common.privacy.mechanism import ReleaseTerms
from common.privacy.noise import RandomSource
from workbench.cli.command_line import main_with_plain_errors
from workbench.simulation.launcher import Resources, launch, read_preset

COHORT = 100
PEER_MILLISECONDS = 513.0  # CPU per client of the usual trainer-per-call pattern, same size of step


class TreeMeter(threading.Thread):
    """Samples CPU time and memory of all descendants of this process until stopped."""

    def __init__(self, metrics: Path) -> None:
        super().__init__(daemon=True)
        self._metrics = metrics
        self._stopped = threading.Event()
        self._cpu: dict[int, float] = {}
        self.peak_bytes = 0
        self.cpu_at_round: dict[int, float] = {}

    def run(self) -> None:
        """Sample until ``stop``: CPU time ten times a second, memory once, as reading it halts the process read."""
        tick = 0
        while not self._stopped.wait(0.1):
            self._sample_cpu()
            if tick % 10 == 0:
                self._sample_memory()
            tick += 1

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()
        self.join()

    def _sample_memory(self) -> None:
        memory = 0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory += process.memory_full_info().pss
        self.peak_bytes = max(self.peak_bytes, memory)

    def _sample_cpu(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                self._cpu[process.pid] = times.user + times.system
        rounds = len(self._metrics.read_text(encoding="utf-8").splitlines()) - 1 if self._metrics.exists() else -1
        if rounds >= 0:
            self.cpu_at_round.setdefault(rounds, sum(self._cpu.values()))


def plain_loop(rounds: int) -> dict[str, float]:
    """CPU milliseconds per client of the least that the work can cost, and of privatizing."""
    torch.set_num_threads(1)
    config = _config(rounds)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    tokens = [private_tokens(config.data, adapted.tokenizer, i, COHORT, config.seed) for i in range(COHORT)]
    adapter = adapted.adapter()
    codec = LinearCodec.of_form(adapted.layout, config.codec.size, config.seed)
    terms = ReleaseTerms(codec.size, 1.0, 1.5, "distributed", COHORT, True)
    source = RandomSource.system()
    gradient = local_update(adapted, adapter, tokens[0], config.train, 0)

    def one_round() -> None:
        total = torch.zeros_like(adapter)
        for client, examples in enumerate(tokens):
            total += local_update(adapted, adapter, examples, config.train, client)
        adapter.sub_(total, alpha=config.server.learning_rate / COHORT)

    def privatize() -> None:
        for _ in range(COHORT):
            release_gradient(gradient, codec, terms, source)

    return {"loop": _cpu_per_client(one_round, rounds), "privatize": _cpu_per_client(privatize, rounds)}


def simulated(rounds: int, cpus_per_client: int) -> dict[str, float]:
    """CPU milliseconds per client of a steady simulated round, wall-clock and peak memory of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        config = RunConfig.parse(_config(rounds).flat() | {"output.dir": scratch, "output.name": "speed"})
        folder = Path(scratch) / "speed"
        meter = TreeMeter(folder / "metrics.jsonl")
        meter.start()
        started = time.monotonic()
        with (Path(scratch) / "flower.log").open("w", encoding="utf-8") as log:
            launch(config, COHORT, Resources(2, cpus_per_client), log)
        seconds = time.monotonic() - started
        meter.stop()
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    warm, last = min(8, rounds - 3), rounds - 1  # from when every process holds every client's data to the evaluation
    cpu = (meter.cpu_at_round[last] - meter.cpu_at_round[warm]) / (last - warm)
    return {
        "round": 1000 * cpu / COHORT,
        "clients_per_second": COHORT / median(row["seconds"] for row in rows[warm + 1 : last + 1]),
        "seconds": seconds,
        "peak_gigabytes": meter.peak_bytes / 1e9,
    }


def _config(rounds: int) -> RunConfig:
    """The demo with everybody in every round and no evaluation inside the measured rounds."""
    fixed = {"num-server-rounds": rounds, "federation.num-clients": COHORT, "privacy.sampling-rate": 1.0}
    return RunConfig.parse(
        read_preset("demo") | fixed | {"evaluation.every": 10_000, "privacy.delta": 1e-5, "federation.max-in-flight": 0}
    )


def _cpu_per_client(work: Callable[[], None], repeats: int) -> float:
    work()
    laps = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        laps.append(time.process_time() - started)
    return 1000 * median(laps) / COHORT


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpus-per-client", type=int, default=1, help="2 on 2 cores: one client process at a time")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    before, flower, after = plain_loop(rounds), simulated(rounds, arguments.cpus_per_client), plain_loop(rounds)
    plain = {name: (before[name] + after[name]) / 2 for name in before}
    print(f"{COHORT} clients a round, {rounds} rounds, embedded model\n")
    print("| quantity | value | goal |\n|---|---|---|")
    print(f"| plain PyTorch loop, CPU ms per client | {plain['loop']:.1f} | |")
    print(f"| ... before and after the simulated run | {before['loop']:.1f}, {after['loop']:.1f} | |")
    print(f"| simulated round through Flower, CPU ms per client | {flower['round']:.1f} | |")
    print(f"| ratio | {flower['round'] / plain['loop']:.2f} | <= 1.6 |")
    print(f"| trainer-per-call peer (513 ms) over ours | {PEER_MILLISECONDS / flower['round']:.1f} | >= 15 |")
    print(f"| clients per second, wall-clock | {flower['clients_per_second']:.0f} | |")
    print(f"| privatizing over local gradient | {plain['privatize'] / plain['loop']:.1%} | <= 10 % |")
    print(f"| peak memory of all processes (PSS) | {flower['peak_gigabytes']:.2f} GB | <= 3 |")
    print(f"| wall-clock of the simulated run, start-up included | {flower['seconds']:.0f} s | |")


if __name__ == "__main__":
    main_with_plain_errors(main)
