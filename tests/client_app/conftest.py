"""Fixtures of the client's side that several test modules use."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client_app import new_site_key, resident
from common.config import RunConfig
from common.model.adapted import AdaptedModel
from common.secure.keys import new_private_key, public_key, site_name
from tests.support.secure_client import MEMBERS, Client
from tests.support.tiny import Files, ledger_in, tiny_config, tiny_grid, write_jsonl
from tests.support.worker_runs import ROOT, STAND_IN, workers
from workbench.simulation.in_process import InProcessGrid


@pytest.fixture(scope="module")
def config(files: Files) -> RunConfig:
    return tiny_config(files, Path())


@pytest.fixture
def grid(config: RunConfig) -> InProcessGrid:
    return tiny_grid(config)


@pytest.fixture
def own_site(grid: InProcessGrid, files: Files, tmp_path: Path) -> InProcessGrid:
    """Client 3 is a site that brings its own file."""
    own = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "the sum of 2 and 3 is", "completion": " 5"}])
    grid.context(3).node_config |= {"data-path": str(own), "max-epsilon": 0.0, "ledger-path": ledger_in(tmp_path)}
    return grid


@pytest.fixture
def own(adapted: AdaptedModel, tmp_path: Path) -> Callable[..., Client]:
    """A site with its own data, keys and ledger, whose peers it has pinned."""

    def made(seated: bool = True, **node: Any) -> Client:
        rows = [{"prompt": f"the sum of {n} and 3 is", "completion": f" {n + 3}"} for n in range(4)]
        data, ledger = write_jsonl(tmp_path / "own.jsonl", rows), ledger_in(tmp_path)
        assert new_site_key.main([str(tmp_path / "key")])[0]
        pinned = [public_key(new_private_key()) for _ in range(MEMBERS - 1)]
        (tmp_path / "peers").write_text(
            "".join(f"{key.hex()} site-{n}\n" for n, key in enumerate(pinned)), encoding="utf-8"
        )
        files = {"site-key": str(tmp_path / "key"), "peers": str(tmp_path / "peers")}
        limits = {"max-epsilon": 20.0, "ledger-path": ledger, "data-path": str(data), "max-local-steps": 4}
        found = Client(adapted, {key.replace("_", "-"): value for key, value in {**limits, **files, **node}.items()})
        found.others = [(public_key(new_private_key()), site_name(key)) for key in pinned]
        return found.seated() if seated else found

    return made


@pytest.fixture(scope="session")
def _stand_in_app(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the app whose handlers are the stand-in, and its digest."""
    root = tmp_path_factory.mktemp("stand-in") / "app"
    for package in ("client_app", "common"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (root / "client_app" / "app.py").write_text(STAND_IN, encoding="utf-8")
    digest = "from common.wire.digest import app_digest; print(app_digest())"
    shutil.copy(ROOT / "dr_encoder_client.py", root)
    found = subprocess.run(
        [sys.executable, "-c", digest], cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=True
    )
    return root, found.stdout.strip()


@pytest.fixture
def _stand_in(_stand_in_app: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in in place of the app, run in a folder of its own; its workers die with the test."""
    app, digest = _stand_in_app
    (tmp_path / "app").symlink_to(app)
    monkeypatch.setattr(resident, "_ROOT", tmp_path / "app")
    monkeypatch.setattr(resident, "app_digest", lambda: digest)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    for process in workers():
        process.kill()
        process.wait(10)
