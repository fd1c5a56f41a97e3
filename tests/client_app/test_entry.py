"""The entry point that Flower loads imports this app, whatever else lies on the import path."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from common.wire import digest as digest_module
from common.wire.digest import app_digest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.path.insert(0, "stray")
sys.path.append("installed")
{before}
import dr_encoder_client
import common
print(dr_encoder_client._answer, common.name)
"""
RESIDENT = "answer = None\ndef in_flower_client_process():\n    return False\n"


@pytest.mark.parametrize("before", ["", "import client_app.app, common"], ids=["found first", "imported already"])
def test_stray_packages_of_the_same_name_are_ignored(tmp_path: Path, before: str) -> None:
    """The entry point beside small stand-ins of its packages: the real ones take long to import."""
    for place in ("stray", "installed"):
        for package in ("client_app", "common"):
            (tmp_path / place / package).mkdir(parents=True)
            (tmp_path / place / package / "__init__.py").write_text(f"name = {place!r}\n")
        (tmp_path / place / "client_app" / "app.py").write_text("import common\napp = 'app of ' + common.name\n")
        (tmp_path / place / "client_app" / "resident.py").write_text(RESIDENT)
    shutil.copy(ROOT / "dr_encoder_client.py", tmp_path / "installed")
    script = SCRIPT.format(before=before)
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["app", "of", "installed", "installed"], found.stderr


@pytest.mark.usefixtures("own_signals")  # where Flower's client process was imported, the import takes them over
def test_every_handler_of_the_client_is_registered_for_flower() -> None:
    """One that is missing here works in one process and fails under Ray."""
    import client_app.app  # noqa: PLC0415
    import dr_encoder_client  # noqa: PLC0415

    registered = set(dr_encoder_client.app._registered_funcs)
    assert registered == set(client_app.app.app._registered_funcs)
    assert "query.gradients" in registered


def test_another_thread_may_import_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a simulation the ServerApp's thread imports while Flower loads the ClientApp."""
    source = (ROOT / "dr_encoder_client.py").read_text().split("while str(_ROOT)")[0]
    code = compile(source, str(ROOT / "dr_encoder_client.py"), "exec")
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    stopped = threading.Event()

    def imports() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            sys.modules[f"imported_{number % 5000}"] = ModuleType("imported")
            sys.modules.pop(f"imported_{(number - 100) % 5000}", None)

    thread = threading.Thread(target=imports)
    thread.start()
    try:
        for _ in range(30):
            exec(code, {"__file__": str(ROOT / "dr_encoder_client.py"), "__name__": "entry"})  # noqa: S102
    finally:
        stopped.set()
        thread.join()


def test_the_process_that_flower_starts_for_a_message_imports_nothing_heavy() -> None:
    script = "import flwr.supernode.runtime.run_clientapp, dr_encoder_client, sys\n"
    script += (
        "print(dr_encoder_client._answer.__module__, {'torch', 'transformers', 'peft', 'datasets'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "client_app.resident set()", found.stderr


def digest_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(digest_module, "__file__", str(folder / "common" / "wire" / "digest.py"))
    return app_digest.__wrapped__()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in digest_module.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / digest_module.ENTRY, tmp_path)
    return tmp_path


def test_the_digest_is_that_of_the_code_wherever_it_lies(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = app_digest.__wrapped__()
    assert digest_of(copy, monkeypatch) == here


@pytest.mark.parametrize(
    "name", ["client_app/release.py", "common/codecs/linear.py", "common/new.py", "dr_encoder_client.py"]
)
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
