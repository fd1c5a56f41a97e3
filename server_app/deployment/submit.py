"""``flwr run`` to its end, with the exit code that it lacks: 0 only for a run that Flower has seen completed.

``flwr run --stream`` ends with 0 when the ServerApp failed, and ends early when the SuperLink is restarted under it.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

_POLL_SECONDS = 2.0
_TRIES = 30  # of asking a SuperLink that does not answer: a minute or more, in which it may be restarted


def submit(
    connection: Annotated[str, typer.Argument(help="name of the SuperLink in Flower's config.toml")],
    app: Annotated[str, typer.Option(help="folder of the app, or @publisher/name==version of one kept by name")] = ".",
    config: Annotated[Path | None, typer.Option(help="TOML file with the run's keys", exists=True)] = None,
) -> None:
    """Start a run, pass its log on, and wait until it has finished, through restarts of the SuperLink."""
    keys = ["-c", str(config)] if config else []
    started = _flwr("run", app, connection, *keys, "--format", "json")
    run = json.loads(started.stdout or "{}").get("run-id") if started.returncode == 0 else None
    if run is None:
        _fail(f"flwr run was refused: {(started.stdout + started.stderr).strip()}")
    typer.echo(f"run {run} started; Ctrl-C leaves it running, `flwr stop {run} {connection}` ends it")
    status = "unknown"
    while not status.startswith("finished"):
        subprocess.run(["flwr", "log", str(run), connection, "--stream"], check=False)  # noqa: S603, S607
        status = _status(str(run), connection)
        time.sleep(_POLL_SECONDS)
    typer.echo(f"run {run} is {status}")
    if status != "finished:completed":
        raise typer.Exit(1)


def _status(run: str, connection: str) -> str:
    said = ""
    for _ in range(_TRIES):
        listing = _flwr("ls", connection, "--run-id", run, "--format", "json")
        try:
            return str(json.loads(listing.stdout)["runs"][0]["status"])
        except (ValueError, KeyError, IndexError):
            said = (listing.stdout + listing.stderr).strip()
            time.sleep(_POLL_SECONDS)
    return _fail(f"the SuperLink no longer answers for run {run}: {said}")


def _flwr(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["flwr", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(submit)
