"""Cost of secure aggregation, and what time tells of a coin: ``python -m benchmarks.secure_rounds`` (``make bench``).

1. CPU of a round of 100 clients in this process (``--engine inline``), ``secure`` over ``distributed``.
2. CPU of masking one message, and bytes up: what a client sends.
3. Run times of answers on heads and on tails, by who computes either way (a site with its own data) and by who does not
   (a simulated client, which shows that the observer can see). AUC: how often it ranks tails as the quicker one.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from scipy.stats import mannwhitneyu

from client_app.app import gradient_of, make_app
from client_app.new_site_key import main as new_site_key
from client_app.seat import Seat
from client_app.secure import lands_heads
from client_app.site import Site
from client_app.site_ledger import create_ledger
from common.config import RunConfig, Scalar
from common.secure.directory import Directory, to_bitmap
from common.secure.keys import KEY_BYTES, NO_SITE, new_private_key, public_key, site_name
from common.secure.masks import masked
from common.wire.digest import app_digest
from common.wire.records import TRAIN, pack_instruction
from common.wire.secure import (
    KEYS,
    PEERS,
    SecureTask,
    bits_of,
    pack_directory,
    pack_masked,
    pack_request,
    unpack_key,
    with_secure,
)
from server_app.results.console import ConsoleLog
from server_app.results.units import data_size
from server_app.rounds.secure import bytes_of_answer, set_up_bytes
from server_app.rounds.state import RoundSummary
from server_app.run import plan_run, run_federation
from server_app.strategies import recipe_of
from server_app.strategies.tasks import round_task
from workbench.cli.command_line import main_with_plain_errors
from workbench.planning.architectures import shape_of
from workbench.simulation.cohort_grid import grid_for
from workbench.simulation.launcher import read_preset

CLIENTS, MEMBERS, ROWS = 100, 5, 64
LAPS = 200  # of masking
RATES = (0.2, 1.0)


def config_of(trust: str, rate: float, clients: int = CLIENTS, **changes: Scalar) -> RunConfig:
    """The demo with so many clients, not evaluated inside the measured rounds."""
    fixed: dict[str, Scalar] = {
        "federation.num-clients": clients, "federation.max-in-flight": 0, "privacy.trust": trust,
        "privacy.sampling-rate": rate, "privacy.delta": 1e-5, "evaluation.every": 10_000,
    }  # fmt: skip
    return RunConfig.parse(read_preset("demo") | fixed | changes)


# ------------------------------------------------------------------------------------------------------- a round


@dataclass
class Laps(ConsoleLog):
    """Says nothing; notes the CPU time at the end of each round."""

    ends: list[float] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        """Nothing is printed."""

    def round(self, summary: RoundSummary, *_: object) -> None:
        """The end of one, before the evaluation of the last."""
        self.ends.append(time.process_time())


def cpu_of_rounds(trust: str, rate: float, rounds: int) -> list[float]:
    """CPU seconds of each round but the first, with whose data and keys a run begins, and the last: it is evaluated."""
    with tempfile.TemporaryDirectory() as scratch:
        place: dict[str, Scalar] = {"output.dir": scratch, "output.name": "run", "num-server-rounds": rounds + 2}
        config, laps = RunConfig.parse(config_of(trust, rate).flat() | place), Laps()
        run_federation(grid_for(config, CLIENTS), config, plots=False, say=laps)
    return np.diff(laps.ends[:-1]).tolist()


def round_rows(rounds: int) -> list[str]:
    """Both trust models in turn, twice: this machine's speed drifts."""
    rows = []
    for rate in RATES:
        found: dict[str, list[float]] = {"distributed": [], "secure": []}
        for trust in [*found] * 2:
            found[trust] += cpu_of_rounds(trust, rate, rounds)
        plain, secure = mean(found["distributed"]), mean(found["secure"])
        error = secure / plain * np.hypot(*(stdev(laps) / len(laps) ** 0.5 / mean(laps) for laps in found.values()))
        rows += [
            f"| round of {CLIENTS} clients, p = {rate:g}, CPU: distributed, secure | "
            f"{1000 * plain:,.0f}, {1000 * secure:,.0f} ms | |",
            f"| – secure over distributed | {secure / plain:.2f} ± {error:.2f} | <= 1.5 |",
        ]
    return rows


# --------------------------------------------------------------------------------------------------- one message


