"""What a resumed run keeps, charges and refuses; that it ends where a whole one ends: test_every_strategy.py."""

import json
import math
import os
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from flwr.app import MetricRecord
from typer.testing import CliRunner

from client_app.app import app as client_app
from common.config import ConfigError, RunConfig, nest
from common.model.adapted import AdaptedModel, load_adapted_model
from common.privacy.accounting import Charge, epsilon
from common.privacy.gaussian import gaussian_epsilon
from server_app import run
from server_app.privacy.ledger import Ledger
from server_app.results.checkpoints import CheckpointError
from server_app.results.console import ConsoleLog
from server_app.results.folder import RunFolder
from server_app.results.resuming import how_to_resume, why_not_resumable
from server_app.results.units import show
from server_app.rounds.cohort import FederationError
from tests.support.grids import DeployedGrid, TinyGrid
from tests.support.interrupted_runs import say_of_clients
from tests.support.killed_runs import REPEATABLE, killed_after, resumed
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config, tiny_grid
from workbench.cli.main import app
from workbench.simulation.in_process import InProcessGrid
from workbench.watch.status import status

pytestmark = pytest.mark.usefixtures("seeded")

NOISY: dict[str, Any] = {**REPEATABLE, "server.optimizer": "adam", "server.learning-rate": 0.01}


