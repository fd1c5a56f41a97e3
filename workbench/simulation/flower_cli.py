"""Flower's commands with ``--format json``, asked and read in one place.

As JSON most of their failures end with exit code 0, and only ``{"success": false, "error-message": ...}`` tells them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server_app.errors import CommandError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LENGTH = 300  # characters of what a command said, in an error


class FlowerCommandError(CommandError):
    """A command of Flower's failed or told nothing that can be read; the message holds the end of what it said."""


def ask_flower(
    *arguments: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = 120.0,
) -> dict[str, Any]:
    """The JSON object that ``flwr <arguments> --format json`` prints.

    ``folder`` and ``environment`` are the command's working directory and whole environment, by default this
    process's. Raises ``FlowerCommandError`` after an exit code other than 0, when the object does not say
    ``"success": true``, and when the command has not ended after ``seconds`` (``None``: it is waited for).
    """
    command = ["flwr", *arguments, "--format", "json"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed program, no shell
            command,
            cwd=folder,
            env=for_flower(os.environ if environment is None else environment),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise _failed(command, f"nothing within {seconds:.0f} s") from None
    printed = _read(done.stdout)
    if done.returncode or not printed.get("success"):
        said = str(printed.get("error-message", done.stdout + done.stderr))
        raise _failed(command, said.strip() or f"nothing, exit code {done.returncode}")
    return printed


def for_flower(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment in UTF-8, and without a proxy for what is on this machine; other exceptions from it stay.

    Flower's programs beside this Python are found though the virtual environment isn't activated.
    """
    said = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    named = [name.strip() for name in said.split(",") if name.strip()]
    direct = ",".join([*named, *(name for name in _LOOPBACK if name not in named)])
    path = os.pathsep.join(filter(None, (environment.get("PATH", ""), str(Path(sys.executable).parent))))
    return {**environment, "PATH": path, "no_proxy": direct, "NO_PROXY": direct, "PYTHONUTF8": "1"}


def listed_run(
    connection: str = "",
    run: int | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What ``flwr ls`` tells of a run: ``status`` (``finished:completed``, ...), ``network-traffic``, times.

    ``connection`` names the SuperLink in Flower's config.toml ("": its default); without ``run`` it is the first
    that is listed. Raises ``FlowerCommandError``, also when there is no such run.
    """
    arguments = ["ls", *([connection] if connection else []), *([] if run is None else ["--run-id", str(run)])]
    listing = ask_flower(*arguments, folder=folder, environment=environment)
    for entry in listing.get("runs", []):
        if run is None or entry.get("run-id") == str(run):
            return dict(entry)
    raise _failed(["flwr", *arguments], "no run" if run is None else f"no run {run}")


def _read(printed: str) -> dict[str, Any]:
    """The JSON object; empty for anything else."""
    try:
        found = json.loads(printed)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _failed(command: list[str], said: str) -> FlowerCommandError:
    return FlowerCommandError(f"{' '.join(command)} said: {' '.join(said.split())[-_LENGTH:]}")