def message_rows() -> list[str]:
    """CPU and bytes of one answer of 256 values."""
    rows = []
    for peers in (64, 99):
        config = config_of("secure", 0.2, peers + 1)
        shape = shape_of(config.model, config.lora)
        recipe = recipe_of(config, shape.layout)
        plan = plan_run(config, recipe, peers + 1)
        task = round_task(config.server, recipe, plan, 1, sums=True)
        secrets = tuple(os.urandom(KEY_BYTES) for _ in range(peers))
        seat = Seat(os.urandom(KEY_BYTES), place=peers // 2, members=peers + 1, secrets=secrets)
        values, bits, everybody = np.zeros(task.terms.size, np.int64), bits_of(task.terms), set(range(peers + 1))
        laps = list[float]()
        for exchange in range(LAPS):
            secure = SecureTask(exchange, 0.2, peers, to_bitmap(everybody, peers + 1))
            entered = seat.entered(task, secure)
            started = time.process_time()
            pack_masked(masked(values, entered.masks(), bits), exchange, bits)
            laps.append(time.process_time() - started)
        goal = "<= 2 ms" if peers == 64 else ""
        rows.append(
            f"| masking a message of {task.terms.size} values, {peers} peers | {1000 * median(laps):.2f} ms | {goal} |"
        )
    up, down = set_up_bytes(CLIENTS)
    return [
        *rows,
        f"| its bytes up, {CLIENTS} clients, {bits} bits a value | {bytes_of_answer(task.terms)} B | <= 720 B |",
        f"| key set-up, once a run, up and down | {data_size(up)}, {data_size(down)} | |",
        f"| – both ways, a pair | {(up + down) / (CLIENTS - 1):.1f} B | <= 40 B |",
    ]


# ------------------------------------------------------------------------------------------------- heads or tails


class Timed:
    """One client, the others of which exist by their keys alone; each answer is timed, its coin noted."""

    def __init__(self, node: dict[str, Any], names: list[bytes]) -> None:
        self.config = config_of("secure", 0.5, MEMBERS)
        self.context = Context(
            run_id=7, node_id=1, node_config=node, state=RecordDict(), run_config=self.config.flat(), series_id=0
        )
        self.coins: list[bool] = []
        self.app = make_app(gradient_of, coin=self._coin)
        self.adapted = Site.of(self.context).model()
        self.recipe = recipe_of(self.config, self.adapted.layout)
        plan = plan_run(self.config, self.recipe, MEMBERS)
        self.task = round_task(self.config.server, self.recipe, plan, 1, sums=False)
        own = unpack_key(self._asked(pack_request(app_digest()), KEYS).content)
        others = [(public_key(new_private_key()), name) for name in names]
        self._asked(pack_directory(Directory((own, *others)), app_digest()), PEERS)

    def answers(self, count: int) -> tuple[list[float], list[float]]:
        """Seconds of answers on tails and on heads, the first few left out."""
        everybody, seconds = to_bitmap(set(range(MEMBERS)), MEMBERS), list[float]()
        plain = pack_instruction(self.adapted.initial, self.recipe.encoder.spec, self.task)
        self.coins.clear()
        for exchange in range(count + 5):
            message = _message(with_secure(plain, SecureTask(exchange, 0.5, MEMBERS, everybody)), TRAIN)
            started = time.perf_counter()
            self.app(message, self.context)
            seconds.append(time.perf_counter() - started)
        found: tuple[list[float], list[float]] = ([], [])
        for heads, lap in list(zip(self.coins, seconds, strict=True))[5:]:
            found[heads].append(lap)
        return found

    def _coin(self, site: Site, round_index: int, rate: float) -> bool:
        self.coins.append(lands_heads(site, round_index, rate))
        return self.coins[-1]

    def _asked(self, content: RecordDict, kind: str) -> Message:
        return self.app(_message(content, kind), self.context)


def _message(content: RecordDict, kind: str) -> Message:
    """A server's message as a SuperNode hands it to a ClientApp."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    message = Message(content=content, dst_node_id=1, message_type=kind, ttl=60.0, group_id="1")
    message.metadata.__dict__["_message_id"] = "asked"
    return message


def site_with_data(folder: Path) -> Timed:
    """A client with rows, ledger and keys of its own."""
    rows = [{"prompt": f"the sum of {n} and 3 is", "completion": f" {n + 3}"} for n in range(ROWS)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    create_ledger(folder / "ledger.jsonl")
    new_site_key([str(folder / "key")])
    pinned = [public_key(new_private_key()) for _ in range(MEMBERS - 1)]
    (folder / "peers").write_text("".join(f"{key.hex()} site-{n}\n" for n, key in enumerate(pinned)), encoding="utf-8")
    files = {"data-path": "own.jsonl", "ledger-path": "ledger.jsonl", "site-key": "key", "peers": "peers"}
    node = {key: str(folder / name) for key, name in files.items()}
    return Timed({**node, "max-epsilon": 0.0, "max-releases": 0}, [site_name(key) for key in pinned])


def observer(tails: list[float], heads: list[float]) -> tuple[float, float]:
    """AUC of who calls the quicker answers tails, and its standard error where both are alike (Mann-Whitney)."""
    few, many = len(tails), len(heads)
    area = float(mannwhitneyu(heads, tails).statistic) / (few * many)
    return area, ((few + many + 1) / (12 * few * many)) ** 0.5


def observer_rows(count: int) -> list[str]:
    """Run times of a site that computes and discards, and of a client that does not."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        simulated: Callable[[], Timed] = lambda: Timed(  # noqa: E731
            {"partition-id": 0, "num-partitions": MEMBERS}, [NO_SITE] * (MEMBERS - 1)
        )
        for who, make, goal in (
            ("a site with its own data", lambda: site_with_data(Path(scratch)), "0.5"),
            ("a simulated client, which skips the work", simulated, ""),
        ):
            tails, heads = make().answers(count)
            area, error = observer(tails, heads)
            rows += [
                f"| run time of an answer, {who}: tails | {_with_error(tails)} | |",
                f"| – heads | {_with_error(heads)} | |",
                f"| – AUC of who calls the quicker answers tails | {area:.3f} ± {error:.3f} | {goal} |",
            ]
    return rows


def _with_error(seconds: list[float]) -> str:
    return f"{1000 * mean(seconds):.2f} ± {1000 * stdev(seconds) / len(seconds) ** 0.5:.2f} ms (n = {len(seconds)})"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measured in each of two runs")
    parser.add_argument("--answers", type=int, default=1000, help="timed at each of both clients")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    print("| quantity | value | goal |\n|---|---|---|")
    print("\n".join(message_rows()), flush=True)
    print("\n".join(observer_rows(arguments.answers)), flush=True)
    print("\n".join(round_rows(arguments.rounds)), flush=True)


if __name__ == "__main__":
    main_with_plain_errors(main)
