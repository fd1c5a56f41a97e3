"""``dr-encoder run --engine inline``: what ``flwr run`` gives, in this process."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from common.config import nest
from server_app.errors import CommandError
from server_app.results.folder import RunFolder
from server_app.results.units import MARK
from server_app.rounds.cohort import FederationError
from tests.support.seeded import seed_randomness
from tests.support.tiny import CLIENTS, TINY, Files, final_adapter, run_tiny, tiny_config
from workbench.cli import run as run_command
from workbench.simulation import inline
from workbench.simulation.inline import run_inline

NOISY: dict[str, Any] = {
    "num-server-rounds": 2,
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 0.3,
    "server.learning-rate": 0.3,
}
GRID = 2e-4
"""What one step of the noise's integer grid does to an adapter value: rounding may move a code by one."""


def test_the_command_runs_here_and_writes_what_flower_s_run_does(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise from one seed on both sides; a test beside this one holds the same against ``flwr run``, without noise."""
    seed_randomness(monkeypatch)
    preset = tmp_path / "preset.toml"
    paths = {"data.name": str(files.private), "data.evaluation": str(files.public)}
    preset.write_text(tomli_w.dumps(nest({**TINY, **NOISY, **paths, "output.dir": str(tmp_path / "command")})))
    run_command.run(preset=str(preset), engine="inline")
    said = capfd.readouterr().out
    assert "finished: all rounds done" in said
    assert "epsilon, released model" in said
    assert MARK not in said
    assert "Flower" not in said
    assert [path.name for path in (tmp_path / "command").iterdir()].count("run") == 1
    assert not list((tmp_path / "command").glob("*.log"))
    folder = RunFolder(tmp_path / "command" / "run")
    assert (folder.path / "report.md").exists()
    other = run_tiny(tiny_config(files, tmp_path / "plain", NOISY))
    torch.testing.assert_close(final_adapter(folder), final_adapter(other), rtol=0, atol=GRID)
    bytes_of = [[(row["bytes_up"], row["bytes_down"]) for row in run.read_metrics()[1:]] for run in (folder, other)]
    assert bytes_of[0] == bytes_of[1]


def test_what_ends_a_run_is_a_line_for_people(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FederationError("none of 6 clients released anything")

    monkeypatch.setattr(inline, "run_federation", fail)
    with pytest.raises(CommandError, match="none of 6 clients"):
        run_inline(tiny_config(files, tmp_path), CLIENTS)
