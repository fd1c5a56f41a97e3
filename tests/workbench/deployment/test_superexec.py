"""Flower's superexec with tokens that no other user of the machine can read."""

import hashlib
import logging
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.superexec.executor import factory
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from workbench.deployment import commands
from workbench.deployment.clientapp import unpack, unpacked
from workbench.deployment.superexec import PrivateTokens

TOKEN = "abc" * 21
SPECS: list[dict[str, Any]] = [
    {"insecure": True, "root_certificates_path": None, "parent_pid": 7},
    {"insecure": False, "root_certificates_path": "/ca.crt", "suppress_output": True},
    {"insecure": False, "root_certificates_path": None, "runtime_dependency_install": True},
]


def spec(task: TaskType = TaskType.CLIENT_APP, **changes: Any) -> ExecutionSpec:
    given = {"insecure": True, "root_certificates_path": None, "runtime_dependency_install": False, "parent_pid": None}
    given |= {"suppress_output": False, "task_id": 1, **changes}
    return ExecutionSpec(task_type=task, runtime_api_address="127.0.0.1:9", token=TOKEN, **given)


def started(executor: SubprocessExecutor, given: ExecutionSpec, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """The command and the output of what an executor starts."""
    calls: list[tuple[Any, ...]] = []

    def note(command: list[str], **options: Any) -> None:
        calls.append((command, options.get("stdout"), options.get("stderr")))

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", note)
        executor.launch(given)
    (call,) = calls
    return call


@pytest.mark.parametrize("task", TASK_TYPE_TO_COMMAND)
@pytest.mark.parametrize("changes", SPECS)
def test_the_command_is_flower_s_but_for_the_token(
    task: TaskType, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flower, *its_output = started(SubprocessExecutor(), spec(task, **changes), monkeypatch)
    command, *output = started(PrivateTokens(), spec(task, **changes), monkeypatch)
    place = flower.index("--token")
    assert flower[place + 1] == TOKEN, "or this module is not needed any more"
    if task == TaskType.CLIENT_APP:
        assert command[:4] == [sys.executable, "-P", "-m", "workbench.deployment.clientapp"]
        command[:4] = [flower[0]]
    assert command[place : place + 2] == ["--token-file", command[place + 1]]
    assert command[:place] + command[place + 2 :] == flower[:place] + flower[place + 2 :]
    assert output == its_output


def test_no_task_is_taken_that_this_app_does_not_have() -> None:
    """A SuperLink says of a run what it is of: an agent's process loads bundles by eight digits of their hash."""
    everything = set(TaskType)
    assert SubprocessExecutor().get_eligible_capacity(everything)[0] == everything, "or this is not needed any more"
    taken, _ = PrivateTokens().get_eligible_capacity(everything)
    assert taken == {TaskType.SERVER_APP, TaskType.CLIENT_APP, TaskType.SIMULATION}


def test_a_process_finds_its_token_where_no_other_user_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reader that Flower's programs use."""
    program = tmp_path / "flwr-serverapp"
    program.write_text(
        f"#!{sys.executable}\n"
        "import argparse, time\n"
        "from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token\n"
        "parser = argparse.ArgumentParser()\n"
        "add_args_flwr_app_common(parser)\n"
        "parser.add_argument('--runtime-api-address')\n"
        f"open({str(tmp_path / 'found')!r}, 'x').write(try_obtain_flwr_app_token(parser.parse_args()))\n"
        "time.sleep(60)\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    before = len(list(Path("/proc/self/fd").iterdir()))
    PrivateTokens().launch(spec(TaskType.SERVER_APP))
    (process,) = [child for child in psutil.Process().children() if str(program) in child.cmdline()]
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "found").exists() or not (tmp_path / "found").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (tmp_path / "found").read_text() == TOKEN
        everybody_s = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "comm", "stat")]
        assert not any(TOKEN.encode() in text for text in everybody_s)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "command", [commands.server_superexec("x", Path("/ca"), Path("/s")), commands.client_superexec(1, Path(), Path())]
)
def test_every_superexec_is_this_one_and_knows_whom_it_asks(command: list[str]) -> None:
    """Whoever listens in the place of its SuperLink or SuperNode could hand it any code."""
    assert command[:4] == ["python", "-P", "-m", "workbench.deployment.superexec"]
    assert "--root-certificates" in command
    assert "--insecure" not in command


