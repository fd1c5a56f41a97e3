"""The real ``flwr run``: SuperLink, simulation engine, app bundle and all."""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from common.model.adapted import AdaptedModel
from server_app.results.folder import RunFolder
from tests.support import reference
from tests.support.processes import left_running
from tests.support.tiny import Files, final_adapter, tiny_config
from workbench.simulation import launcher
from workbench.simulation.inline import run_inline
from workbench.simulation.launcher import LaunchError, Resources, launch

CLIENTS = 8


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Flower keeps its state: every process of a run carries this path in its environment."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(launcher.tempfile, "tempdir", str(folder))
    return folder


def litter(folder: Path) -> None:
    """Other packages of the same names, which nothing may import."""
    for package in ("client_app", "common"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise ImportError('the stray copy was imported')")


class Littered(tempfile.TemporaryDirectory[str]):
    """The working directory of the SuperLink, which Ray's workers search before the installed app."""

    def __enter__(self) -> str:
        folder = super().__enter__()
        litter(Path(folder))
        return folder


@pytest.fixture
def _stray_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strays where the run is started and where Flower works, and on the import path of every process."""
    litter(tmp_path / "stray")
    monkeypatch.chdir(tmp_path / "stray")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stray"))
    monkeypatch.setattr(launcher.tempfile, "TemporaryDirectory", Littered)


@pytest.mark.usefixtures("_stray_packages")
def test_flwr_run_completes_and_equals_the_plain_loop(
    files: Files, adapted: AdaptedModel, tmp_path: Path, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = {"federation.num-clients": CLIENTS, "federation.connect-timeout": 60.0, "server.learning-rate": 0.4}
    config = tiny_config(files, tmp_path / "results", changes)
    with (tmp_path / "log").open("w+") as log:
        launch(config, CLIENTS, Resources(num_cpus=2), log)
    assert left_running(scratch) == []
    folder = RunFolder(tmp_path / "results" / "run")
    report = json.loads((folder.path / "report.json").read_text())
    assert (report["run"]["rounds_run"], report["run"]["clients"]) == (3, CLIENTS)
    assert [row["replies"] for row in folder.read_metrics()[1:]] == [CLIENTS] * 3
    assert (folder.path / "adapter" / "adapter_model.safetensors").exists()
    expected = reference.train(config, adapted)
    assert (expected - adapted.initial).norm() > 0.03
    torch.testing.assert_close(final_adapter(folder), expected, rtol=0, atol=1e-6)
    run_inline(tiny_config(files, tmp_path / "here", changes), CLIENTS)  # what comparisons and tuning use too
    here = RunFolder(tmp_path / "here" / "run")
    torch.testing.assert_close(final_adapter(here), final_adapter(folder), rtol=0, atol=1e-6)
    bytes_of = [[(row["bytes_up"], row["bytes_down"]) for row in run.read_metrics()[1:]] for run in (here, folder)]
    assert bytes_of[0] == bytes_of[1]
    assert "finished: all rounds done" in capfd.readouterr().out


def test_a_failed_flwr_run_is_an_error_and_leaves_no_process(
    files: Files, tmp_path: Path, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flower itself exits with 0 here."""
    config = tiny_config(files, tmp_path / "results", {"federation.num-clients": 3, "federation.connect-timeout": 2.0})
    with (tmp_path / "log").open("w+") as log, pytest.raises(LaunchError, match="the run ended as finished:failed"):
        launch(config, 2, Resources(num_cpus=1), log)
    assert left_running(scratch) == []
    assert "only 2 clients connected within 2 s" in capfd.readouterr().out
