"""The edge of every command line of this app: where what a person can mend becomes a line or two and an exit code.

A mistake in what was typed ends with 2, anything else that a person can mend with 1, Ctrl-C with 130. A defect of the
app keeps its traceback.
"""

import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NoReturn

import click
import typer
from typer.core import TyperCommand, TyperGroup

from common.config import ConfigError
from server_app.errors import CommandError
from server_app.results.units import harmless
from workbench.saying import say

_LONGEST = 400  # characters of a library's message


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with a line or two for a person's mistake; anything else passes.

    What libraries log meanwhile commands no terminal, and neither does what they raise.
    """
    try:
        with _harmless_logs():
            yield
    except click.ClickException as error:
        _refuse(_usage(error), error.exit_code)
    except (ConfigError, CommandError) as error:
        _refuse(str(error), 1)
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        _refuse(f"a file that was named is not text in UTF-8 ({byte}); save it as UTF-8", 1)
    except OSError as error:
        _refuse(of_the_system(error), 1)
    except KeyboardInterrupt:
        say("\nstopped", err=True)
        sys.exit(130)
    except Exception:
        sys.excepthook = _tell_defect
        raise


def _tell_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback as Python prints it, without control characters: a model's words may be in it."""
    sys.stderr.write(_harmless_traceback(kind, error, trace))


def _harmless_traceback(*raised: Any) -> str:  # noqa: ANN401 - kind, error, trace, as ``sys.exc_info`` has them
    return harmless("".join(traceback.format_exception(*raised)))


class _HarmlessRecord(logging.LogRecord):
    """A library's words with what they name, as the files of a model that somebody has handed out have it."""

    def __init__(self, *given: Any, **named: Any) -> None:  # noqa: ANN401 - logging's signature
        super().__init__(*given, **named)
        if self.exc_info:  # a handler takes this text, where there is one, for the traceback
            self.exc_text = _harmless_traceback(*self.exc_info).rstrip("\n")

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """The message without control characters."""
        return harmless(super().getMessage())


@contextmanager
def _harmless_logs() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_HarmlessRecord)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


def main_with_plain_errors(main: Callable[[], object]) -> None:
    """Run the ``main`` of a ``python -m`` program that reads its own options."""
    with plain_errors():
        main()


def run_command(function: Callable[..., None]) -> NoReturn:
    """Run a program that is one command: ``function``, whose parameters are its options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=PlainCommand)(function)
    app()
    sys.exit(0)


class _Plain:
    """What the two below share; a mix-in for click's commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> Any:  # noqa: ANN401 - click's signature
        """Run to the end of the process, unless ``standalone_mode`` is false."""
        above: Any = super()
        if not standalone_mode:
            return above.main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        with plain_errors():
            code = above.main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command; Typer would end it in silence after Ctrl-C, and take what is no number for one."""
        above: Any = super()
        _refuse_no_number(ctx)
        try:
            return above.invoke(ctx)
        except KeyboardInterrupt:
            say("\nstopped", err=True)
            raise typer.Exit(130) from None


class PlainCommand(_Plain, TyperCommand):
    """A command whose errors are a line or two."""


class PlainGroup(_Plain, TyperGroup):
    """Commands whose errors are a line or two, in the order of their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(super().list_commands(ctx))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; click suggests a near one by itself, and Typer would say it again."""
        return click.Group.resolve_command(self, ctx, args)


def _refuse_no_number(ctx: click.Context) -> None:
    """``nan`` is a float, and within every range."""
    for option in ctx.command.params:
        value = ctx.params.get(option.name or "")
        if isinstance(value, float) and math.isnan(value):
            raise click.BadParameter(f"{value} is not a number.", ctx, option)


def warn(text: str) -> None:
    """Say on the standard error what a person should know; nothing for ``""``."""
    if text:
        say(f"warning: {text}", fg=typer.colors.YELLOW, err=True)


def stopped(error: KeyboardInterrupt | BrokenPipeError, how_to_go_on: str) -> typer.Exit:
    """Say why a long command ends before its end and how to go on; the exit to raise."""
    unread = isinstance(error, BrokenPipeError)
    if unread:  # else Python would try once more at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with suppress(OSError):  # a terminal that has gone
        say(f"\nstopped{', since nobody reads its output' if unread else ''}{how_to_go_on}", err=True)
    return typer.Exit(1 if unread else 130)


def _refuse(message: str, code: int) -> NoReturn:
    say(f"error: {message}", fg=typer.colors.RED, err=True)
    sys.exit(code)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"\n`{context.command_path} --help` has the options" if context is not None else ""
    return f"{error.format_message()}{hint}"


def of_the_system(error: OSError) -> str:
    """What the system refused, with the file; the first line of what a library made of it."""
    if error.filename is not None and error.strerror:
        other = f" -> {error.filename2}" if error.filename2 is not None else ""
        return f"{error.filename}{other}: {error.strerror}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST]
