"""``flwr run`` to its end, with the exit code that it lacks: 0 only for a run that Flower has seen completed.

What the run warned of (a model below the base, rounds without replies) is repeated at the end.

``flwr run --stream`` ends with 0 when the ServerApp failed, and ends early when the SuperLink is restarted under it.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated, NoReturn

import tomli_w
import typer

from common.config import ConfigError, nest
from server_app.results.folder import RunFolder
from server_app.results.resuming import why_not_resumable, why_other_clients
from server_app.results.units import MARK, use_utf8
from workbench.cli.command_line import run_command
from workbench.saying import say
from workbench.simulation.flower_cli import FlowerCommandError, ask_flower, for_flower, listed_run
from workbench.simulation.launcher import COLOR, LaunchError, read_toml
from workbench.simulation.traffic import flower_runs

_POLL_SECONDS = 2.0
_NOT_RESUMABLE = 2  # the exit status of what trying again cannot help
_WARNING = f"{MARK}WARNING: "
_TRIES = 30  # of asking a SuperLink that does not answer: a minute or more, in which it may be restarted


def submit(
    connection: Annotated[str, typer.Argument(help="name of the SuperLink in Flower's config.toml")],
    app: Annotated[str, typer.Option(help="folder of the app, or @publisher/name==version of one kept by name")] = ".",
    config: Annotated[Path | None, typer.Option(help="TOML file with the run's keys", exists=True)] = None,
    resume_existing: Annotated[
        bool,
        typer.Option("--resume-existing", help="with --config: resume its run if that has begun on this machine"),
    ] = False,
) -> None:
    """Start a run, pass its log on, and wait until it has finished, through restarts of the SuperLink."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            running = _still_running(config, connection) if resume_existing else 0
            config = _resuming(config, Path(scratch)) if resume_existing and not running else config
        except (ConfigError, LaunchError) as error:
            _fail(str(error), code=_NOT_RESUMABLE)
        except FlowerCommandError as error:
            _fail(f"whether the run still goes on is not known: {error}")
        run = running or _start(connection, app, ["-c", str(config)] if config else [])
    _follow(connection, run)


def _start(connection: str, app: str, keys: list[str]) -> int:
    try:
        return int(ask_flower("run", app, connection, *keys, seconds=None)["run-id"])
    except FlowerCommandError as error:
        return _fail(f"the run was refused: {error}")


def _follow(connection: str, run: int) -> None:
    """Pass the log of a run on until it has finished; raises ``typer.Exit`` with 1 unless it has completed."""
    say(f"run {run} started; Ctrl-C leaves it running, `flwr stop {run} {connection}` ends it")
    status = "unknown"
    warnings: dict[str, None] = {}  # in the order in which they came, each once
    while not status.startswith("finished"):
        warnings |= dict.fromkeys(_show_log(run, connection))
        status = _status(run, connection)
        time.sleep(_POLL_SECONDS)
    say(f"run {run} is {status}")
    for warning in warnings:
        say(f"  {warning}", fg=typer.colors.RED)
    if status != "finished:completed":
        raise typer.Exit(1)


def _still_running(config: Path | None, connection: str) -> int:
    """Flower's id of the run in the folder of ``config`` if that goes on (only its watcher had ended); else 0.

    A simulation is refused first: this SuperLink knows nothing of it.
    """
    folder = _folder(config)
    why = "" if (folder / "report.json").exists() else why_other_clients(folder, "deployed")
    if why:
        raise ConfigError(f"{folder}: {why}")
    runs = flower_runs(RunFolder(folder)) if folder.exists() else []
    if not runs or str(listed_run(connection, runs[-1])["status"]).startswith("finished"):
        return 0
    return runs[-1]


def _folder(config: Path | None) -> Path:
    if config is None:
        raise ConfigError("--resume-existing needs --config")
    flat = read_toml(config, f'config "{config}"')
    folder = Path(str(flat.get("output.dir", ""))) / str(flat.get("output.name", ""))
    if not flat.get("output.name") or not folder.is_absolute():
        raise ConfigError(f"{config}: --resume-existing needs output.name, and an absolute output.dir")
    return folder


def _resuming(config: Path | None, scratch: Path) -> Path | None:
    """The keys of ``config``, with ``resume`` if its run has begun; what cannot be resumed is not begun anew."""
    folder = _folder(config)
    if config is None or not folder.exists():
        return config
    if (folder / "report.json").exists():
        say(f"{folder}: this run has ended")
        raise typer.Exit(0)
    why = why_not_resumable(folder)
    if why:
        raise ConfigError(f"{folder}: {why}")
    resumed = scratch / "run.toml"
    flat = read_toml(config, f'config "{config}"')
    resumed.write_text(tomli_w.dumps(nest({**flat, "resume": str(folder)})), encoding="utf-8")
    say(f"{folder}: resumed")
    return resumed


def _show_log(run: int, connection: str) -> list[str]:
    """Pass the run's log on as it comes, without what commands a terminal.

    Returns what it warned of, which the last line must not hide.
    """
    found = []
    command = ["flwr", "log", str(run), connection, "--stream"]
    with subprocess.Popen(  # noqa: S603
        command, env=for_flower(os.environ), stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    ) as process:
        for line in process.stdout or ():
            say(COLOR.sub("", line), nl=False)
            if _WARNING in line:
                found.append(line.split(MARK, 1)[1].strip())
    return found


def _status(run: int, connection: str) -> str:
    said = ""
    for _ in range(_TRIES):
        try:
            return str(listed_run(connection, run)["status"])
        except FlowerCommandError as error:
            said = str(error)
            time.sleep(_POLL_SECONDS)
    return _fail(f"the SuperLink no longer answers for run {run}: {said}")


def _fail(message: str, code: int = 1) -> NoReturn:
    say(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(code)


if __name__ == "__main__":
    use_utf8()
    run_command(submit)
