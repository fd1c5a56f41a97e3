"""Rows above ``data.max-length``: how many lose their start is told of a simulation, before it starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from common.config import DataConfig, RunConfig
from common.data import encode, load_examples, tokens
from common.demo.model import load_tokenizer
from common.model.token_ids import token_ids
from tests.support.benchmark_files import save_model
from tests.support.inline_runs import run_on
from tests.support.tiny import write_jsonl
from workbench.planning.local_model import check_rows

SHORT = {"prompt": "what is the capital of france ?", "completion": " paris"}
LONG = {"prompt": "what is the capital of france ? " * 8, "completion": " paris"}
TALK = [{"role": role, "content": "hello " * 30} for role in ("user", "assistant")]
CHATML = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def said_of(path: Path, **changes: Any) -> list[str]:
    flat = {"data.name": str(path), "data.partitioner": "iid", "data.max-length": 20} | changes
    return check_rows(RunConfig.parse(flat), 1)


def test_the_first_clients_long_rows_are_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [SHORT, LONG, LONG | {"completion": " oslo"}])
    assert said_of(path) == [
        f'data.name = "{path}", the first client\'s: 2 of 3 texts with more than data.max-length = 20 tokens, '
        "read without the start; raise it, or give shorter texts"
    ]
    assert said_of(path, **{"data.max-length": 100}) == []


def test_run_says_it_once_before_it_starts(tmp_path: Path) -> None:
    output = run_on(
        tmp_path, [SHORT, LONG], [LONG | {"completion": " lyon"}], federation__num_clients=1, data__max_length=20
    )
    assert output.count("1 of 2 texts with more than data.max-length = 20 tokens") == 1
    said = "1 of 1 text with more than data.max-length = 20 tokens"
    assert output.count(f'data.evaluation = "{tmp_path / "held.jsonl"}": {said}') == 1
    assert said in (tmp_path / "x" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("most", "cut"), [(20, 1), (1000, 0)])
def test_conversations_are_counted(tmp_path: Path, most: int, cut: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_model(tmp_path / "model", chat=True))
    tokenizer.chat_template = CHATML
    data = DataConfig(format="chat", max_length=most)
    rows = load_examples(str(write_jsonl(tmp_path / "talk.jsonl", [{"messages": TALK}])), data)
    found = encode(rows, data, tokenizer, end=True)
    assert (found.shortened, found.input_ids.shape[1] <= most) == (cut, True)


def test_a_plain_text_in_pieces_has_lost_nothing(tmp_path: Path) -> None:
    data = DataConfig(format="text", max_length=20)
    rows = load_examples(str(write_jsonl(tmp_path / "texts.jsonl", [{"text": LONG["prompt"]}])), data)
    assert encode(rows, data, load_tokenizer(), end=False, pieces=True).shortened == 0
    assert encode(rows, data, load_tokenizer(), end=False).shortened == 1


@pytest.mark.parametrize("long", ["prompt", "completion"])
def test_of_a_very_long_text_no_more_is_read_than_can_be_kept(
    long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long row held up a site, and told of itself by the time."""
    tokenizer, data, read = load_tokenizer(), DataConfig(max_length=20), list[int]()
    row = SHORT | {long: SHORT[long] + " and of spain" * 100_000}
    rows = load_examples(str(write_jsonl(tmp_path / "long.jsonl", [row])), data)
    whole = encode(rows, data.model_copy(update={"max_length": 10**6}), tokenizer, end=True)
    monkeypatch.setattr(
        tokens, "token_ids", lambda t, texts, **how: read.extend(map(len, texts)) or token_ids(t, texts, **how)
    )
    found = encode(rows, data, tokenizer, end=True)
    assert max(read) <= 128 * 20
    assert torch.equal(found.input_ids, whole.input_ids[:, -20:])
    assert torch.equal(found.labels, whole.labels[:, -20:])
    assert found.shortened == 1
