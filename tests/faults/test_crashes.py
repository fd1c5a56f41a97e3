"""Processes killed while a run is on: what the run makes of it, and that the ledger is never below the truth."""

import json
import signal
import time

import psutil
import pytest

from tests.faults.conftest import Field, has_ended, wait_for
from workbench.deployment.federation import Site

pytestmark = pytest.mark.faults
RUN_SECONDS = 1200.0


def completed(field: Field, run: int) -> None:
    state = field.federation.wait(run, RUN_SECONDS)
    assert state["status"] == "finished:completed", field.federation.run_log(run)[-3000:]


def rows(field: Field, name: str) -> list[tuple[int, int]]:
    """Round and number of releases that went into it."""
    return [(row["round"], row.get("replies", 0)) for row in field.folder(name).read_metrics() if row["round"]]


def test_a_superlink_killed_and_back_ends_no_run(field: Field) -> None:
    run = field.federation.submit(field.config("superlink", rounds=3))
    field.wait_rounds("superlink", 1)
    field.federation.processes.kill("superlink")
    time.sleep(3)
    field.federation.start_superlink()
    completed(field, run)
    print(f"OBSERVED superlink killed: rounds {rows(field, 'superlink')}")
    assert rows(field, "superlink") == [(1, 3), (2, 3), (3, 3)]
    field.check_books("superlink", run)


def test_a_client_process_killed_at_its_start_is_replaced_by_flower(field: Field) -> None:
    run = field.federation.submit(field.config("early", rounds=2))
    field.wait_rounds("early", 1)
    field.process("north-superexec", "deployment.clientapp", born_after=time.time()).send_signal(signal.SIGKILL)
    completed(field, run)
    assert rows(field, "early") == [(1, 3), (2, 3)]
    field.check_books("early", run)


def test_a_client_process_killed_while_its_worker_is_frozen_costs_the_round_one_reply(field: Field) -> None:
    run = field.federation.submit(field.config("client", rounds=3))
    field.wait_rounds("client", 1)
    frozen = [worker for worker in map(psutil.Process, workers(field)) if is_of(worker, field, "north")]
    assert len(frozen) == 1
    frozen[0].suspend()  # a computation that takes long
    try:
        client = field.process("north-superexec", "deployment.clientapp", born_after=time.time())
        time.sleep(20)
        client.kill()
    finally:
        frozen[0].resume()
    completed(field, run)
    print(f"OBSERVED client killed: rounds {rows(field, 'client')}: {failures(field, 'client')}")
    assert rows(field, "client")[1] == (2, 2)
    assert rows(field, "client")[-1] == (3, 3), "the site is back"
    field.check_books("client", run)


def workers(field: Field) -> list[int]:
    """Process ids of the living workers."""
    found = [int(path.read_text()) for path in (field.federation.folder / "runtime").glob("*/*/worker")]
    return [pid for pid in found if psutil.pid_exists(pid)]


def is_of(worker: psutil.Process, field: Field, site: str) -> bool:
    return f"/home/{site}" in worker.environ()["FLWR_HOME"]


def failures(field: Field, name: str) -> list[str]:
    return [row["failure"] for row in field.folder(name).read_metrics() if row.get("failure")]


def test_a_worker_killed_between_rounds_costs_nothing(field: Field) -> None:
    run = field.federation.submit(field.config("worker", rounds=2))
    field.wait_rounds("worker", 1)
    pids = workers(field)
    assert len(pids) == 3
    psutil.Process(pids[0]).kill()
    completed(field, run)
    assert rows(field, "worker") == [(1, 3), (2, 3)]
    field.check_books("worker", run)


def test_a_server_app_killed_in_a_round_is_resumed(field: Field) -> None:
    config = field.config("server", rounds=3)
    first = field.federation.submit(config)
    wait_for(lambda: field.round_has_started("server", 2), 900, "no second round")
    field.process("superlink-superexec", "flwr-serverapp").kill()
    assert field.rounds_done("server") == 1, "round 2 ended before the ServerApp was killed"
    state = field.federation.wait(first, RUN_SECONDS)
    print(f"OBSERVED ServerApp killed: {state['status']}, {state['status-details']}")
    assert state["status"] != "finished:completed"
    assert field.check_books("server", first).rounds_charged(2) == 1
    second = field.federation.submit(field.config("server", rounds=3, resume=str(field.folder("server").path)))
    completed(field, second)
    ledger = field.check_books("server", first, second)
    report = json.loads((field.folder("server").path / "report.json").read_text())
    print(f"OBSERVED resumed: {report['outcome']['stopped_because']}, rounds {rows(field, 'server')}")
    assert ledger.rounds_charged(2) == 2, "the round was run twice and is paid for twice"
    assert rows(field, "server") == [(1, 3), (2, 3)]
    assert report["outcome"]["stopped_because"] == "privacy budget spent"


