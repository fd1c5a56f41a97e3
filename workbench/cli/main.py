"""The ``dr-encoder`` command: every command is the file of its name beside this one."""

from typing import Annotated

import typer

from common.private_files import private_files
from workbench.cli.budget import budget
from workbench.cli.chat import chat
from workbench.cli.check_site import check_site
from workbench.cli.command_line import PlainCommand, PlainGroup
from workbench.cli.compare import compare
from workbench.cli.evaluate import evaluate
from workbench.cli.export import export
from workbench.cli.generate import generate
from workbench.cli.keys import keys
from workbench.cli.plan import plan
from workbench.cli.run import run
from workbench.cli.traffic import traffic
from workbench.cli.watch import watch
from workbench.version import app_version

app = typer.Typer(cls=PlainGroup, add_completion=False, pretty_exceptions_enable=False)

for command in (budget, chat, check_site, compare, evaluate, export, generate, keys, plan, run, traffic, watch):
    app.command(cls=PlainCommand)(command)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dr-encoder {app_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def describe(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Private, compressed federated fine-tuning of language models."""
    context.with_resource(private_files())
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
