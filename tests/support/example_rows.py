"""Rows, columns and tokens that the tests of the data share."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from common.config import DataConfig
from common.data import private_examples
from common.demo.model import load_tokenizer

RECORDS = Path(__file__).parents[1] / "data" / "formats"
TOKENIZER = load_tokenizer()
ROWS = [{"prompt": f"p{index}", "completion": " c", "group": "abcd"[index // 10]} for index in range(40)]
MAPPED = DataConfig(prompt_column="ask", completion_column="say", partitioner="iid")


def words(ids: torch.Tensor) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(ids.tolist())


def parts(data: DataConfig, count: int, seed: int = 1) -> list[Dataset]:
    return [private_examples(data, number, count, seed) for number in range(count)]


def columns(rows: Dataset | None) -> tuple[list[str], list[str]]:
    assert rows is not None
    return list(rows["prompt"]), list(rows["completion"])


def records(name: str) -> list[dict[str, Any]]:
    """Rows in the layout of a public set, as the hub serves them."""
    return [json.loads(line) for line in (RECORDS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
