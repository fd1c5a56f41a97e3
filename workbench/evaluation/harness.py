"""Public benchmarks through EleutherAI's lm-evaluation-harness, around a model that is loaded already."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from torch import Tensor

from common.config import ConfigError
from common.counts import count
from common.model.adapted import AdaptedModel
from workbench.evaluation.columns import SubjectScore, benchmarks

_log = logging.getLogger(__name__)
_MISTAKES = (AssertionError, AttributeError, ImportError, LookupError, StopIteration, TypeError)  # of task files
EXTRA = 'pip install "dr-encoder[evaluation]"'


@dataclass(frozen=True)
class HarnessSettings:
    """How the harness asks: ``shots`` examples before each question, at most ``limit`` questions a task (None = all).

    ``include_path`` is a folder of the user's own task files, which go before the harness's.
    """

    shots: int = 5
    limit: int | None = None
    batch_size: int = 8
    include_path: str = ""
    chat_template: bool = False


class Harness:
    """Tasks of the harness, found before any model is loaded. Raises ``ConfigError`` for one that does not exist."""

    def __init__(self, tasks: Sequence[str], settings: HarnessSettings) -> None:
        self._tasks = list(tasks)
        self._settings = settings
        self._manager = _task_manager(self._tasks, settings.include_path)

    def __call__(self, adapted: AdaptedModel, adapter: Tensor) -> dict[str, dict[str, Any]]:
        """Score the adapter (shape ``[n]``); the result has an entry for every asked task.

        MMLU and C-Eval have ``columns`` (percent), ``subjects`` (accuracy, 0 to 1) and ``questions``; another task has
        the harness's own ``metrics``.
        """
        from lm_eval import evaluator, simple_evaluate  # noqa: PLC0415 - slow, and an optional extra
        from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

        evaluator.get_git_commit_hash = lambda: ""  # else git complains aloud outside of a checkout
        adapted.load(adapter)
        adapted.training_mode(False)
        model = HFLM(pretrained=adapted.model, tokenizer=adapted.tokenizer, batch_size=self._settings.batch_size)
        unanswerable = _Unanswerable()
        try:
            with unanswerable.counting():
                found = simple_evaluate(
                    model=model,
                    tasks=self._tasks,
                    num_fewshot=self._settings.shots,
                    limit=self._settings.limit,
                    batch_size=self._settings.batch_size,
                    apply_chat_template=self._settings.chat_template,
                    task_manager=self._manager,
                    log_samples=False,
                    bootstrap_iters=0,
                )
        except (OSError, DatasetsError) as error:
            raise ConfigError(
                f"tasks {', '.join(self._tasks)}: their data could not be read: {str(error).splitlines()[0]} "
                "(log in with `hf auth login`, or give --include-path with task files that name local data)"
            ) from error
        except ValueError as error:
            raise ConfigError(f"tasks {', '.join(self._tasks)}: the harness cannot run them: {error}") from error
        except (TemplateError, *_MISTAKES) as error:
            raise ConfigError(
                f"tasks {', '.join(self._tasks)}: the harness cannot run them: {type(error).__name__}: "
                f"{str(error) or 'of the task file or its data'} (see the task file, its data and --shots)"
            ) from error
        if unanswerable.questions:
            _log.warning(
                "tasks %s: the answer of %s is none of its choices, and no model can be right there (doc_to_target?)",
                ", ".join(self._tasks), count(unanswerable.questions, "question"),
            )  # fmt: skip
        return {task: _entry(task, found) for task in self._tasks}


class _Unanswerable(logging.Filter):
    """Counts what the harness says of questions whose answer is none of their choices: a line each, with the row."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Count a question; only errors are heard."""
        self.questions += record.getMessage().startswith("Label index")
        return record.levelno >= logging.ERROR

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Hear of the harness's tasks what they warn of."""
        logger = logging.getLogger("lm_eval.api.task")
        level = logger.level
        logger.setLevel(logging.WARNING)
        logger.addFilter(self)
        try:
            yield
        finally:
            logger.removeFilter(self)
            logger.setLevel(level)


def _entry(task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    benchmark = benchmarks().get(task)
    results, counts = found["results"], found["n-samples"]
    if benchmark is None:
        return {"metrics": {key: value for key, value in results[task].items() if isinstance(value, int | float)}}
    named = {benchmark.subject(name): name for name in counts}
    scores = {
        subject: SubjectScore(float(results[name]["acc,none"]), int(counts[name]["effective"]))
        for subject, name in sorted((s, n) for s, n in named.items() if s is not None)
    }
    return {
        "columns": benchmark.columns(scores),
        "subjects": {subject: score.accuracy for subject, score in scores.items()},
        "questions": sum(score.questions for score in scores.values()),
    }


def _task_manager(tasks: Sequence[str], include_path: str) -> Any:  # noqa: ANN401 - the extra may be absent
    try:
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - slow, and an optional extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"tasks {', '.join(tasks)} need the evaluation harness: {EXTRA}") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if include_path:
        own = TaskManager(include_path=include_path, include_defaults=False)
        if all(_is_complete(own.task_index, task) for task in tasks):  # spares the index of 15,000 task files
            return own
    manager = TaskManager(include_path=include_path or None)
    unknown = [task for task in tasks if task not in manager.task_index]
    if unknown:
        _check_files(include_path)
        near = [name for task in unknown for name in get_close_matches(task, manager.all_tasks)]
        meant = f"did you mean {', '.join(near)}? " if near else ""
        raise ConfigError(
            f"tasks {', '.join(unknown)}: neither the harness nor this app knows them; {meant}own task files go to "
            "--include-path"
        )
    return manager


def _check_files(include_path: str) -> None:
    """Refuse a task file that is no YAML: the harness passes over it in silence."""
    import yaml  # noqa: PLC0415 - comes with the harness

    for path in sorted(Path(include_path).rglob("*.yaml")) if include_path else ():
        try:
            yaml.compose(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _is_complete(index: Mapping[str, Any], name: str) -> bool:
    """Whether an index holds a task, or a group with all that it names."""
    if name not in index:
        return False
    members = (index[name].cfg or {}).get("task")
    named = [member for member in members if isinstance(member, str)] if isinstance(members, list) else []
    return all(_is_complete(index, member) for member in named)
