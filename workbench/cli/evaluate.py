"""The command ``dr-encoder evaluate``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from server_app.results.naming import naming
from server_app.results.output_place import check_file
from server_app.results.tracking import watched
from workbench.cli.overrides import parse_overrides
from workbench.evaluation.request import Beams, Request, configured
from workbench.planning.model_directory import check_directory
from workbench.saying import say


def evaluate(
    adapter: Annotated[Path, typer.Option(help="an adapter in PEFT's format: results/<run>/adapter")],
    tasks: Annotated[
        str,
        typer.Option(help="mmlu, ceval-valid, any lm-eval task; e2e, dart or dialogsum with --data"),
    ] = "",
    model: Annotated[str, typer.Option(help="base model; left out: the run's, or the one that the adapter names")] = "",
    data: Annotated[str, typer.Option(help="held-out rows: a file, directory or hub id; left out: the run's")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value on top of the run's configuration; repeatable")
    ] = None,
    include_path: Annotated[str, typer.Option(help="folder of own lm-eval task files")] = "",
    shots: Annotated[int, typer.Option(help="examples before each lm-eval question", min=0)] = 5,
    limit: Annotated[int | None, typer.Option(help="first questions of each task, prompts or rows only", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="questions or rows at a time", min=1)] = 8,
    new_tokens: Annotated[int, typer.Option(help="longest text that is written, in tokens", min=1)] = 128,
    beams: Annotated[int, typer.Option(help="beams of generated texts; 1: greedy", min=1, max=64)] = 1,
    length_penalty: Annotated[
        float, typer.Option(help="power of a beam's length that divides its log-probability; above 0 longer texts win")
    ] = 1.0,
    base: Annotated[bool, typer.Option(help="score the base model without the adapter too")] = True,
    out: Annotated[Path | None, typer.Option(help="write the scores as JSON to this file, after each model")] = None,
) -> None:
    """Score a saved adapter, and its base model, on public tasks; the held-out loss always where there are rows."""
    changes = parse_overrides(overrides)
    request = Request(
        adapter=adapter,
        tasks=tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip())),
        data=data,
        changes=changes | ({"model.name": model} if model else {}),
        include_path=include_path,
        limit=limit,
        batch_size=batch_size,
        shots=shots,
        new_tokens=new_tokens,
        beams=Beams(beams, length_penalty),
        base=base,
    )
    config = configured(request)
    check_directory(config.model.name)
    if out is not None:
        check_file(out, reads=(adapter, *map(Path, (config.data.name, config.data.evaluation, config.data.validation))))
    with watched("loading the libraries"):
        from workbench.evaluation import report as evaluation_report  # noqa: PLC0415 - torch, which a refusal above need not wait for

    def keep(report: dict[str, Any]) -> None:
        scored = list(report["scores"])[-1]
        say(f"scored: {scored}", err=True)
        if out is not None:
            with naming(out):
                out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    with watched("evaluating"):
        report = evaluation_report.evaluate(request, keep)
    say(evaluation_report.to_text(report))
