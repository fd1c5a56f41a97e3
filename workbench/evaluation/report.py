"""``dr-encoder evaluate``: a saved adapter, and the base model beside it, on public tasks and held-out rows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from torch import Tensor

from common.config import DataConfig, RunConfig
from common.counts import count
from common.data import evaluation_examples, is_end_taught
from common.model.adapted import AdaptedModel
from common.model.positions import check_length
from server_app.results.evaluation import Evaluator
from server_app.results.tracking import phase
from server_app.results.writing import ENDLESS, told
from workbench.evaluation.adapter import load_adapter
from workbench.evaluation.columns import AVERAGE, DISCIPLINES, HARD
from workbench.evaluation.generation import Prompts, generation_settings, score_texts, scoring, write_lines
from workbench.evaluation.harness import Harness, HarnessSettings
from workbench.evaluation.request import SETS, Request, configured

HELD_OUT = "held-out"
_log = logging.getLogger(__name__)
_Scorer = Callable[[Tensor], dict[str, Any]]


def evaluate(request: Request, keep: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """Score base and adapter; ``scores`` has an entry for each, with one for every task and for the held-out rows.

    ``keep`` gets the report as soon as one of them is scored, so that what was done is not lost with what was not.
    Everything that can be refused is refused before the model is loaded (``ConfigError``).
    """
    config = configured(request)
    named = [task for task in request.tasks if task not in SETS]
    settings = HarnessSettings(
        request.shots, request.limit, request.batch_size, request.include_path, config.data.templated
    )
    harness = Harness(named, settings) if named else None
    rows = evaluation_examples(config.data, config.seed)
    if rows is not None and request.limit is not None and not request.generation:
        rows = rows.select(range(min(request.limit, len(rows))))
    adapted, adapter = load_adapter(request.adapter, config)
    new_tokens = request.new_tokens if request.generation else 0
    check_length(adapted.model.get_base_model(), config.model.name, config.data.max_length, new_tokens)
    prompts = Prompts.of(rows, config.data, adapted, request.limit) if rows is not None and request.generation else None
    if rows is not None and prompts is not None:
        rows = rows.select(prompts.rows)
    score = _scorer(request, config, adapted, harness, rows, prompts)
    wanted = {"base": adapted.initial} if request.base else {}
    report: dict[str, Any] = {
        "schema": 1,
        "adapter": str(request.adapter),
        "model": config.model.name,
        "data": config.data.evaluation or ("demo" if rows is not None else ""),
        "tasks": list(request.tasks),
        "shots": request.shots,
        "limit": request.limit,
        "generation": _generation(request, adapted, config.data, prompts),
        "scores": {},
    }
    for name, values in (wanted | {"adapter": adapter}).items():
        with phase(f"{name} model" if name == "base" else name):
            report["scores"][name] = score(values)
        keep(report)
    return report


def _scorer(
    request: Request,
    config: RunConfig,
    adapted: AdaptedModel,
    harness: Harness | None,
    rows: Dataset | None,
    prompts: Prompts | None,
) -> _Scorer:
    data = config.data
    evaluator = Evaluator(adapted, rows, data, request.batch_size) if rows is not None else None
    for warning in evaluator.warnings(data.evaluation, config.model.name) if evaluator is not None else ():
        _log.warning("%s", warning)

    def score(adapter: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = harness(adapted, adapter) if harness else {}
        if prompts is not None:
            texts = write_lines(
                adapted, adapter, prompts.texts, data, request.batch_size, request.new_tokens, request.beams
            )
            found[request.generation] = score_texts(texts, prompts.references) | {"prompts": len(texts)}
        if evaluator is not None:
            held_out = evaluator(adapter)
            accuracy = {} if held_out.accuracy is None else {"accuracy": held_out.accuracy}
            found[HELD_OUT] = {"loss": held_out.loss, **accuracy, "examples": held_out.examples}
        return found

    return score


def _generation(request: Request, adapted: AdaptedModel, data: DataConfig, prompts: Prompts | None) -> dict[str, Any]:
    """How texts were written and their words counted; empty where none were."""
    if prompts is None:
        return {}
    if data.templated and not is_end_taught(adapted.tokenizer, data):
        _log.warning("%s", ENDLESS)
    settings = generation_settings(adapted, request.new_tokens, request.beams, templated=data.templated)
    return settings | {"chat_template": data.templated} | scoring(prompts.references)


def to_text(report: Mapping[str, Any]) -> str:
    """The report as tables, one for each task, a line for each model."""
    scores: Mapping[str, Mapping[str, Any]] = report["scores"]
    lines = [f"{report['adapter']} on {report['model']}"]
    for task in next(iter(scores.values())):
        lines += ["", *_table(task, {name: found[task] for name, found in scores.items()}, report)]
    if report["generation"]:
        lines += ["", told(report["generation"])]
    if not report["data"]:
        lines += ["", "held-out loss: not computed, since neither the run nor --data names held-out rows"]
    return "\n".join(lines)


def _table(task: str, found: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any]) -> list[str]:
    first = next(iter(found.values()))
    if "columns" in first:
        header = [name for name in (*DISCIPLINES, AVERAGE, HARD) if name in first["columns"]]
        body = {name: [f"{entry['columns'][key]:.2f}" for key in header] for name, entry in found.items()}
        shown = f"{task} (accuracy in %, {count(first['questions'], 'question')}, {report['shots']}-shot)"
        return _aligned(shown, header, body)
    first = first.get("metrics", first)
    header = list(first)
    body = {
        name: [
            f"{value:.3f}" if isinstance(value, float) else str(value) for value in entry.get("metrics", entry).values()
        ]
        for name, entry in found.items()
    }
    return _aligned(task, header, body)


def _aligned(title: str, header: Sequence[str], body: Mapping[str, Sequence[str]]) -> list[str]:
    widths = [max(len(name), *(len(cells[i]) for cells in body.values())) for i, name in enumerate(header)]
    lines = {"": header, **body}
    return [title] + [
        f"  {name:<8}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in lines.items()
    ]
