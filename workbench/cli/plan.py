"""The command ``dr-encoder plan``."""

from typing import Annotated

import typer

from common.config import RunConfig
from server_app.results.tracking import watched
from server_app.strategies import check_strategy
from workbench.cli.command_line import warn
from workbench.cli.overrides import parse_overrides
from workbench.cli.unread_keys import refuse_unread
from workbench.planning.model_directory import check_directory
from workbench.saying import say
from workbench.simulation.launcher import read_preset


def plan(
    preset: Annotated[str, typer.Option(help="preset name, or a TOML file")] = "demo",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value on top; repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Size a run before anything is downloaded: parameters, bytes, memory, noise, GPUs."""
    changes = parse_overrides(overrides)
    flat = read_preset(preset)
    config = RunConfig.parse(flat | changes)
    check_strategy(config)
    refuse_unread(config, changes)
    check_directory(config.model.name)
    from common.model.precision import slow_arithmetic  # noqa: PLC0415 - seconds, which a refusal need not wait for
    from workbench.planning import sizing  # noqa: PLC0415

    warn(slow_arithmetic(config.model))
    with watched("sizing the run"):
        found = sizing.to_json(config) if as_json else sizing.to_text(config)
    say(found)
