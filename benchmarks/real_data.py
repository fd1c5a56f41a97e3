"""The rows of an experiment on a real model: what clients hold, what steps are chosen on, what is scored, what is kept.

Reads data-to-text and summarization sets in the layouts that ``data.format`` knows. Validation prompts are taken out of
the training file before any client gets a row: no client holds them, and nothing that is reported is measured on them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from common.config import DataConfig
from common.data import TokenizedExamples, encode, load_examples, tokenize

_EVERY_VALIDATION = 14  # one prompt in so many of the training file is validation
_EVERY_TEST = 5
_REFERENCES = {"validation": 2, "test": 2}  # of a prompt, whose loss is measured
_PASSAGE = 500  # characters of a text of another kind
_PASSAGE_TOKENS = 96
_PASSAGES = 24


@dataclass(frozen=True)
class RealData:
    """Files and tokens of one data set; ``retention`` has passages of other kinds by their names."""

    train: Path
    validation: TokenizedExamples
    test: TokenizedExamples
    retention: dict[str, TokenizedExamples]


def column_of_prompts(name: str) -> str:
    """The raw column that two rows with one prompt share."""
    return {"e2e": "meaning_representation", "dart": "tripleset", "dialogsum": "dialogue"}[name]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; a text may hold any other sign that ends lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def split_file(source: Path, column: str, folder: Path) -> tuple[Path, Path]:
    """Write the rows of ``source`` as ``train.jsonl`` and ``validation.jsonl``; no prompt is in both."""
    rows = read_lines(source)
    prompts = list(dict.fromkeys(json.dumps(row[column]) for row in rows))
    held_out = set(prompts[::_EVERY_VALIDATION])
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": [], "validation": []}  # type: dict[str, list[Any]]
    for row in rows:
        parts["validation" if json.dumps(row[column]) in held_out else "train"].append(row)
    for name, members in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in members), encoding="utf-8")
    return folder / "train.jsonl", folder / "validation.jsonl"


def load_real_data(source: Path, folder: Path, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> RealData:
    """Everything that a run on ``{data.format}-train.jsonl`` and ``-test.jsonl`` in ``source`` needs, as tokens."""
    column = column_of_prompts(data.format)
    train, validation = split_file(source / f"{data.format}-train.jsonl", column, folder / data.format)
    return RealData(
        train,
        encode(
            some_rows(load_examples(str(validation), data), 1, _REFERENCES["validation"]), data, tokenizer, end=True
        ),
        encode(
            some_rows(load_examples(str(test_file(source, data)), data), _EVERY_TEST, _REFERENCES["test"]),
            data,
            tokenizer,
            end=True,
        ),
        {name: _passages(texts, tokenizer) for name, texts in other_texts(source).items()},
    )


def test_file(source: Path, data: DataConfig) -> Path:
    """The published test rows, all references of a prompt."""
    return source / f"{data.format}-test.jsonl"


def some_rows(rows: Dataset, every: int, references: int) -> Dataset:
    """The first ``references`` rows of one distinct prompt in ``every``."""
    numbers: dict[str, list[int]] = {}
    for number, prompt in enumerate(rows["prompt"]):
        numbers.setdefault(prompt, []).append(number)
    return rows.select([number for held in list(numbers.values())[::every] for number in held[:references]])


def other_texts(source: Path) -> dict[str, list[str]]:
    """Beginnings of public texts of other kinds, by kind: what a fine-tuned model should not forget."""
    kinds = {"mmlu-test.jsonl": "question", "dialogsum-test.jsonl": "dialogue"}
    found = {}
    for name, column in kinds.items():
        rows = read_lines(source / name)
        texts = list(dict.fromkeys(str(row[column])[:_PASSAGE] for row in rows))
        long = [text for text in texts if len(text) >= _PASSAGE // 2]
        found[column] = long[:: max(1, len(long) // _PASSAGES)][:_PASSAGES]
    return found


def _passages(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> TokenizedExamples:
    """Texts as tokens, every one of which but the first is predicted."""
    return tokenize(tokenizer, [""] * len(texts), texts, _PASSAGE_TOKENS)
