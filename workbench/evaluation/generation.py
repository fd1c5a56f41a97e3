"""Texts that a model writes, against references: BLEU (sacrebleu) and ROUGE (rouge-score)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import Tensor

from common.config import ConfigError, DataConfig
from common.data import prompt_texts
from common.model.adapted import AdaptedModel
from server_app.results.writing import greedy_settings, write_texts
from workbench.evaluation.harness import EXTRA
from workbench.evaluation.request import GREEDY, Beams
from workbench.evaluation.words import ROUGE_WORDS, Words, bleu_tokenizer

_ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts, each with all of its references: sets repeat a prompt for every one.

    ``rows``: the numbers of the rows that they are of.
    """

    texts: list[str]
    references: list[list[str]]
    rows: list[int]

    @classmethod
    def of(cls, rows: Dataset, data: DataConfig, adapted: AdaptedModel, limit: int | None) -> "Prompts":
        """The first ``limit`` (None = all) distinct prompts of the rows, with every reference that the rows give."""
        found: dict[str, list[str]] = {}
        asked = prompt_texts(rows, data, adapted.tokenizer)
        for prompt, text in zip(asked, rows[data.completion_column], strict=True):
            found.setdefault(prompt, []).append(text.strip())
        kept = dict(list(found.items())[:limit])
        return cls([*kept], [*kept.values()], [number for number, prompt in enumerate(asked) if prompt in kept])


def generation_settings(adapted: AdaptedModel, new_tokens: int, beams: Beams, *, templated: bool) -> dict[str, Any]:
    """Every setting of ``generate``, greedy or by beams."""
    penalty = {"length_penalty": beams.length_penalty, "early_stopping": False} if beams.count > 1 else {}
    greedy = greedy_settings(adapted, new_tokens, templated=templated)
    return {"do_sample": False, "num_beams": beams.count, **penalty} | {
        name: value for name, value in greedy.items() if name != "num_beams"
    }


def write_lines(
    adapted: AdaptedModel,
    adapter: Tensor,
    prompts: Sequence[str],
    data: DataConfig,
    batch_size: int,
    new_tokens: int,
    beams: Beams = GREEDY,
) -> list[str]:
    """Continuations of up to ``new_tokens`` tokens, greedy or by ``beams``, each cut at its first line's end."""
    settings = generation_settings(adapted, new_tokens, beams, templated=data.templated)
    texts = write_texts(adapted, adapter, prompts, data, batch_size, settings)
    return [text.partition("\n")[0].strip() for text in texts]


def scoring(references: Sequence[Sequence[str]]) -> dict[str, str]:
    """What ``score_texts`` counts as words, for reports."""
    return {"bleu_tokenizer": bleu_tokenizer(references), "rouge_tokenizer": ROUGE_WORDS}


def score_texts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``bleu`` of the corpus (sacrebleu), mean F of ``rouge1``, ``rouge2``, ``rougeL`` (rouge-score): 0 to 100.

    Words are those of ``scoring``, so identical texts score 100 in any script. Where a text has several references,
    BLEU counts against all of them and ROUGE takes the best. BLEU counts up to four words in a row, or as many as any
    text has. Raises ``ConfigError`` when the optional extra is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - an optional extra
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"BLEU and ROUGE need sacrebleu and rouge-score: {EXTRA}") from error
    most = max(len(given) for given in references)
    streams: Any = [[given[i] if i < len(given) else None for given in references] for i in range(most)]
    scorer = RougeScorer(list(_ROUGE), tokenizer=Words())
    found = [scorer.score_multi(list(given), text) for text, given in zip(texts, references, strict=True)]
    means = {name: 100 * sum(scores[name].fmeasure for scores in found) / len(found) for name in _ROUGE}
    bleu = BLEU(tokenize=bleu_tokenizer(references), effective_order=True).corpus_score(list(texts), streams)
    return {"bleu": float(bleu.score), **means}
