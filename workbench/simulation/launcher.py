"""Runs this app through the real ``flwr run`` on a SuperLink of its own, and says truly whether it succeeded.

``flwr run --stream`` exits 0 when the ServerApp failed, and its local SuperLink outlives the run. So the launcher
starts a SuperLink with the simulation engine on free ports, in a neutral directory, streams the run, asks
``flwr ls`` for the outcome, and stops everything it started.
"""

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import tomli_w

from common.config import ConfigError, RunConfig, Scalar, flatten, nest
from common.config.toml_files import read_tables
from common.private_files import OWNER_ONLY
from server_app.errors import CommandError
from server_app.results.units import MARK, TRACEBACK, speak
from workbench.simulation.flower_cli import FlowerCommandError, for_flower, listed_run
from workbench.stopping import kept, stop_orphans, stop_tree, terminate_as_interrupt

APP = Path(__file__).resolve().parents[2]
PRESETS = APP / "common" / "presets"
CONNECTION = "launcher"
_START_SECONDS = 60.0
_LONGEST_RAY_FOLDER = 38  # bytes: with /ray/session_<time>_<process>/sockets/plasma_store 107, the kernel's limit
_LATE = "node timed out during startup"  # Ray's own words, which end a run before any client is asked
_BUSY = ". The engine (Ray) has 30 s to start, too few on a busy machine: try again, or without it: --engine inline"
COLOR = re.compile(r"\x1b\[[0-9;]*m")
"""What Flower colors its log with."""
_ERRORS = tuple(re.compile(text) for text in (rf"^{re.escape(MARK)}ERROR", r"^[\w.]*(Error|Exception)\b", "ERROR"))


class LaunchError(CommandError):
    """The SuperLink did not start, or the run did not complete; the message says which, and where the log is."""


@dataclass(frozen=True)
class Resources:
    """What the simulation engine may use: client processes at a time follow from CPUs (and GPU shares) per client."""

    num_cpus: int
    cpus_per_client: int = 1
    gpus_per_client: float = 0.0


def flower_environment(home: Path) -> dict[str, str]:
    """Environment for every Flower process: own state directory, no network at run time, UTF-8, no proxy to itself.

    Ray, the simulation engine, listens on every address of the machine and runs what it is sent: so it is told to ask
    for a secret, which these processes alone know. It joins a cluster that a file in a folder open to all names, and
    keeps its sockets there: so it is told to begin one of its own, in ``home`` where a socket's name has room.
    """
    place = {"RAY_TMPDIR": str(home)} if len(os.fsencode(home)) <= _LONGEST_RAY_FOLDER else {}
    return (
        for_flower(os.environ)
        | place
        | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": "local",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
    )


def launch(config: RunConfig, num_clients: int, resources: Resources, log: IO[str]) -> None:
    """Run ``config`` with ``num_clients`` simulated clients; marked lines go to the terminal, everything to ``log``.

    Raises ``LaunchError`` unless Flower reports the run as completed.
    """
    begin = log.tell()
    try:
        _launch(config, num_clients, resources, log)
    except LaunchError as error:
        reason = _error_in(Path(log.name), begin)
        began = (Path(config.output.dir) / config.output.name).exists()
        if reason and not began and TRACEBACK not in reason and _is_own(Path(log.name), begin):
            Path(log.name).unlink()  # all that it could tell is told
            raise LaunchError(f"{error}; its error is: {reason}") from None
        said = f", and its error is: {reason}{_BUSY if _LATE in reason else ''}" if reason else ""
        raise LaunchError(f"{error}; its log is {log.name}{said}") from None


def _launch(config: RunConfig, num_clients: int, resources: Resources, log: IO[str]) -> None:
    with (
        terminate_as_interrupt(),
        tempfile.TemporaryDirectory(prefix="dr-encoder-", ignore_cleanup_errors=True) as scratch,
        kept(Path(scratch)),
    ):
        home = Path(scratch)
        environment = flower_environment(home)
        with _superlink(home, environment, log):
            run_config = home / "run.toml"
            run_config.write_text(tomli_w.dumps(nest(config.flat())), encoding="utf-8")
            status = _stream(_run_command(run_config, num_clients, resources), home, environment, log)
        if status != "finished:completed":
            raise LaunchError(_not_completed(status))


def _not_completed(status: str) -> str:
    if status.startswith("finished"):
        return f"the run ended as {status}"
    return f"flwr run ended before the run, which is stopped now; to Flower it was {status}"


