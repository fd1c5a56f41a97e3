"""The command ``dr-encoder watch``."""

import secrets
import socket
from pathlib import Path
from typing import Annotated

import typer

from common.config import ConfigError
from server_app.errors import CommandError
from workbench.saying import say


def watch(
    run: Annotated[
        Path | None, typer.Argument(help="results/<run>, on this machine; left out: the one written last in results/")
    ] = None,
    port: Annotated[int, typer.Option(help="port on 127.0.0.1; 0: any that is free", min=0, max=65535)] = 0,
) -> None:
    """Follow a run on a page of this machine, and stop it so that it can be resumed. Ctrl-C ends the page only."""
    from workbench.watch.server import HOST, watcher  # noqa: PLC0415 - a web server, which `keys` need not wait for
    from workbench.watch.status import newest_run  # noqa: PLC0415

    folder = run or newest_run(Path("results"))
    if folder is None:
        raise ConfigError("results: no run there; name the folder of one")
    if not (folder / "events.jsonl").is_file():
        raise ConfigError(f"{folder}: no events.jsonl there; give results/<run> of a run that has begun")
    import uvicorn  # noqa: PLC0415 - as above

    token = secrets.token_urlsafe(24)
    with socket.socket() as listening:
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise CommandError(f"--port {port}: {error.strerror}; give another, or 0") from None
        listening.listen()  # who opens the address at once waits for the server, and is not refused
        name = folder.resolve().name
        say(f"{name}: http://{HOST}:{listening.getsockname()[1]}/?token={token}")
        say("for this machine only; who has the address can stop the run. Ctrl-C ends the page, not the run")
        server = uvicorn.Server(uvicorn.Config(watcher(folder.resolve(), token), log_level="error", access_log=False))
        server.run(sockets=[listening])
