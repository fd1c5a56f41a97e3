"""How every command says something: a terminal obeys what a file, a log or another party has put into a text."""

import typer

from server_app.results.units import harmless, printing


def say(text: str, *, fg: str | None = None, err: bool = False, nl: bool = True) -> None:
    """Print a text, harmless, in a colour where there is a terminal; ``err``: to stderr, ``nl``: with a line's end."""
    with printing():
        typer.secho(harmless(text), fg=fg, err=err, nl=nl)