@pytest.fixture(scope="module")
def config(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return tiny_config(files, tmp_path_factory.mktemp("whole"), NOISY)


@pytest.fixture(scope="module")
def whole(config: RunConfig) -> RunFolder:
    """The uninterrupted run."""
    return run_tiny(config)


@pytest.fixture(scope="module")
def template(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run killed after round 2."""
    with pytest.MonkeyPatch.context() as patch:
        moved = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path_factory.mktemp("killed"))})
        return killed_after(moved, 2, patch)


@pytest.fixture
def killed(template: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, for each test to go on with."""
    shutil.copytree(template.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_the_books_of_a_resumed_run_go_on_where_they_were(
    config: RunConfig, whole: RunFolder, killed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Ledger(killed.ledger).charges
    resumed(config, killed)
    assert "resumed after round 2\n" in capsys.readouterr().out
    after = Ledger(killed.ledger).charges
    assert after[: len(before)] == before
    assert after == Ledger(whole.ledger).charges
    reports = [json.loads((folder.path / "report.json").read_text()) for folder in (whole, killed)]
    for key in ("released_model", "one_client_against_server"):
        assert reports[0]["privacy"][key] == reports[1]["privacy"][key]
    assert reports[0]["outcome"] == reports[1]["outcome"]


def test_the_metrics_of_a_resumed_run_are_complete(config: RunConfig, whole: RunFolder, killed: RunFolder) -> None:
    resumed(config, killed)
    timed = {"seconds", "elapsed", "bytes_down"}  # clients of a new session keep nothing, so they are sent more
    rows = [[{k: v for k, v in row.items() if k not in timed} for row in f.read_metrics()] for f in (whole, killed)]
    assert [row["round"] for row in rows[1]] == [0, 1, 2, 3, 4]
    assert rows[0] == rows[1]
    elapsed = [row["elapsed"] for row in killed.read_metrics()[1:]]
    assert elapsed == sorted(elapsed), "time goes on where it stopped"


def test_a_round_that_was_lost_is_charged_again_and_the_budget_still_holds(
    config: RunConfig, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between round 2 and its checkpoint: its noise may be out, so it is paid for twice."""
    moved = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path)})
    folder = killed_after(moved, 2, monkeypatch, "before")
    assert "round-000001" in (folder.checkpoint / "latest").read_text()
    spent = Ledger(folder.ledger)
    assert spent.rounds_charged(2) == 1
    resumed(moved, folder)
    ledger = Ledger(folder.ledger)
    assert [ledger.rounds_charged(number) for number in range(5)] == [1, 1, 2, 1, 0]
    report = json.loads((folder.path / "report.json").read_text())
    assert report["outcome"]["stopped_because"] == "privacy budget spent"
    planned = json.loads((whole.path / "report.json").read_text())
    assert report["privacy"]["rounds_charged"] == planned["privacy"]["rounds_charged"] == 4
    charges = ledger.charges
    assert sorted(charges, key=str) == sorted(Ledger(whole.ledger).charges, key=str)


def test_messages_of_a_lost_round_count_against_the_server(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody is asked at z = 1 in stage 1, then at z = 1/2 in round 1, in the lost round 2 and in round 2 again."""
    changes = {
        "output.dir": str(tmp_path),
        "privacy.sampling-rate": 1.0,
        "num-server-rounds": 3,
    }
    moved = RunConfig.parse(config.flat() | changes)
    folder = killed_after(moved, 2, monkeypatch, "before")
    resumed(moved, folder)
    figure = json.loads((folder.path / "report.json").read_text())["privacy"]["one_client_against_server"]
    assert figure["epsilon"] == pytest.approx(gaussian_epsilon(math.sqrt(1 + 4 + 4 + 4), 0.99e-3), rel=1e-3)
    assert "asked in 3 rounds" in figure["of"]


def test_a_half_written_checkpoint_is_ignored(config: RunConfig, whole: RunFolder, killed: RunFolder) -> None:
    torn = killed.checkpoint / "round-000003"
    torn.mkdir()
    (torn / "tensors.safetensors").write_bytes(b"half")
    (killed.checkpoint / "latest.new").write_text("round-0000")
    resumed(config, killed)
    assert torch.equal(final_adapter(killed), final_adapter(whole))
    assert [path.name for path in killed.checkpoint.glob("round-*")] == ["round-000004"]


def test_a_ledger_that_has_lost_charges_is_refused(config: RunConfig, killed: RunFolder) -> None:
    lines = killed.ledger.read_text().splitlines(keepends=True)
    killed.ledger.write_text("".join(lines[:-1]))
    with pytest.raises(CheckpointError, match="ledger"):
        resumed(config, killed)


def test_a_torn_line_of_metrics_is_ignored(config: RunConfig, killed: RunFolder) -> None:
    with killed.metrics.open("a") as handle:
        handle.write('{"round": 3, "cohort"')
    resumed(config, killed)
    assert [row["round"] for row in killed.read_metrics()] == [0, 1, 2, 3, 4]


def test_a_changed_configuration_is_refused_naming_the_key(config: RunConfig, killed: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.noise-multiplier was 0\.5, is 0\.25") as refusal:
        resumed(config, killed, **{"privacy.noise-multiplier": 0.25})
    assert "output" not in str(refusal.value)


@pytest.mark.parametrize(
    ("clients", "refusal", "said"),
    [
        (7, CheckpointError, "planned for 6 clients, 7 are connected; .*connect as many"),
        (
            5,
            FederationError,
            r"planned for 6 clients, 5 of them connected .* nothing was charged\. Start more",
        ),
    ],
)
def test_a_run_is_resumed_with_as_many_clients_as_it_was_planned_for(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int, refusal: type[Exception], said: str
) -> None:
    """Noise, delta and denominator are those of six clients; ``num-clients = 0`` takes whoever is connected."""
    changes = {"output.dir": str(tmp_path), "federation.num-clients": 0, "strategy.name": "lora"}
    config = tiny_config(files, tmp_path, NOISY | changes)
    folder = killed_after(config, 1, monkeypatch, grid=InProcessGrid(client_app, config.flat(), 6))
    again = RunConfig.parse(config.flat() | {"resume": str(folder.path)})
    with pytest.raises(refusal, match=said):
        run_tiny(again, InProcessGrid(client_app, again.flat(), clients))
    run_tiny(again, InProcessGrid(client_app, again.flat(), 6))
    assert [row["round"] for row in folder.read_metrics()] == [0, 1, 2, 3, 4]


def test_a_run_that_has_ended_is_refused_and_nothing_of_it_is_written_into(config: RunConfig, whole: RunFolder) -> None:
    before = {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="this run has ended; start a new run"):
        resumed(config, whole)
    assert {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()} == before


def test_a_run_that_never_saved_is_refused_with_what_it_has_spent(config: RunConfig, killed: RunFolder) -> None:
    shutil.rmtree(killed.checkpoint)
    with pytest.raises(CheckpointError, match=r"it stopped before its first checkpoint; .*; start it anew") as refusal:
        resumed(config, killed)
    spent = show(epsilon(Ledger(killed.ledger).charges, 0.5e-3))
    assert f"has charged stage 1: statistics, stage 2: gradient: at most epsilon {spent} at delta 0.001" in str(
        refusal.value
    )


def test_a_run_that_stopped_before_any_charge_has_spent_nothing(tmp_path: Path) -> None:
    assert "; nothing had been charged; " in why_not_resumable(tmp_path)
    (tmp_path / "ledger.jsonl").touch()
    assert "; nothing had been charged; " in why_not_resumable(tmp_path)
    (tmp_path / "ledger.jsonl").write_text("no ledger\n")
    assert "what it has spent cannot be read" in why_not_resumable(tmp_path)


def test_there_is_one_checkpoint_and_it_is_the_last_round(killed: RunFolder) -> None:
    assert [path.name for path in killed.checkpoint.glob("round-*")] == ["round-000002"]
    assert (killed.checkpoint / "latest").read_text() == "round-000002"


def test_what_is_told_at_the_end_of_a_round_happens_after_its_checkpoint(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(ConsoleLog, "round", lambda *_: seen.append((folder.checkpoint / "latest").read_text()))
    run_tiny(RunConfig.parse(config.flat() | {"output.dir": str(tmp_path), "num-server-rounds": 2}))
    assert seen == ["round-000001", "round-000002"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("last", [2, 3])
def test_the_best_adapter_before_a_crash_is_what_a_resumed_run_goes_back_to(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, optimizer: str
) -> None:
    """Best in round 1, diverged in round 3: killed before that, or between it and the report, which then is written."""
    from server_app import session  # noqa: PLC0415 - patched here

    losses, seen = {0: 1.0, 1: 0.5, 2: 0.9, 3: 99.0}, {}

    def evaluate(_: session.Session, server_round: int, adapter: torch.Tensor, *, whole: bool = False) -> MetricRecord:
        seen.setdefault(server_round, adapter)
        return MetricRecord({"loss": losses[server_round]})

    monkeypatch.setattr(session.Session, "evaluate", evaluate)
    changes = {"num-server-rounds": 5, "server.optimizer": optimizer, "server.learning-rate": 0.01}
    config = tiny_config(files, tmp_path, changes)
    folder = resumed(config, killed_after(config, last, monkeypatch))
    assert [row["round"] for row in folder.read_metrics()] == [0, 1, 2, 3]
    report = json.loads((folder.path / "report.json").read_text())
    assert "the adapter of round 1, whose loss 0.5 was the lowest, is kept" in report["outcome"]["stopped_because"]
    assert (report["outcome"]["final"]["round"], report["outcome"]["final"]["loss"]) == (1, 0.5)
    assert torch.equal(final_adapter(folder), seen[1])


def test_two_cannot_go_on_with_one_run(config: RunConfig, killed: RunFolder) -> None:
    """Each printed the epsilon of its own rounds, and the other's adapter lay beside it."""
    before = killed.ledger.read_bytes()
    with killed.held(), pytest.raises(ConfigError, match="another process is going on with that run"):
        resumed(config, killed)
    assert killed.ledger.read_bytes() == before
    resumed(config, killed)


@pytest.mark.parametrize("name", ["report.md", "metrics.jsonl", "adapter/README.md", "checkpoint/latest", "pipe"])
def test_a_folder_from_elsewhere_writes_nothing_through_its_links(
    config: RunConfig, killed: RunFolder, tmp_path: Path, name: str
) -> None:
    """What a link names was written over, and the server's own files went where everybody reads them."""
    precious, path = tmp_path / "precious", killed.path / name
    precious.write_text("1")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if name == "pipe" else path.symlink_to(precious)
    before = killed.ledger.read_bytes()
    with pytest.raises(CheckpointError, match=f"{name} is (a link out of that folder|neither a file nor a folder)"):
        resumed(config, killed)
    asked = CliRunner().invoke(app, ["run", "--resume", str(killed.path)])
    assert asked.exit_code == 1
    assert name in asked.output
    assert (precious.read_text(), killed.ledger.read_bytes()) == ("1", before)


def test_links_within_a_runs_folder_are_its_own_affair(config: RunConfig, killed: RunFolder) -> None:
    """As wandb makes them."""
    (killed.path / "latest-run").symlink_to("checkpoint")
    (killed.path / "wandb").mkdir()
    (killed.path / "wandb" / "debug-core.log").symlink_to("/cache/core.log")
    resumed(config, killed)


def test_a_trackers_folder_is_no_link(config: RunConfig, killed: RunFolder, tmp_path: Path) -> None:
    (killed.path / "wandb").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="wandb is a link out of that folder"):
        resumed(config, killed)


def test_a_run_that_is_resumed_has_its_folder_before_its_model_is_loaded(
    config: RunConfig, killed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model takes minutes: ``watch`` called the run dead meanwhile, and a second resume began."""
    seen = []

    def load(*given: Any) -> AdaptedModel:
        seen.append((killed.is_held(), status(killed.path, 1e10)["state"]))
        return load_adapted_model(*given)

    monkeypatch.setattr(run, "load_adapted_model", load)
    resumed(config, killed)
    assert seen == [(True, "running")]


@pytest.mark.parametrize("name", ["two words", "it's", "a$(b)", 'a "b" \\'])
def test_the_command_that_is_told_can_be_typed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    told = how_to_resume(folder)
    simulated, _, deployed = told.partition("; if its sites are deployed: ")
    assert shlex.split(simulated) == ["dr-encoder", "run", "--resume", str(folder)]
    keys = tomllib.loads(deployed.partition("started with, ")[2].replace(" and ", "\n").replace(", ", "\n"))
    assert keys["output"] == {"dir": str(tmp_path), "name": name}


@pytest.mark.parametrize(
    ("changes", "noise", "said"),
    [
        ({}, 3.0, f"at most epsilon {show(epsilon([Charge(3.0)], 5e-6))} at"),
        ({"privacy.epsilon": 0.0, "privacy.noise-multiplier": 0.1}, 0.2, "epsilon inf at"),
    ],
)
def test_what_is_told_of_a_run_without_a_checkpoint_is_what_its_ledger_proves(
    tmp_path: Path, changes: dict[str, Any], noise: float, said: str
) -> None:
    """A figure was told above 20, where nothing is claimed, and none left room for approximations."""
    flat = RunConfig.parse(changes).flat() | {"federation.num-clients": 100}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(nest(flat)), encoding="utf-8")
    Ledger(tmp_path / "ledger.jsonl").charge(Charge(noise, label="stage 1: statistics"), round_index=0)
    assert said in why_not_resumable(tmp_path)


@pytest.mark.parametrize(
    ("began", "goes_on", "said"),
    [
        (DeployedGrid, TinyGrid, 'are deployed, not simulated; .* --resume-existing, .* and output.name = "run"'),
        (TinyGrid, DeployedGrid, "are simulated, not deployed; continue it with: dr-encoder run --resume {}"),
    ],
)
def test_a_run_goes_on_with_clients_of_the_kind_that_it_began_with(
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    began: type[TinyGrid],
    goes_on: type[TinyGrid],
    said: str,
) -> None:
    """A run of sites was finished by simulated clients on the demo's rows, its budget spent and its folder ended."""
    moved = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path)})
    folder = killed_after(moved, 2, monkeypatch, grid=tiny_grid(moved, began))
    again = RunConfig.parse(moved.flat() | {"resume": str(folder.path)})
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=f"its clients {said.format(folder.path)}$"):
        run_tiny(again, tiny_grid(again, goes_on))
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    run_tiny(again, tiny_grid(again, began))
    assert (folder.path / "report.json").exists()


@pytest.mark.parametrize("kind", [DeployedGrid, TinyGrid])
def test_a_run_of_a_version_that_did_not_record_its_clients_goes_on_and_says_so(
    config: RunConfig, killed: RunFolder, capfd: pytest.CaptureFixture[str], kind: type[TinyGrid]
) -> None:
    say_of_clients(killed.path, "")
    again = RunConfig.parse(config.flat() | {"resume": str(killed.path)})
    run_tiny(again, tiny_grid(again, kind))
    assert "WARNING: an earlier version did not record whether this run's clients were " in capfd.readouterr().out
