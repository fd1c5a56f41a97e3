"""The command ``dr-encoder generate``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from common.config.fields import LARGEST_SEED
from common.counts import count
from server_app.results.naming import naming
from server_app.results.output_place import check_file
from server_app.results.tracking import watched
from server_app.results.units import harmless
from workbench.cli.command_line import warn
from workbench.cli.overrides import parse_overrides
from workbench.saying import say
from workbench.using.request import Sampling, asked, check_prompts


def generate(
    adapter: Annotated[Path, typer.Option(help="an adapter in PEFT's format: results/<run>/adapter")],
    prompts: Annotated[
        Path, typer.Option(help="a text a line, or JSONL, CSV or Parquet: prompt, messages, or the run's columns")
    ],
    out: Annotated[Path | None, typer.Option(help="write JSONL to this file, in place of the terminal")] = None,
    model: Annotated[str, typer.Option(help="base model; left out: the run's, or the one that the adapter names")] = "",
    base: Annotated[bool, typer.Option(help="the base model's texts beside the tuned one's")] = True,
    limit: Annotated[int | None, typer.Option(help="first prompts only", min=1)] = None,
    new_tokens: Annotated[int, typer.Option(help="longest text, in tokens", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token each time; above: drawn", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="of what is drawn, for one --batch-size", min=0, max=LARGEST_SEED)] = 1,
    batch_size: Annotated[int, typer.Option(help="prompts at a time", min=1)] = 8,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="model.* or data.* on top of the run's; repeatable")
    ] = None,
) -> None:
    """Write what the base and the tuned model say to a file of prompts."""
    request = asked(adapter, parse_overrides(overrides) | ({"model.name": model} if model else {}))
    sampling = Sampling(new_tokens, temperature, seed)
    check_prompts(prompts)
    if out is not None:
        check_file(out, reads=(prompts, adapter))
    with watched("loading the libraries"):
        from rich.console import Console  # noqa: PLC0415 - and torch, which a refusal above need not wait for

        from server_app.results.writing import told  # noqa: PLC0415
        from workbench.using.prompts import read_prompts  # noqa: PLC0415
        from workbench.using.terminal import side_by_side  # noqa: PLC0415
        from workbench.using.writer import Writer  # noqa: PLC0415
    read_prompts(prompts, request.config.data, templated=False)  # what is wrong with it is told before the model loads
    with watched("loading the model"):
        writer = Writer.load(request, sampling, base=base)
    asks = read_prompts(prompts, request.config.data, templated=writer.templated)[:limit]
    ids = [writer.prompt(ask.messages) for ask in asks]
    for warning in writer.warnings():
        warn(warning)
    with watched("writing"):
        texts = {who: writer.write_all(who, ids, batch_size) for who in writer.adapters}
    settings = writer.settings | ({"seed": seed, "batch_size": batch_size} if temperature else {})
    rows = [dict(zip(texts, pair, strict=True)) for pair in zip(*texts.values(), strict=True)]
    if out is not None:
        lines = [ask.row() | row for ask, row in zip(asks, rows, strict=True)]
        with naming(out):
            out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        say(f"{count(len(lines), 'prompt')} answered: {out}\n{told(settings)}")
        return
    console = Console()
    for ask, row in zip(asks, rows, strict=True):
        console.print(f"\n{harmless(ask.messages[-1]['content'])}", markup=False, highlight=False)
        console.print(side_by_side(row | ({"reference": ask.reference} if ask.reference else {})))
    say(f"\n{told(settings)}")