def test_it_takes_the_place_of_flower_s_own() -> None:
    """Where Flower looks for it: under another name nothing would be replaced."""
    assert vars(factory)["SubprocessExecutor"] is SubprocessExecutor
    code = (
        "import runpy, sys; from flwr.supercore import cli; from flwr.supercore.superexec.executor import factory; "
        "from flwr.supercore.constant import ExecutorType; "
        "cli.flower_superexec = lambda: print(type(factory.get_executor(ExecutorType.SUBPROCESS)).__name__); "
        "runpy.run_module('workbench.deployment.superexec', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "PrivateTokens"


NAMED = {
    "as it is": ("dr-encoder/dr-encoder", "0.1.0"),
    "by its version": ("dr-encoder/dr-encoder", "0.1.0/../../models/llama"),
    "without a name": ("/", "/../models/llama/docs"),
}


@pytest.mark.parametrize("named", NAMED)
def test_a_client_app_is_loaded_from_where_it_was_unpacked(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SuperLink tells name and version: the bundle that was signed is one thing, the folder that is loaded another.

    "without a name" had the code of a model's folder run at a site that trusts signed bundles only.
    """
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    apps = tmp_path / "flower" / "bundles" / ("a" * 64) / "apps"
    if named == "as it is":
        assert unpacked(*NAMED[named], "a" * 64) == apps / f"dr-encoder.dr-encoder.0.1.0.{'a' * 8}"
        return
    with pytest.raises(ValueError, match="is none that was unpacked here"):
        print(unpacked(*NAMED[named], "a" * 64))


def test_the_process_of_a_client_app_looks_there(tmp_path: Path) -> None:
    """Through Flower's own loader, as it is called there."""
    code = (
        "import runpy; from flwr.supernode import cli; from flwr.clientapp.utils import get_load_client_app_fn as get\n"
        "cli.flwr_clientapp = lambda: get('', None, True)('/', '/../models/docs', 'a' * 64)\n"
        "runpy.run_module('workbench.deployment.clientapp', run_name='__main__')"
    )
    model = tmp_path / "models" / f"docs.{'a' * 8}"
    model.mkdir(parents=True)
    (tmp_path / "flower" / "apps").mkdir(parents=True)
    project = {"name": "docs", "version": "1", "license": "MIT", "description": ""}
    components = {"serverapp": "code_of_it:app", "clientapp": "code_of_it:app"}
    tool = {"flwr": {"app": {"publisher": "nobody", "components": components}}}
    (model / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": tool}))
    (model / "code_of_it.py").write_text("print('it runs')\nfrom flwr.clientapp import ClientApp\napp = ClientApp()\n")
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "flower")}
    flower_s = "\n".join(code.splitlines()[:2]) + "\ncli.flwr_clientapp()"
    for asked, runs in ((flower_s, True), (code, False)):
        done = subprocess.run(
            [sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ("it runs" in done.stdout) is runs, done.stderr
    assert "is none that was unpacked here" in done.stderr


def write_app(folder: Path, says: str) -> dict[str, bytes]:
    """The files of an app that prints a word when it is loaded."""
    project = {"name": "app", "version": "1.0.0", "license": "MIT", "description": ""}
    components = {"serverapp": "code_of_it:app", "clientapp": "code_of_it:app"}
    tool = {"flwr": {"app": {"publisher": "nobody", "components": components}}}
    code = f"print({says!r})\nfrom flwr.clientapp import ClientApp\napp = ClientApp()\n"
    described = tomli_w.dumps({"project": project, "tool": tool})
    files = {"pyproject.toml": described.encode(), "code_of_it.py": code.encode()}
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def test_a_bundle_runs_and_not_what_lies_under_eight_digits_of_its_hash(tmp_path: Path) -> None:
    """Flower takes a folder of that name as it is: of an older bundle, or of one whose unpacking was cut off."""
    files = write_app(tmp_path / "new", "the new one runs")
    listed = "".join(f"{name},{hashlib.sha256(data).hexdigest()},8\n" for name, data in files.items())
    with zipfile.ZipFile(tmp_path / "app.fab", "w") as archive:
        for name, data in {**files, ".info/CONTENT": listed.encode()}.items():
            archive.writestr(name, data)
    digest = hashlib.sha256((tmp_path / "app.fab").read_bytes()).hexdigest()
    write_app(tmp_path / "flower" / "apps" / f"nobody.app.1.0.0.{digest[:8]}", "an old one runs")
    flower_s = (
        "import runpy, sys; from pathlib import Path; from flwr.supernode import cli\n"
        "from flwr.supernode.runtime import run_clientapp as runtime\n"
        "def run():\n"
        "    runtime.install_from_fab(Path(sys.argv[1]).read_bytes(), skip_prompt=True)\n"
        "    runtime.get_load_client_app_fn('', None, True)('nobody/app', '1.0.0', sys.argv[2])\n"
    )
    own = f"{flower_s}cli.flwr_clientapp = run\nrunpy.run_module('workbench.deployment.clientapp', run_name='__main__')"
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "flower")}
    for asked, runs in ((f"{flower_s}run()", "an old one runs"), (own, "the new one runs"), (own, "the new one runs")):
        done = subprocess.run(
            [sys.executable, "-c", asked, str(tmp_path / "app.fab"), digest], env=environment, capture_output=True,
            text=True, check=True, timeout=120,
        )  # fmt: skip
        assert runs in done.stdout.splitlines(), done.stderr
    assert [path.name for path in (tmp_path / "flower" / "bundles").iterdir()] == [digest], "nothing half unpacked"


def test_why_a_bundle_cannot_be_unpacked_is_told_at_the_site_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower sends the text of what is raised here to the server: it held a path of this machine."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    (tmp_path / "bundles").write_text("in the way")
    with pytest.raises(RuntimeError) as told:
        unpack(b"bundle", tmp_path)
    assert str(told.value) == "the app bundle cannot be unpacked at this site; why is in the site's own log"
    assert str(tmp_path) in caplog.text


def test_two_processes_that_meet_a_new_bundle_at_once_both_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one's folder could not be renamed onto the other's, and its site refused the message."""
    home = tmp_path / "bundles" / hashlib.sha256(b"bundle").hexdigest()

    def slowly(_content: bytes, folder: Path, _skip: bool) -> Path:
        if folder != home:
            for place in (folder, home):  # the other one is quicker
                place.mkdir(parents=True)
                (place / "app").touch()
        return folder

    monkeypatch.setattr("workbench.deployment.clientapp.install_from_fab", slowly)
    assert unpack(b"bundle", tmp_path) == home
