"""``flwr run`` to its end, with the exit code that it lacks: 0 only for a run that Flower has seen completed.

``flwr run --stream`` ends with 0 when the ServerApp failed, and ends early when the SuperLink is restarted under it.
"""

import subprocess
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from server_app.command_line import run_command
from server_app.flower_cli import FlowerCommandError, ask_flower, listed_run

_POLL_SECONDS = 2.0
_TRIES = 30  # of asking a SuperLink that does not answer: a minute or more, in which it may be restarted


def submit(
    connection: Annotated[str, typer.Argument(help="name of the SuperLink in Flower's config.toml")],
    app: Annotated[str, typer.Option(help="folder of the app, or @publisher/name==version of one kept by name")] = ".",
    config: Annotated[Path | None, typer.Option(help="TOML file with the run's keys", exists=True)] = None,
) -> None:
    """Start a run, pass its log on, and wait until it has finished, through restarts of the SuperLink."""
    keys = ["-c", str(config)] if config else []
    try:
        run = int(ask_flower("run", app, connection, *keys, seconds=None)["run-id"])
    except FlowerCommandError as error:
        _fail(f"the run was refused: {error}")
    typer.echo(f"run {run} started; Ctrl-C leaves it running, `flwr stop {run} {connection}` ends it")
    status = "unknown"
    while not status.startswith("finished"):
        subprocess.run(["flwr", "log", str(run), connection, "--stream"], check=False)  # noqa: S603, S607
        status = _status(run, connection)
        time.sleep(_POLL_SECONDS)
    typer.echo(f"run {run} is {status}")
    if status != "finished:completed":
        raise typer.Exit(1)


def _status(run: int, connection: str) -> str:
    said = ""
    for _ in range(_TRIES):
        try:
            return str(listed_run(connection, run)["status"])
        except FlowerCommandError as error:
            said = str(error)
            time.sleep(_POLL_SECONDS)
    return _fail(f"the SuperLink no longer answers for run {run}: {said}")


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


if __name__ == "__main__":
    run_command(submit)
