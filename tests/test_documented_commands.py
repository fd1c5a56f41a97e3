"""Every ``dr-encoder`` command that the documents and the presets show is one that the program takes."""

import json
import math
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from common.config import RunConfig
from server_app.strategies import STRATEGIES
from tests.support.documented_commands import PRESETS, Documented, in_pages, in_presets
from workbench.cli.main import app
from workbench.cli.overrides import parse_override
from workbench.cli.unread_keys import refuse_unread
from workbench.compare.spec import Entry, read_changes
from workbench.simulation.launcher import read_preset

COMMANDS: Any = typer.main.get_command(app)
DOCUMENTED = sorted(set(in_pages()) | set(in_presets()), key=str)


def options_of(documented: Documented) -> dict[str, Any]:
    """What the command line says, parsed as the program parses it, and not carried out."""
    command, words = documented.words[0], list(documented.words[1:])
    assert command in COMMANDS.commands, documented
    try:
        context = COMMANDS.commands[command].make_context(command, words)
    except click.ClickException as error:
        pytest.fail(f"{documented}: {error.format_message()}")
    return dict(context.params)


def test_the_commands_are_found() -> None:
    """The finder itself: each place that shows commands gives some, the one of the 24 GB cards among them."""
    files = {documented.file for documented in DOCUMENTED}
    assert {"README.md", "docs/models-and-data.md", "docs/comparison.md", "docs/privacy.md"} <= files
    assert {path.name for path in PRESETS if "dr-encoder run" in path.read_text()} <= files
    in_four_bits = [d.file for d in DOCUMENTED if "model.quantization=4" in d.words]
    assert "README.md" in in_four_bits
    assert len([file for file in in_four_bits if file.endswith(".toml")]) == 2
    assert any(d.file == "README.md" and "data.prompt-column=ask" in d.words for d in DOCUMENTED)  # a continued line


@pytest.mark.parametrize("documented", DOCUMENTED, ids=str)
def test_a_documented_command_is_taken(documented: Documented) -> None:
    options = options_of(documented)
    if not {"preset", "overrides"} <= options.keys():
        return
    changes: dict[str, Any] = dict(parse_override(text) for text in options["overrides"] or [])
    if "strategies" in options:
        entries = [Entry.parse(name) for name in options["strategies"].split(",")]
        changes = read_changes(options["overrides"] or [], "--set") | dict(entries[0].changes)
    named = options["preset"] or "demo"
    preset = "demo" if "/" in named else named  # a path is the reader's own
    config = RunConfig.parse(read_preset(preset) | changes)
    if "strategies" not in options and config.strategy.name in STRATEGIES:  # docs/extending.md has one of its own
        refuse_unread(config, changes)


@pytest.mark.parametrize("bits", ["4", "8"])
def test_bits_reach_the_configuration_from_the_command_line(bits: str) -> None:
    """The gap that documentation fell into: TOML reads a number where the key holds a text."""
    changes = dict([parse_override("model.name=some/model"), parse_override(f"model.quantization={bits}")])
    assert RunConfig.parse(changes).model.quantization == bits


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_can_be_planned(path: Path) -> None:
    """With the noise given where it would be solved: that takes seconds of CPU time for each."""
    private = read_preset(path.stem).get("privacy.epsilon") != math.inf
    given = ["--set", "privacy.epsilon=0.0", "--set", "privacy.noise-multiplier=1.0"] if private else []
    result = CliRunner().invoke(app, ["plan", "--preset", path.stem, "--json", *given])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout[result.stdout.index("{") :])
    assert 0 < answer["code_values"] <= answer["adapter_values"]
    assert answer["per_client_run"]["up"] >= answer["code_values"] // 4
