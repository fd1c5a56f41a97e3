"""What a Prometheus reads of a run, and that the rules and the board ask for metrics that there are."""

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.app import Message
from prometheus_client.parser import text_string_to_metric_families

from common.wire.records import round_of, serialized_bytes
from server_app.results import monitor
from server_app.results.folder import RunFolder
from server_app.results.monitor import NAME, _failed_in_a_row
from server_app.rounds.cohort import FederationError
from server_app.run import run_federation
from tests.support.grids import NamedGrid, faulty
from tests.support.secure_runs import SECURE
from tests.support.strategy_runs import NOISY
from tests.support.tiny import CLIENTS, Files, run_tiny, tiny_config, tiny_grid

MONITORING = Path(__file__).parents[2] / "docker" / "monitoring"
OF_THE_APP = re.compile(r"dr_encoder_\w+")
QUIET: dict[str, Any] = {**NOISY, "strategy.name": "lora", "data.evaluation": "", "num-server-rounds": 3}


def samples(folder: RunFolder) -> dict[str, dict[str, float]]:
    """Value by site (``""`` where there is none) of every sample."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families((folder.path / NAME).read_text()):
        for sample in family.samples:
            assert sample.labels["run"] == folder.path.name
            found.setdefault(sample.name, {})[sample.labels.get("site", "")] = sample.value
    return found


def one(folder: RunFolder, name: str) -> float:
    return samples(folder)[f"dr_encoder_{name}"][""]


@pytest.fixture(scope="module")
def told(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Named sites, one of which never answers, over three rounds."""
    config = tiny_config(files, tmp_path_factory.mktemp("told"), QUIET)
    grid, looks = tiny_grid(config, NamedGrid), iter([frozenset[int](), frozenset[int]()])  # while it connects
    grid.looked = lambda: setattr(grid, "away", next(looks, frozenset({5})))
    return run_federation(grid, config, 7, plots=False)


def test_the_figures_are_those_of_the_round_lines(told: RunFolder) -> None:
    rows = [row for row in told.read_metrics() if row["round"]]
    for name, value in {
        "rounds_total": 3,
        "rounds_planned": 3,
        "rounds_left": 0,
        "rounds_short_total": 0,
        "replies_total": 3 * (CLIENTS - 1),
        "failures_total": 3,
        "bytes_up_total": sum(row["bytes_up"] for row in rows),
        "bytes_down_total": sum(row["bytes_down"] for row in rows),
        "epsilon_spent": rows[-1]["epsilon"],
        "epsilon_server": rows[-1]["epsilon_server"],
        "round_seconds": rows[-1]["seconds"],
        "failed_in_a_row": 0,
        "nodes_enrolled": CLIENTS,
        "nodes_online": CLIENTS - 1,
        "nodes_needed": CLIENTS / 2,
        "waiting": 0,
        "running": 0,
        "completed": 1,
        "failed": 0,
    }.items():
        assert one(told, name) == value, name
    assert one(told, "epsilon_spent") == pytest.approx(one(told, "epsilon_budget"), rel=1e-6), "all that was planned"


def test_bytes_are_those_of_every_private_evaluation(files: Files, tmp_path: Path) -> None:
    """That of the base model, in the row before the rounds, among them."""
    config = tiny_config(files, tmp_path, QUIET | {"evaluation.private": 0.2, "num-server-rounds": 2})
    grid = tiny_grid(config)
    folder = run_federation(grid, config, 7, plots=False)
    up, down = ([serialized_bytes(message.content) for message in found] for found in (grid.answered, grid.sent))
    assert len(up) == len(down) == 5 * CLIENTS, "two rounds, three evaluations"
    assert (one(folder, "bytes_up_total"), one(folder, "bytes_down_total")) == (sum(up), sum(down))
    assert one(folder, "rounds_total") == 2


class _Looking(NamedGrid):
    """Keeps what the file says when round 1 has begun."""

    seen: dict[str, dict[str, float]] | None = None
    folder = RunFolder(Path())

    def answer(self, message: Message) -> Message | None:
        if round_of(message) == 1 and self.seen is None:
            self.seen = samples(self.folder)
        return super().answer(message)


def test_stage_one_is_told_before_the_first_round_ends(files: Files, tmp_path: Path) -> None:
    changes = {
        "strategy.name": "dr-encoder",
        "stage-one.sampling-rate": 1.0,
        "num-server-rounds": 1,
        "output.name": "run",
    }
    config = tiny_config(files, tmp_path, QUIET | changes)
    grid = tiny_grid(config, _Looking)
    grid.folder = RunFolder(tmp_path / "run")
    run_federation(grid, config, 7, plots=False)
    assert grid.seen is not None
    assert len(grid.seen["dr_encoder_site_last_answer_timestamp_seconds"]) == CLIENTS
    for figure in ("epsilon_spent", "epsilon_server"):
        said = grid.seen[f"dr_encoder_{figure}"][""]
        assert said == one(grid.folder, figure) > 0, "a round is paid for when it begins, and so it is told"


