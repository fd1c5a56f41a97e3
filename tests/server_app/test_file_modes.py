"""Who may read what a run, a command and a deployment write: everybody what is published, its owner the rest."""

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.private_files import private_files
from server_app.results.folder import PUBLISHED, RunFolder
from tests.support.file_modes import mode, umask
from tests.support.tiny import Files, run_tiny, tiny_config
from workbench.cli import keys as keys_command
from workbench.cli.main import app
from workbench.deployment.certificates import make_certificates, make_node_key
from workbench.deployment.processes import Processes

pytestmark = pytest.mark.usefixtures("seeded")

NOISY: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 0.8}


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_who_may_read_what_does_not_depend_on_the_umask(files: Files, tmp_path: Path, mask: int) -> None:
    changes = {**NOISY, "output.tracker": "tensorboard", "output.dir": str(tmp_path / "new" / "results")}
    with umask(mask):
        folder = run_tiny(tiny_config(files, tmp_path, changes), plots=True)
        assert os.umask(mask) == mask, "it is what it was"
    assert [mode(place) for place in (folder.path, *list(folder.path.parents)[:2])] == [0o700] * 3
    for path in folder.path.rglob("*"):
        public = path.relative_to(folder.path).parts[0] in PUBLISHED
        wanted = (0o755 if public else 0o700) if path.is_dir() else (0o644 if public else 0o600)
        assert mode(path) == wanted, path.name
    assert list((folder.path / "tensorboard").iterdir())


def test_an_open_folder_is_closed_before_its_run_goes_on(files: Files, tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "checkpoint").mkdir(parents=True)
    (old / "metrics.jsonl").touch(mode=0o644)
    for path in (old, old / "checkpoint"):
        path.chmod(0o755)
    RunFolder.create(tiny_config(files, tmp_path, {"resume": str(old)}))
    assert [mode(path) for path in (old, old / "checkpoint", old / "metrics.jsonl")] == [0o700, 0o700, 0o600]


def test_the_command_line_writes_private_files_and_sets_the_umask_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def look() -> str:
        found.append(os.umask(0o077))
        return ""

    monkeypatch.setattr(keys_command, "keys_markdown", look)
    with umask(0o022):
        assert CliRunner().invoke(app, ["keys", "--markdown"]).exit_code == 0
        assert os.umask(0o022) == 0o022
    assert found == [0o077]


def test_processes_of_a_deployment_write_private_files(tmp_path: Path) -> None:
    """A SuperLink's state.db names every cohort."""
    with umask(0), Processes(tmp_path / "logs") as processes:
        processes.start("one", ["sh", "-c", "echo told; echo x > state.db"], dict(os.environ), tmp_path / "home")
        processes._running["one"].wait(10)
    found = ("logs", "logs/one.log", "home", "home/state.db")
    assert [mode(tmp_path / name) for name in found] == [0o700, 0o600, 0o700, 0o600]


def test_keys_are_their_owner_s_and_certificates_everybody_s(tmp_path: Path) -> None:
    for mask in (0, 0o077):
        with umask(mask):
            made = make_certificates(tmp_path / f"certificates-{mask}")
            public = make_node_key(tmp_path / f"keys-{mask}" / "node")
        assert [mode(path) for path in (made.key, public.with_suffix(""))] == [0o600] * 2
        assert [mode(path) for path in (made.authority, made.certificate, public)] == [0o644] * 3
        assert [mode(path.parent) for path in (made.key, public)] == [0o700] * 2


def test_private_files_sets_the_umask_back_after_an_error() -> None:
    with umask(0o027):
        with pytest.raises(KeyError), private_files():
            raise KeyError
        assert os.umask(0o027) == 0o027
