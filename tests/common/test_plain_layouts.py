"""Plain texts, and prompts of several columns."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from common.config import ConfigError, DataConfig, RunConfig
from common.data import IGNORED, encode, load_examples
from tests.support.benchmark_files import save_model
from tests.support.tiny import write_jsonl

TEXT = DataConfig(format="text", max_length=8)


def test_every_token_of_a_long_text_is_learned_once(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_model(tmp_path / "model"))
    text = "The ferry leaves at nine."
    rows = load_examples(str(write_jsonl(tmp_path / "own.jsonl", [{"text": text}, {"text": "Short."}])), TEXT)
    tokens = encode(rows, TEXT, tokenizer, end=True, pieces=True)
    assert tokens.input_ids.shape[1] == 8
    read = [label for labels in tokens.labels.tolist() for label in labels if label != IGNORED]
    assert tokenizer.decode(read) == f"{text}</s>Short.</s>"
    assert tokens.input_ids[:, 0].tolist().count(tokenizer.bos_token_id) == 2
    assert len(encode(rows, TEXT, tokenizer, end=True)) == 2, "held-out texts are one example each"


def test_several_columns_make_one_prompt(tmp_path: Path) -> None:
    rows = [
        {"task": "Opposite of", "given": "cold", "answer": "hot"},
        {"task": "Say yes", "given": "", "answer": "yes"},
    ]
    data = DataConfig(prompt_column="task, given", completion_column="answer")
    found = load_examples(str(write_jsonl(tmp_path / "own.jsonl", rows)), data)
    assert found[data.prompt_column][:] == ["Opposite of\n\ncold", "Say yes"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"task": "a", "answer": "b"}], r'data.prompt-column = "task,given": not a column'),
        ([{"task": "", "given": None, "answer": "b"}], "row 1 of .* has no text there"),
        ([{"task": "a", "given": ["b"], "answer": "b"}], "row 1 of .* holds lists or records"),
    ],
)
def test_a_prompt_of_columns_that_are_not_there_or_empty_is_refused(tmp_path: Path, rows: list, said: str) -> None:
    data = DataConfig(prompt_column="task,given", completion_column="answer")
    with pytest.raises(ConfigError, match=said):
        load_examples(str(write_jsonl(tmp_path / "own.jsonl", rows)), data)


def test_a_completion_among_the_prompts_columns_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is data.completion-column too"):
        RunConfig.parse({"data.prompt-column": "a,b", "data.completion-column": "b"})