def test_an_answer_to_a_key_set_up_is_an_answer(files: Files, tmp_path: Path) -> None:
    """Else a site is told as never heard of in a first round that takes hours."""
    config = tiny_config(files, tmp_path, QUIET | SECURE | {"num-server-rounds": 1, "output.name": "run"})
    grid = tiny_grid(config, _Looking)
    grid.folder = RunFolder(tmp_path / "run")
    run_federation(grid, config, 7, plots=False)
    assert grid.seen is not None
    assert len(grid.seen["dr_encoder_site_last_answer_timestamp_seconds"]) == CLIENTS


def test_a_file_that_cannot_be_written_anew_is_removed(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its epsilon stays below what the ledger has."""
    writes, write = iter(range(100)), monitor._write_private

    def fill(path: Path, content: bytes) -> None:
        write(path, content[:100])
        if next(writes) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(monitor, "_write_private", fill)
    folder = run_tiny(tiny_config(files, tmp_path, QUIET))
    assert next(writes) > 4
    assert not any((folder.path / name).exists() for name in (NAME, "metrics.new"))


def test_sites_are_called_by_their_names(told: RunFolder) -> None:
    found = samples(told)
    assert set(found["dr_encoder_site_rounds_unanswered"]) == {f"site-{node}" for node in range(1, CLIENTS + 1)}
    assert found["dr_encoder_site_rounds_unanswered"]["site-5"] == 3
    answered = found["dr_encoder_site_last_answer_timestamp_seconds"]
    assert "site-5" not in answered, "who has never answered has no time of it"
    assert len(answered) == CLIENTS - 1
    assert all(abs(when - one(told, "updated_timestamp_seconds")) < 300 for when in answered.values())


def test_the_file_is_the_owner_s_alone(told: RunFolder) -> None:
    assert stat.S_IMODE((told.path / NAME).stat().st_mode) == 0o600
    assert not list(told.path.glob("*.new"))


def test_a_run_that_fails_says_so(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, {**QUIET, "federation.max-failed-rounds": 2})
    with pytest.raises(FederationError):
        run_tiny(config, faulty(tiny_grid(config), raising=set(range(1, 7)), silent=set()))
    folder = RunFolder(tmp_path / "run")
    names = ("running", "failed", "failed_in_a_row", "rounds_short_total")
    assert [one(folder, name) for name in names] == [0, 1, 2, 2]


def test_a_round_that_asked_nobody_is_no_end_of_failed_ones() -> None:
    rows = [{"cohort": cohort, "shortage": said} for cohort, said in ((2, ""), (2, "x"), (0, ""), (1, "x"), (0, ""))]
    assert [_failed_in_a_row(rows[:number]) for number in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_run_that_waits_says_so_while_it_waits(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at from inside of the waiting."""
    config = tiny_config(files, tmp_path, {**QUIET, "federation.wait-timeout": 60.0})
    grid = tiny_grid(config, NamedGrid)
    folder, seen = RunFolder(tmp_path / "run"), []

    def leave() -> None:
        if folder.read_metrics():  # after the base model's row or a round: everybody is away once
            grid.away = frozenset(range(1, CLIENTS + 1)) if not seen else frozenset()

    def look(_: float) -> None:
        seen.append((one(folder, "waiting"), one(folder, "nodes_online")))

    grid.looked = leave
    monkeypatch.setattr("server_app.rounds.availability.time.sleep", look)
    run_federation(grid, config, 7, plots=False)
    assert seen[0] == (1, 0)
    assert one(folder, "waiting") == 0


def test_three_rules_and_a_board_ask_for_metrics_that_there_are(told: RunFolder) -> None:
    known = set(samples(told))
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    assert len(group["rules"]) >= 3
    for rule in group["rules"]:
        asked = set(OF_THE_APP.findall(rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= known, rule["alert"]
        assert {"summary", "description"} <= set(rule["annotations"])
    board = json.loads((MONITORING / "grafana.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert targets
    for expression in targets:
        asked = set(OF_THE_APP.findall(expression))
        assert asked, expression
        assert asked <= known, expression
    areas = [tuple(panel["gridPos"][key] for key in "xywh") for panel in board["panels"]]
    assert all(x + w <= 24 for x, _, w, _ in areas)
    assert len({panel["id"] for panel in board["panels"]}) == len(areas) == len(set(areas))
