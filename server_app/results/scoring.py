"""Every score of a run: held-out examples, those for validation, and what the model could do before (retention)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from flwr.app import MetricRecord
from torch import Tensor

from common.config import ConfigError, DataConfig
from common.data import evaluation_examples, retention_examples, validation_examples
from common.model.adapted import AdaptedModel
from server_app.results.evaluation import Evaluation, Evaluator
from server_app.results.samples import Samples
from server_app.rounds.divergence import VALIDATION_LOSS


@dataclass
class Scorer:
    """Scores adapters as metrics; the last one's scores are kept, since the end of a run asks for them again.

    Attributes:
        held_out: what the report is about.
        validation: what decides of divergence, where there are such examples.
        retention: what the model could do before.
        samples: a few of the held-out examples, to be shown.
        last: the adapter (shape ``[n]``) that was scored last, and its scores without retention.

    """

    held_out: Evaluator
    validation: Evaluator | None
    retention: Evaluator | None
    samples: Samples
    last: tuple[Tensor, MetricRecord] | None = None

    @classmethod
    def of(cls, adapted: AdaptedModel, data: DataConfig, seed: int) -> "Scorer | None":
        """The scorer of a run; ``None`` where it has no public examples. Tokenizes all of them."""
        held_out = evaluation_examples(data, seed)
        if held_out is None:
            return None
        validation, retention = validation_examples(data, seed), retention_examples(data, seed)
        scored = _evaluator(adapted, held_out, data, "evaluation")
        return cls(
            scored,
            _evaluator(adapted, validation, data, "validation") if validation else None,
            Evaluator(adapted, retention, data) if retention else None,
            Samples(adapted, held_out, data),
        )

    def __call__(self, adapter: Tensor, *, whole: bool) -> MetricRecord:
        """Scores, in all and by group, and validation loss; retention if ``whole``."""
        if self.last is None or not torch.equal(self.last[0], adapter):
            scores = _metrics(self.held_out(adapter))
            if self.validation is not None:
                scores[VALIDATION_LOSS] = self.validation(adapter).loss
            self.last = adapter.clone(), scores
        record = self.last[1].copy()
        if whole and self.retention is not None:
            kept = self.retention(adapter)
            record["retention"] = kept.accuracy if kept.accuracy is not None else math.nan
            record["retention_error"] = kept.accuracy_error if kept.accuracy_error is not None else math.nan
        return record

    def describe(self) -> dict[str, Any]:
        """What is scored: how many questions, in all and by group, and what guessing would score."""
        groups = self.held_out.sizes
        return {
            "held_out": sum(groups.values()),
            "groups": groups,
            "retention": sum(self.retention.sizes.values()) if self.retention is not None else 0,
            "guessing": self.held_out.guessing,
        }


def _evaluator(adapted: AdaptedModel, rows: Dataset, data: DataConfig, key: str) -> Evaluator:
    """Of the rows that a key names, which stands in what is refused of them."""
    try:
        return Evaluator(adapted, rows, data)
    except ConfigError as error:
        raise ConfigError(f'data.{key} = "{getattr(data, key)}": {error}') from None


def _metrics(result: Evaluation) -> MetricRecord:
    record = MetricRecord({"loss": result.loss, "loss_error": result.loss_error})
    if result.accuracy is not None and result.accuracy_error is not None:
        record["accuracy"], record["accuracy_error"] = result.accuracy, result.accuracy_error
    for group, value in result.loss_by_group.items():
        record[f"loss.{group}"] = value
    for group, value in result.accuracy_by_group.items():
        record[f"accuracy.{group}"] = value
    return record
