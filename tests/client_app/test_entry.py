"""The entry point that Flower loads imports this app, whatever else lies on the import path."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import app_digest as digest_module
from common.app_digest import app_digest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.path.insert(0, {stray!r})
sys.path.append({root!r})
{before}
import dr_encoder_client
import client_app.app, common.config
for module in (client_app.app, common.config):
    assert module.__file__.startswith({root!r}), module.__file__
assert dr_encoder_client.app is client_app.app.app
"""


@pytest.mark.parametrize("before", ["", "import client_app, common.adapter"], ids=["found first", "imported already"])
def test_stray_packages_of_the_same_name_are_ignored(tmp_path: Path, before: str) -> None:
    for package in ("client_app", "common"):
        (tmp_path / package).mkdir()
        for name in ("__init__.py", "app.py", "adapter.py", "config.py"):
            (tmp_path / package / name).write_text("stray = True\n")
    script = SCRIPT.format(stray=str(tmp_path), root=str(ROOT), before=before)
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def digest_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(digest_module, "__file__", str(folder / "common" / "app_digest.py"))
    return app_digest.__wrapped__()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in digest_module.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    return tmp_path


def test_the_digest_is_that_of_the_code_wherever_it_lies(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digest_of(copy, monkeypatch) == app_digest.__wrapped__()


@pytest.mark.parametrize("name", ["client_app/release.py", "common/codecs/linear.py", "common/new.py"])
def test_the_digest_changes_with_every_file_that_a_client_runs(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = digest_of(copy, monkeypatch)
    with (copy / name).open("a") as handle:
        handle.write("\n")
    assert digest_of(copy, monkeypatch) != before


def test_the_digest_changes_when_a_file_is_renamed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of(copy, monkeypatch)
    (copy / "client_app" / "release.py").rename(copy / "client_app" / "releases.py")
    assert digest_of(copy, monkeypatch) != before
