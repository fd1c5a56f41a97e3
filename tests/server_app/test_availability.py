"""Nodes that vanish and come back: what a run charges meanwhile, how it waits, and whom it calls silent."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo

from common.config import FederationConfig, RunConfig
from common.wire.records import round_of
from server_app.log import read_events
from server_app.privacy.ledger import Ledger
from server_app.results.folder import RunFolder
from server_app.results.monitor import NAME
from server_app.rounds import availability
from server_app.rounds.availability import Attendance, site_names
from server_app.rounds.cohort import FederationError
from server_app.run import run_federation
from tests.support.grids import NamedGrid
from tests.support.stopping_runs import stopped_in
from tests.support.strategy_runs import NOISY
from tests.support.tiny import CLIENTS, Files, tiny_config, tiny_grid
from workbench.simulation.in_process import InProcessGrid
from workbench.watch.status import status

EVERYBODY = frozenset(range(1, CLIENTS + 1))


class Clock:
    """Time that passes only while somebody sleeps, with something that may happen each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.happens: Callable[[float], None] = lambda _: None
        passing = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep, time=lambda: 1e9 + self.now)
        monkeypatch.setattr(availability, "time", passing)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.pauses.append(seconds)
        self.happens(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def attendance(**changes: Any) -> Attendance:
    names = {node: f"site-{node}" for node in EVERYBODY}
    return Attendance(sorted(EVERYBODY), names, FederationConfig(**changes))


def outage(files: Files, tmp_path: Path, seconds: float, clock: Clock, **changes: Any) -> tuple[RunFolder, Any]:
    """A run of four private rounds: everybody vanishes while round 2 is under way, for so many seconds."""
    flat = {
        **NOISY, "num-server-rounds": 4, "strategy.name": "lora", "federation.wait-timeout": 3600.0,
        "data.evaluation": "", **changes,
    }  # fmt: skip
    config = tiny_config(files, tmp_path, flat)
    grid = tiny_grid(config, NamedGrid)
    answer = grid.answer

    def vanish(message: Message) -> Message | None:
        if round_of(message) == 2 and not clock.pauses:
            grid.away = EVERYBODY
        return answer(message)

    grid.answer = vanish  # type: ignore[method-assign]
    clock.happens = lambda now: setattr(grid, "away", EVERYBODY if now < seconds else frozenset())
    return RunFolder(tmp_path / "run"), lambda: run_federation(grid, config, 7, plots=False)


def test_an_outage_of_everybody_costs_time_and_at_most_one_charged_round(
    files: Files, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three minutes: the round that was under way is lost, the next is charged only when enough are back."""
    folder, run = outage(files, tmp_path, 180.0, clock)
    run()
    rows = [row for row in folder.read_metrics() if row["round"]]
    assert [row["replies"] for row in rows] == [6, 0, 6, 6]
    assert [Ledger(folder.ledger).rounds_charged(number) for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert clock.now >= 180.0
    events = [event for event in read_events(folder.events) if event["event"].startswith(("waiting", "nodes_are"))]
    told = [event for event in events if event["event"] == "waiting_for_nodes"]
    assert [(event["online"], event["needed"], event["round"]) for event in told] == [(0, 3, 3)] * len(told)
    assert 3 <= len(told) <= 4, "at once, then once a minute"
    assert events[-1]["event"] == "nodes_are_back"
    assert events[-1]["waited"] == pytest.approx(clock.now - 5.0, abs=0.1), "all but the pause after the failed round"
    said = capsys.readouterr().out
    assert (
        "WAITING: 0 of 6 enrolled nodes online, 3 are needed; missing: site-1, site-2, site-3, site-4, site-5" in said
    )
    assert "and 1 more. Nothing is charged" in said
    assert "6 of 6 enrolled nodes online again after 2:56: the run goes on" in said


def test_an_outage_beyond_the_limit_ends_the_run_uncharged_and_resumable(
    files: Files, tmp_path: Path, clock: Clock
) -> None:
    folder, run = outage(files, tmp_path, 1e9, clock, **{"federation.wait-timeout": 600.0})
    with pytest.raises(FederationError, match=r"0 of 6 .* for 600 s \(federation\.wait-timeout\).*round 3 was not cha"):
        run()
    assert sum(Ledger(folder.ledger).rounds_charged(number) for number in (1, 2, 3, 4)) == 2
    assert (folder.checkpoint / "latest").exists()
    assert read_events(folder.events)[-1]["event"] == "run_failed"


def test_stage_one_is_not_charged_before_enough_are_online_either(files: Files, tmp_path: Path, clock: Clock) -> None:
    """They were connected when the run began, and left while the base model was evaluated."""
    config = tiny_config(files, tmp_path, {**NOISY, "strategy.name": "dr-encoder", "federation.wait-timeout": 60.0})
    grid = tiny_grid(config, NamedGrid)
    looks = iter([frozenset(), frozenset()])  # connecting, names; then nobody
    grid.looked = lambda: setattr(grid, "away", next(looks, EVERYBODY))
    with pytest.raises(FederationError, match=r"stage 1 was not charged\. Start it anew"):
        run_federation(grid, config, plots=False)
    assert Ledger(tmp_path / "run" / "ledger.jsonl").charges == ()


def test_a_run_waits_no_longer_than_for_the_share_that_must_reply(clock: Clock) -> None:
    """Half of six: three that are online suffice, whoever they are; waiting asks nothing of a cohort."""
    said: list[str] = []
    watched = attendance(min_reply_rate=0.5)
    grid = named_only({4, 5, 6})
    watched.wait(grid, 1, said.append)
    assert (said, clock.pauses, watched.online) == ([], [], 3)
    grid.away = frozenset({3, 4, 5, 6})
    clock.happens = lambda _: setattr(grid, "away", frozenset({1, 2, 3}))
    watched.wait(grid, 2, said.append)
    assert len(clock.pauses) == 1
    assert watched.waiting is False


def named_only(away: Iterable[int]) -> NamedGrid:
    grid = NamedGrid(None, {}, CLIENTS)
    grid.away = frozenset(away)
    return grid


def test_failed_rounds_are_followed_by_pauses_that_double_up_to_a_limit(clock: Clock) -> None:
    def waited(watched: Attendance, failed: int) -> float:
        clock.pauses.clear()
        watched.wait(named_only(()), failed + 1, print, failed)
        return sum(clock.pauses)

    watched = attendance()
    pauses = [waited(watched, failed) for failed in range(10)]
    assert pauses == [0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    assert waited(attendance(wait_timeout=7.0), 2) == 7.0, "never longer than the run may wait at all"


def test_a_node_that_is_online_and_long_silent_is_told_by_name(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(availability, "log_event", lambda name, **fields: events.append((name, fields)))
    said: list[str] = []
    watched, grid = attendance(), named_only({6})
    for number in range(1, 6):
        watched.note(
            grid, number, said.append, [1, 2, 6], {2, 6}
        )  # 2 hangs, 6 is offline: only a hang needs somebody's hand
    assert [fields["rounds"] for _, fields in events] == [2, 3, 4, 5]
    assert {(name, fields["node"]) for name, fields in events} == {("node_silent", 2)}
    assert [line.split(" without")[0] for line in said] == [
        "WARNING: site-2 is online, 2 rounds",
        "WARNING: site-2 is online, 4 rounds",
    ]
    watched.note(grid, 6, said.append, [2], ())
    assert watched.unanswered == {6: 5}


def test_a_last_answer_is_that_of_an_enrolled_node_and_of_now(clock: Clock) -> None:
    watched = attendance()
    watched.heard([2, 0, 10**6])
    assert set(watched.last_answer) == {2}


def test_a_round_in_which_a_node_is_not_asked_counts_neither_way() -> None:
    watched = attendance()
    watched.note(named_only(()), 1, print, [1, 2], {1})
    watched.note(named_only(()), 2, print, [2], ())
    assert watched.unanswered == {1: 1}


def test_an_error_of_the_node_itself_is_an_answer_and_one_of_the_superlink_s_is_none(
    files: Files, tmp_path: Path, clock: Clock
) -> None:
    config = tiny_config(
        files, tmp_path, {"strategy.name": "lora", "data.evaluation": "", "federation.wait-timeout": 60.0}
    )
    grid = tiny_grid(config, NamedGrid)
    grid.away = frozenset({5})
    online = InProcessGrid.get_node_ids
    grid.get_node_ids = lambda: online(grid)  # type: ignore[method-assign]  # "online", as a hanging SuperNode is
    answer = grid.answer

    def failing(message: Message) -> Message | None:
        reply = answer(message)
        if message.metadata.dst_node_id != 2:
            return reply
        broken: Any = Message(Error(0, "MemoryError"), reply_to=message)
        return broken  # type: ignore[no-any-return]

    grid.answer = failing  # type: ignore[method-assign]
    folder = run_federation(grid, config, 7, plots=False)
    silent = [event for event in read_events(folder.events) if event["event"] == "node_silent"]
    assert [(event["node"], event["site"], event["rounds"], event["level"]) for event in silent] == [
        (5, "site-5", 2, "warning"),
        (5, "site-5", 3, "warning"),
    ]
    failed = [event for event in read_events(folder.events) if event["event"] == "node_failed"]
    assert {(event["node"], event["site"]) for event in failed} == {(2, "site-2"), (5, "site-5")}


def test_nodes_without_a_name_and_with_the_same_one_can_be_told_apart() -> None:
    class Some(InProcessGrid):
        def get_nodes(self) -> Iterable[NodeInfo]:
            names = {1: "north", 2: "south", 3: "south", 4: ""}
            return [NodeInfo(node_id=node, name=name) for node, name in names.items()]

    found = site_names(Some(None, {}, 4))  # type: ignore[arg-type]
    assert found == {1: "north", 2: "south (2)", 3: "south (3)"}
    assert Attendance([4], found, FederationConfig()).name_of(4) == "node 4"


def resuming(files: Files, tmp_path: Path) -> tuple[RunFolder, NamedGrid, Callable[[], Any]]:
    """A run that was stopped after round 2 of four, and goes on while site 5 is away; it is waited for 300 s."""
    changes = {
        "num-server-rounds": 4,
        "strategy.name": "lora",
        "data.evaluation": "",
        "federation.connect-timeout": 300.0,
    }
    config = tiny_config(files, tmp_path, NOISY | changes)
    folder = stopped_in(config, 2)
    again = RunConfig.parse(config.flat() | {"resume": str(folder.path)})
    grid = tiny_grid(again, NamedGrid)
    grid.away = frozenset({5})
    return folder, grid, lambda: run_federation(grid, again, 8, plots=False)


def figures(folder: RunFolder) -> list[str]:
    """What metrics.prom tells of the state of a run."""
    told = (folder.path / NAME).read_text(encoding="utf-8").splitlines()
    names = ("waiting", "running", "failed", "nodes_enrolled", "nodes_online", "nodes_needed")
    return [line for name in names for line in told if line.startswith(f'dr_encoder_{name}{{run="run"}} ')]


def state(*values: int) -> list[str]:
    names = ("waiting", "running", "failed", "nodes_enrolled", "nodes_online", "nodes_needed")
    return [f'dr_encoder_{name}{{run="run"}} {value}.0' for name, value in zip(names, values, strict=True)]


def test_a_resumed_run_that_waits_for_its_sites_holds_its_folder_and_says_so(
    files: Files, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was shown as killed, and its files said that it was running."""
    folder, grid, run = resuming(files, tmp_path)
    seen: list[tuple[Any, ...]] = []

    def come_back(now: float) -> None:
        found = status(folder.path, 1e10)
        seen.append((folder.is_held(), found["state"], found["detail"], figures(folder)))
        grid.away = frozenset({5} if now < 100 else ())

    clock.happens = come_back
    run()
    detail = "5 of the 6 nodes that are needed are online; nothing is charged"
    assert seen == [(True, "waiting", detail, state(1, 1, 0, 6, 5, 6))] * 50
    events = [event for event in read_events(folder.events) if event["run"] == 8]
    assert [event["event"] for event in events[:4]] == ["run_resumed", *["waiting_for_nodes"] * 2, "nodes_are_back"]
    assert {(event["round"], event["online"]) for event in events[1:3]} == {(3, 5)}
    assert [row["replies"] for row in folder.read_metrics() if row["round"]] == [CLIENTS] * 4
    assert 'site="site-5"' in (folder.path / NAME).read_text(encoding="utf-8"), "names are those of who has come"
    assert "WAITING: 5 of 6 enrolled nodes online, 6 are needed. Nothing is charged" in capsys.readouterr().out


def test_a_resumed_run_whose_sites_do_not_come_has_failed_and_says_what_helps(
    files: Files, tmp_path: Path, clock: Clock
) -> None:
    folder, _, run = resuming(files, tmp_path)
    before = Ledger(folder.ledger).charges
    with pytest.raises(FederationError, match=r"planned for 6 clients, 5 of them connected within 300 s ") as failure:
        run()
    assert "num-clients" not in str(failure.value), "another number is refused on a resume"
    last = read_events(folder.events)[-1]
    assert (last["event"], last["run"], last["reason"]) == ("run_failed", 8, str(failure.value))
    assert figures(folder) == state(0, 0, 1, 6, 5, 6)
    assert status(folder.path, 1e10)["state"] == "failed"
    assert Ledger(folder.ledger).charges == before
    assert clock.now == pytest.approx(300, abs=2)


def test_a_resumed_run_that_waits_for_its_sites_can_be_stopped(files: Files, tmp_path: Path, clock: Clock) -> None:
    folder, _, run = resuming(files, tmp_path)
    clock.happens = lambda _: folder.ask_to_stop()
    run()
    assert clock.pauses == [2.0]
    assert status(folder.path, 1e10)["state"] == "stopped"


def test_a_new_run_whose_sites_do_not_come_leaves_no_folder(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path / "results")
    grid = tiny_grid(config, NamedGrid)
    grid.away = frozenset({5})
    with pytest.raises(FederationError, match="only 5 clients connected"):
        run_federation(grid, config, plots=False)
    assert not (tmp_path / "results").exists()