def _error_in(log: Path, begin: int) -> str:
    """What went wrong, from the log beyond byte ``begin``: the app's own error, else the exceptions, else Flower's.

    Of exceptions the first is the cause (a simulation engine that did not start, say) and the last what came of it.
    Flower's ERROR lines tell its exit code only, so they are the last resort.
    """
    lines = _lines(log, begin)
    for pattern in _ERRORS:
        found = [
            line.strip().removeprefix(MARK).removeprefix("ERROR:").strip() for line in lines if pattern.search(line)
        ]
        if found:
            return " ... ".join(dict.fromkeys([found[0], found[-1]]))
    return ""


def _is_own(log: Path, begin: int) -> bool:
    """Whether the app itself has said what went wrong."""
    return any(_ERRORS[0].search(line) for line in _lines(log, begin))


def _lines(log: Path, begin: int) -> list[str]:
    with log.open("rb") as handle:
        handle.seek(begin)
        return COLOR.sub("", handle.read().decode(errors="replace")).splitlines()


@contextmanager
def _superlink(home: Path, environment: Mapping[str, str], log: IO[str]) -> Iterator[None]:
    port, control = free_ports(2)
    (home / "config.toml").write_text(
        tomli_w.dumps(
            {"superlink": {"default": CONNECTION, CONNECTION: {"address": f"127.0.0.1:{port}", "insecure": True}}}
        ),
        encoding="utf-8",
    )
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control}"]
    command += ["--disable-runtime-dependency-installation"]
    process = subprocess.Popen(  # noqa: S603 - fixed program, no shell
        command, cwd=home, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        umask=OWNER_ONLY,
    )  # fmt: skip
    try:
        _wait_until_healthy(process, port)
        yield
    finally:
        stop_tree(process)
        stop_orphans(home)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LaunchError(f"flower-superlink ended at once with code {process.returncode}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise LaunchError(f"flower-superlink was not ready within {_START_SECONDS:.0f} s")


def _run_command(run_config: Path, num_clients: int, resources: Resources) -> list[str]:
    federation = (
        f"num-supernodes={num_clients} client-resources-num-cpus={resources.cpus_per_client} "
        f"client-resources-num-gpus={resources.gpus_per_client} init-args-num-cpus={resources.num_cpus}"
    )
    return ["flwr", "run", str(APP), CONNECTION, "--stream", "-c", str(run_config), "--federation-config", federation]


def _stream(command: list[str], home: Path, environment: Mapping[str, str], log: IO[str]) -> str:
    """Run ``flwr run --stream``, pass marked lines on, and return the run's status as Flower knows it."""
    process = subprocess.Popen(  # noqa: S603 - fixed program, no shell
        command,
        cwd=home,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        umask=OWNER_ONLY,
    )
    try:
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            if MARK in line:
                speak(line.split(MARK, 1)[1].rstrip())
        process.wait()
    finally:
        process.terminate()
    return _final_status(home, environment)


def _final_status(home: Path, environment: Mapping[str, str]) -> str:
    try:
        return str(listed_run(CONNECTION, folder=home, environment=environment)["status"])
    except FlowerCommandError as error:
        return f"unknown ({error})"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


def read_preset(name: str) -> dict[str, Scalar]:
    """The flat keys of a preset by name (``common/presets/<name>.toml``) or of any TOML file by path."""
    path = PRESETS / f"{name}.toml" if name in preset_names() else Path(name)
    if not path.is_file():
        raise LaunchError(f'preset "{name}": neither a preset ({", ".join(preset_names())}) nor a TOML file')
    return read_toml(path, f'preset "{name}"')


def preset_names() -> list[str]:
    """The presets that come with the app."""
    return sorted(preset.stem for preset in PRESETS.glob("*.toml"))


def read_resumed(folder: Path) -> dict[str, Scalar]:
    """The flat keys under which the interrupted run in ``folder`` was started."""
    path = folder / "config.toml"
    if not path.is_file():
        raise LaunchError(
            f'resume = "{folder}": config.toml is missing there; give the results folder of an interrupted run'
        )
    return read_toml(path, f'resume = "{folder}"')


def read_toml(path: Path, what: str) -> dict[str, Scalar]:
    """The flat keys of a TOML file; ``what`` says in an error where they were asked for."""
    try:
        return flatten(read_tables(path))
    except ConfigError as error:
        raise LaunchError(f"{what}: {error}") from None