def test_a_supernode_killed_and_back_costs_the_round_one_reply(field: Field) -> None:
    """How soon the server counts on it again is Flower's affair: round 2 is without it, the last of six is not."""
    run = field.federation.submit(field.config("node", rounds=6))
    field.wait_rounds("node", 1)
    field.federation.processes.kill("south")
    field.wait_rounds("node", 2, 900)
    field.federation.start_node(field.sites["south"])
    completed(field, run)
    print(f"OBSERVED SuperNode killed: rounds {rows(field, 'node')}: {failures(field, 'node')}")
    assert rows(field, "node")[:2] == [(1, 3), (2, 2)]
    assert rows(field, "node")[-1] == (6, 3), "the node is back and replies again"
    field.check_books("node", run)


def test_a_node_that_never_answers_costs_its_reply_and_the_round_s_time_out(field: Field) -> None:
    run = field.federation.submit(field.config("silent", rounds=2, **{"federation.round-timeout": 60.0}))
    wait_for((field.folder("silent").checkpoint / "latest").exists, 600, "no stage 1")
    frozen = psutil.Process(field.federation.processes.pid("west"))
    frozen.suspend()
    try:
        completed(field, run)
    finally:
        frozen.resume()
    print(f"OBSERVED silent: rounds {rows(field, 'silent')}: {failures(field, 'silent')}")
    assert rows(field, "silent")[-1] == (2, 2)
    field.check_books("silent", run)


def test_a_site_that_refuses_is_heard_and_the_others_go_on(field: Field) -> None:
    field.federation.processes.stop("west")
    site = field.sites["west"]
    field.federation.start_node(Site("west", {**site.node_config, "max-clip-norm": 0.001}))
    run = field.federation.submit(field.config("refusal", rounds=1))
    completed(field, run)
    field.federation.processes.stop("west")
    field.federation.start_node(site)
    print(f"OBSERVED refusal: rounds {rows(field, 'refusal')}: {failures(field, 'refusal')}")
    assert rows(field, "refusal") == [(1, 2)]
    assert "above its max-clip-norm = 0.001" in failures(field, "refusal")[0]
    field.check_books("refusal", run)


def test_two_runs_at_once_end_with_books_of_their_own(field: Field) -> None:
    names = ("one", "two")
    runs = [field.federation.submit(field.config(name, rounds=4)) for name in names]
    for run in runs:
        completed(field, run)
    first_end = min(field.when(name, "run_ended") for name in names)
    assert max(field.when(name, "run_started") for name in names) < first_end, "one was over before the other began"
    for name, run in zip(names, runs, strict=True):
        assert rows(field, name) == [(number, 3) for number in range(1, 5)]
        field.check_books(name, run)


def test_a_site_s_superexec_killed_in_mid_message_costs_one_reply_and_hangs_no_supernode(field: Field) -> None:
    """Its ClientApp ends with it. Flower's SuperNode would wait for that answer for ever, were it not given one."""
    run = field.federation.submit(field.config("superexec", rounds=3))
    field.wait_rounds("superexec", 1)
    (frozen,) = [worker for worker in map(psutil.Process, workers(field)) if is_of(worker, field, "south")]
    frozen.suspend()  # so that the message is under way
    try:
        client = field.process("south-superexec", "deployment.clientapp", born_after=time.time())
        wait_for(lambda: connected(client), 120, "the ClientApp never came to its worker")
        field.federation.processes.kill("south-superexec")
        wait_for(lambda: has_ended(client), 60, "the ClientApp outlived its superexec")
    finally:
        frozen.resume()
    field.federation.start_superexec(field.sites["south"])
    completed(field, run)
    print(f"OBSERVED superexec killed: rounds {rows(field, 'superexec')}: {failures(field, 'superexec')}")
    assert rows(field, "superexec") == [(1, 3), (2, 2), (3, 3)]
    assert "Stopped" in failures(field, "superexec")[0]
    field.check_books("superexec", run)


def connected(client: psutil.Process) -> bool:
    """Whether a ClientApp has opened its connection to the resident worker."""
    return any(connection.status == psutil.CONN_NONE for connection in client.net_connections(kind="unix"))
