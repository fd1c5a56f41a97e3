"""The command ``dr-encoder chat``."""

from pathlib import Path
from typing import Annotated

import typer

from server_app.results.tracking import watched
from workbench.cli.command_line import warn
from workbench.cli.overrides import parse_overrides
from workbench.using.request import Sampling, asked


def chat(
    adapter: Annotated[Path, typer.Option(help="an adapter in PEFT's format: results/<run>/adapter")],
    model: Annotated[str, typer.Option(help="base model; left out: the run's, or the one that the adapter names")] = "",
    system: Annotated[str, typer.Option(help="what the system says before the first question")] = "",
    base: Annotated[bool, typer.Option(help="the base model's answers beside the tuned one's")] = True,
    new_tokens: Annotated[int, typer.Option(help="longest answer, in tokens", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token each time; above: drawn", min=0)] = 0.0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="model.* or data.chat-template on top of the run's; repeatable")
    ] = None,
) -> None:
    """Talk to a tuned model, with its base model beside it."""
    request = asked(adapter, parse_overrides(overrides) | ({"model.name": model} if model else {}))
    sampling = Sampling(new_tokens, temperature)
    with watched("loading the libraries"):
        from rich.console import Console  # noqa: PLC0415 - and torch, which a refusal above need not wait for

        from workbench.using.terminal import talk  # noqa: PLC0415
        from workbench.using.writer import Writer  # noqa: PLC0415
    with watched("loading the model"):
        writer = Writer.load(request, sampling, base=base)
    for warning in writer.warnings():
        warn(warning)
    talk(writer, Console(), system)
