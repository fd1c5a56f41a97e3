"""Flower's superexec with tokens that no other user of the machine can read."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supercore.superexec.executor import factory
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from workbench.deployment import commands
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
    assert command[place : place + 2] == ["--token-file", command[place + 1]]
    assert command[:place] + command[place + 2 :] == flower[:place] + flower[place + 2 :]
    assert output == its_output


def test_a_process_finds_its_token_where_no_other_user_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reader that Flower's programs use."""
    program = tmp_path / "flwr-clientapp"
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
    PrivateTokens().launch(spec())
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
