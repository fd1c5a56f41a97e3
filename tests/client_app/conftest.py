"""Fixtures of the client's side that several test modules use."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_app import resident
from tests.client_app.worker_runs import ROOT, STAND_IN, workers


@pytest.fixture
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the app whose handlers are the stand-in, run in a folder of its own; its workers die with the test."""
    root = tmp_path / "app"
    for package in ("client_app", "common"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (root / "client_app" / "app.py").write_text(STAND_IN)
    monkeypatch.setattr(resident, "_ROOT", root)
    digest = "from common.app_digest import app_digest; print(app_digest())"
    shutil.copy(ROOT / "dr_encoder_client.py", root)
    found = subprocess.run([sys.executable, "-c", digest], cwd=root, capture_output=True, text=True, check=True)
    monkeypatch.setattr(resident, "app_digest", found.stdout.strip)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    for process in workers():
        process.kill()
        process.wait(10)
