"""``dr-encoder evaluate``: a saved adapter, and the base model beside it, on public tasks and held-out rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor

from common.config import ConfigError, EvaluationConfig, RunConfig, Scalar
from common.data import evaluation_examples
from common.models import AdaptedModel
from common.positions import check_length
from server_app.evaluation import Evaluator
from server_app.evaluation_adapter import adapter_config, load_adapter
from server_app.evaluation_columns import AVERAGE, DISCIPLINES, HARD
from server_app.evaluation_generation import (
    GREEDY,
    SETS,
    Beams,
    Prompts,
    generation_settings,
    score_texts,
    scoring,
    write_texts,
)
from server_app.evaluation_harness import Harness, HarnessSettings

HELD_OUT = "held-out"
_Scorer = Callable[[Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """What to evaluate, and on what; ``changes`` are keys of the run configuration."""

    adapter: Path
    tasks: tuple[str, ...] = ()
    data: str = ""
    changes: Mapping[str, Scalar] = field(default_factory=dict)
    include_path: str = ""
    limit: int | None = None
    batch_size: int = 8
    shots: int = 5
    new_tokens: int = 128
    beams: Beams = GREEDY
    base: bool = True

    @property
    def generation(self) -> str:
        """The generation set among the tasks, or ``""``. Raises ``ConfigError`` for more than one."""
        asked = [task for task in self.tasks if task in SETS]
        if len(asked) > 1:
            raise ConfigError(f"tasks {', '.join(asked)}: one set with its --data at a time")
        return asked[0] if asked else ""


def evaluate(request: Request) -> dict[str, Any]:
    """Score base and adapter; ``scores`` has an entry for each, with one for every task and for the held-out rows.

    Everything that can be refused is refused before the model is loaded (``ConfigError``).
    """
    config = _config(request)
    named = [task for task in request.tasks if task not in SETS]
    settings = HarnessSettings(
        request.shots, request.limit, request.batch_size, request.include_path, config.data.chat_template
    )
    harness = Harness(named, settings) if named else None
    rows = evaluation_examples(config.data, config.seed)
    if rows is not None and request.limit is not None:
        rows = rows if request.generation else rows.select(range(min(request.limit, len(rows))))
    adapted, adapter = load_adapter(request.adapter, config)
    new_tokens = request.new_tokens if request.generation else 0
    check_length(adapted.model.get_base_model(), config.model.name, config.data.max_length, new_tokens)
    prompts = Prompts.of(rows, config.data, adapted, request.limit) if rows is not None and request.generation else None
    score = _scorer(request, config, adapted, harness, rows, prompts)
    scores = {"base": score(adapted.initial)} if request.base else {}
    return {
        "schema": 1,
        "adapter": str(request.adapter),
        "model": config.model.name,
        "data": config.data.evaluation or ("demo" if rows is not None else ""),
        "tasks": list(request.tasks),
        "shots": request.shots,
        "limit": request.limit,
        "generation": _generation(request, adapted, prompts),
        "scores": scores | {"adapter": score(adapter)},
    }


def _config(request: Request) -> RunConfig:
    changes = dict(request.changes)
    if request.data:
        changes["data.evaluation"] = request.data
    if request.generation:
        changes |= {"data.format": request.generation}
        changes |= {
            "data.prompt-column": "prompt",
            "data.completion-column": "completion",
            "data.group-column": "group",
        }
    config = adapter_config(request.adapter, changes)
    if request.generation and not config.data.evaluation:
        raise ConfigError(f"task {request.generation}: give its held-out rows with --data")
    config.check_files()
    return config


def _scorer(
    request: Request,
    config: RunConfig,
    adapted: AdaptedModel,
    harness: Harness | None,
    rows: Dataset | None,
    prompts: Prompts | None,
) -> _Scorer:
    data = config.data
    evaluator = (
        Evaluator(adapted, rows, data, EvaluationConfig(batch_size=request.batch_size)) if rows is not None else None
    )

    def score(adapter: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = harness(adapted, adapter) if harness else {}
        if prompts is not None:
            texts = write_texts(
                adapted, adapter, prompts.texts, data, request.batch_size, request.new_tokens, request.beams
            )
            found[request.generation] = score_texts(texts, prompts.references) | {"prompts": len(texts)}
        if evaluator is not None:
            held_out = evaluator(adapter)
            accuracy = {} if held_out.accuracy is None else {"accuracy": held_out.accuracy}
            found[HELD_OUT] = {"loss": held_out.loss, **accuracy, "examples": held_out.examples}
        return found

    return score


def _generation(request: Request, adapted: AdaptedModel, prompts: Prompts | None) -> dict[str, Any]:
    """How texts were written and their words counted; empty where none were."""
    if prompts is None:
        return {}
    return generation_settings(adapted, request.new_tokens, request.beams) | scoring(prompts.references)


def to_text(report: Mapping[str, Any]) -> str:
    """The report as tables, one for each task, a line for each model."""
    scores: Mapping[str, Mapping[str, Any]] = report["scores"]
    lines = [f"{report['adapter']} on {report['model']}"]
    for task in next(iter(scores.values())):
        lines += ["", *_table(task, {name: found[task] for name, found in scores.items()}, report)]
    if report["generation"]:
        lines += ["", "texts: " + ", ".join(f"{key} = {value}" for key, value in report["generation"].items())]
    if not report["data"]:
        lines += ["", "held-out loss: not computed, since neither the run nor --data names held-out rows"]
    return "\n".join(lines)


def _table(task: str, found: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any]) -> list[str]:
    first = next(iter(found.values()))
    if "columns" in first:
        header = [name for name in (*DISCIPLINES, AVERAGE, HARD) if name in first["columns"]]
        body = {name: [f"{entry['columns'][key]:.2f}" for key in header] for name, entry in found.items()}
        shown = f"{task} (accuracy in %, {first['questions']} questions, {report['shots']}-shot)"
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
