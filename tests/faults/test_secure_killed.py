"""Secure aggregation on real processes that are killed between its legs: no mask serves twice, no ε is understated."""

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config import RunConfig
from server_app.privacy.ledger import Ledger
from tests.faults.conftest import Field, wait_for

pytestmark = pytest.mark.faults
RUN_SECONDS = 1200.0
_TRAINED = re.compile(r"run=(\d+) round=(\d+) node=(\d+) answered (?:train|query\.statistics)")


def secure(field: Field, name: str, rounds: int = 3, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "privacy.trust": "secure",
        "privacy.dropouts": 1,
        "federation.round-timeout": 60.0,
        "federation.min-reply-rate": 0.5,
    }
    return field.config(name, rounds, **(settings | changes))


def worker_of(field: Field, site: str) -> psutil.Process:
    """The worker of a site that was started last: one of an app that was changed since may still be idle."""
    found = [int(path.read_text(encoding="utf-8")) for path in (field.federation.folder / "runtime").glob("*/*/worker")]
    living = [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]
    own = [worker for worker in living if f"/home/{site}" in worker.environ()["FLWR_HOME"]]
    return max(own, key=psutil.Process.create_time)


def end(worker: psutil.Process) -> None:
    """Kill it, unless it is gone: a ClientApp ends a worker whose answer would come too late."""
    with suppress(psutil.NoSuchProcess):
        worker.kill()


def check_masks(field: Field) -> None:
    """A site has written down each leg that it answered: under one key, none twice and none older."""
    path = Path(str(field.sites["west"].node_config["ledger-path"]) + ".exchanges")
    legs: dict[str, list[tuple[int, int]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, exchange, leg, _ = line.split()
        legs.setdefault(key, []).append((int(exchange), int(leg)))
    print(f"OBSERVED exchanges of west: {list(legs.values())}")
    assert legs
    for answered in legs.values():
        assert answered == sorted(set(answered))


def check_books(field: Field, name: str, *runs: int) -> Ledger:
    """No client has answered a round more often than it was charged for, and each sum has the noise that was."""
    ledger = Ledger(field.folder(name).ledger)
    answers: Counter[tuple[str, int]] = Counter()
    for site in field.sites:
        for run, number, node in _TRAINED.findall(field.log(f"{site}-superexec")):
            answers[node, int(number)] += int(run) in runs
    assert any(answers.values())
    for (_, number), times in answers.items():
        assert times <= ledger.rounds_charged(number)
    for row in field.folder(name).read_metrics():
        if row["round"] and not row.get("shortage"):
            assert row["noise_promised"] <= row["noise_present"]
    return ledger


def rows(field: Field, name: str) -> list[tuple[int, int]]:
    return [(row["round"], row.get("replies", 0)) for row in field.folder(name).read_metrics() if row["round"]]


def test_a_client_killed_in_the_first_leg_is_done_without_and_comes_back(field: Field) -> None:
    run = field.federation.submit(secure(field, "client"))
    field.wait_rounds("client", 1)
    frozen = worker_of(field, "north")
    frozen.suspend()  # it holds its message, and is killed over it
    wait_for(lambda: field.rounds_done("client") >= 2 or field.events("client", "round_repaired"), 600, "no repair")
    end(frozen)
    state = field.federation.wait(run, RUN_SECONDS)
    assert state["status"] == "finished:completed", field.federation.run_log(run)[-3000:]
    print(f"OBSERVED client killed: rounds {rows(field, 'client')}")
    assert rows(field, "client")[0] == (1, 3)
    assert rows(field, "client")[1] == (2, 2)
    assert field.events("client", "round_repaired")[0]["round"] == 2
    check_books(field, "client", run)
    check_masks(field)


def test_a_server_killed_between_the_legs_goes_on_with_keys_of_its_own(field: Field) -> None:
    run = field.federation.submit(secure(field, "server"))
    field.wait_rounds("server", 1)
    frozen = worker_of(field, "south")
    frozen.suspend()
    try:
        wait_for(lambda: field.events("server", "round_repaired"), 600, "no second leg")
        field.process("superlink-superexec", "flwr-serverapp").kill()
    finally:
        end(frozen)
    state = field.federation.wait(run, RUN_SECONDS)
    assert state["status"] != "finished:completed"
    again = field.federation.submit(secure(field, "server", resume=str(field.folder("server").path)))
    state = field.federation.wait(again, RUN_SECONDS)
    assert state["status"] == "finished:completed", field.federation.run_log(again)[-3000:]
    ledger = check_books(field, "server", run, again)
    report = json.loads((field.folder("server").path / "report.json").read_text(encoding="utf-8"))
    print(f"OBSERVED server killed: rounds {rows(field, 'server')}, {report['outcome']['stopped_because']}")
    assert ledger.rounds_charged(2) == 2, "it was asked twice, and is paid for twice"
    assert len(field.events("server", "keys_known")) == 2
    assert report["outcome"]["stopped_because"] == "privacy budget spent"
    check_masks(field)


def test_a_site_killed_between_the_legs_loses_the_round_and_no_more(field: Field) -> None:
    """Its SuperNode, worker and keys are gone: the second leg lacks one, and everybody gets new keys."""
    run = field.federation.submit(secure(field, "site", rounds=4))
    field.wait_rounds("site", 1)
    frozen, other = worker_of(field, "north"), worker_of(field, "west")
    frozen.suspend()
    answered = re.compile(rf"RUN {run}, ROUND [+]2\][^\n]*\n[^\n]*Sending: train[^\n]*\n[^\n]*Sent successfully")
    wait_for(lambda: answered.search(field.log("west")), 600, "west's answer to round 2 has not left")
    field.federation.processes.kill("west")
    end(other)
    field.wait_rounds("site", 2, 900.0)
    end(frozen)
    field.federation.start_node(field.sites["west"])
    state = field.federation.wait(run, RUN_SECONDS)
    print(f"OBSERVED site killed: rounds {rows(field, 'site')}")
    shortages = [row.get("shortage") for row in field.folder("site").read_metrics() if row["round"] == 2]
    assert state["status"] == "finished:completed", field.federation.run_log(run)[-3000:]
    assert "helped to do without" in str(shortages[0])
    assert len(field.events("site", "keys_known")) >= 2
    check_books(field, "site", run)
    check_masks(field)
