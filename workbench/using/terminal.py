"""Base and tuned model side by side in a terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.data.chats import Message
from server_app.results.units import harmless
from workbench.using.writer import Writer

_HEADS = {"base": "base model", "tuned": "tuned", "reference": "reference"}
_CUT = "(this talk has outgrown the model: what was said first is not read any more; /new begins again)"
_NO_TEXT = "(that line is not text in UTF-8: it is passed over)"
_HELP = "/new begins again, /quit (or Ctrl-D) ends; Ctrl-C stops an answer"


def side_by_side(texts: dict[str, str]) -> Table:
    """A column for each model, as wide as the terminal lets them be."""
    table = Table(expand=True, show_lines=False, padding=(0, 1))
    for who in texts:
        table.add_column(_HEADS[who], ratio=1, overflow="fold", header_style="bold" if who == "tuned" else "dim")
    table.add_row(*(Text(harmless(text)) for text in texts.values()))
    return table


def talk(writer: Writer, console: Console, system: str = "", read: Callable[[], str] | None = None) -> None:
    """Ask until the end of the input; each model sees its own answers of before, and not the other's.

    ``read``: gives the next line, or raises ``EOFError``.
    """
    read = read or (lambda: console.input("[bold]you[/bold] "))
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    histories, cuts = {who: list(start) for who in writer.adapters}, writer.cuts
    said = "" if writer.templated else ". There is no chat template: each line is a text that is continued"
    console.print(_HELP + said, style="dim")
    while True:
        try:
            line = read().strip()
            line.encode()  # what is not UTF-8 comes as half of a pair, which no tokenizer takes
        except UnicodeError:
            console.print(_NO_TEXT, style="dim")
            continue
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        if line == "/new":
            histories = {who: list(start) for who in writer.adapters}
        elif line.startswith("/"):
            console.print(_HELP, style="dim")
        elif line:
            _answer(writer, console, histories, line)
            if writer.cuts > cuts:
                console.print(_CUT, style="dim")
            cuts = writer.cuts


def _answer(writer: Writer, console: Console, histories: dict[str, list[Message]], line: str) -> None:
    texts = dict.fromkeys(histories, "")
    with Live(side_by_side(texts), console=console, auto_refresh=False, transient=True) as live:
        for who, history in histories.items():

            def told(piece: str, who: str = who) -> None:
                texts[who] += piece
                live.update(side_by_side(texts), refresh=console.is_terminal)

            asked = [*history, {"role": "user", "content": line}]
            try:
                texts[who] = writer.write(who, writer.prompt(asked), told)
            except KeyboardInterrupt:
                texts[who] = f"{texts[who].strip()} (stopped)"
            history[:] = [*asked, {"role": "assistant", "content": texts[who] or "(nothing)"}]
    console.print(side_by_side(texts))  # whole, with a line's end, also in a pipe
