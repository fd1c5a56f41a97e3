"""Examples as tokens: labels, padding, cuts, ends."""

import copy
import json
import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split, Whitespace

from common.config import ConfigError, DataConfig
from common.data import IGNORED, tokenize
from common.data.tokens import encode
from common.demo.model import load_tokenizer
from common.model.token_ids import token_ids
from tests.support.example_rows import TOKENIZER, words

PROMPTS = ["question : what is the sum of 2 and 3 ? answer :", "what is the sum of 1 and 1 ?"]


ANSWERS = [" 5", " 2"]


def test_labels_are_the_completion_and_nothing_else() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS, ANSWERS, 64)
    assert len(tokens) == 2
    assert [words(row[row != IGNORED]) for row in tokens.labels] == [["5"], ["2"]]
    for ids, mask, labels in zip(tokens.input_ids, tokens.attention_mask, tokens.labels, strict=True):
        kept = labels != IGNORED
        assert torch.equal(ids[kept], labels[kept])
        assert kept.nonzero().flatten().tolist() == [int(mask.sum()) - 1], "the label is the last real token"


def test_padding_is_masked_and_ignored() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS, ANSWERS, 64)
    padding = tokens.attention_mask == 0
    assert padding.sum(dim=1).tolist() == [0, 4]
    assert (tokens.input_ids[padding] == TOKENIZER.pad_token_id).all()
    assert (tokens.labels[padding] == IGNORED).all()


def test_a_long_example_loses_the_start_of_its_prompt_and_keeps_its_completion() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS[:1], [" 5 5 5"], 6)
    assert words(tokens.input_ids[0]) == ["?", "answer", ":", "5", "5", "5"]
    assert tokens.labels[0].tolist()[:3] == [IGNORED] * 3
    assert words(tokens.labels[0][3:]) == ["5", "5", "5"]


def test_a_completion_that_fills_the_length_has_no_prompt_left() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS[:1], [" 5 4 3"], 2)
    assert words(tokens.labels[0]) == ["4", "3"]


def test_a_text_longer_than_the_model_is_cut_without_a_library_s_alarm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say of what is cut that it "will result in indexing errors"."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = load_tokenizer()
    (ids,) = token_ids(tokenizer, ["the " * (tokenizer.model_max_length + 1)])
    assert len(ids) > tokenizer.model_max_length
    assert caplog.messages == []


def test_nothing_makes_no_rows() -> None:
    assert len(tokenize(TOKENIZER, [], [], 8)) == 0


def test_selected_rows_are_cut_to_the_longest_of_them() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS, ANSWERS, 64)
    short = tokens.select(torch.tensor([1]))
    assert short.input_ids.shape == short.labels.shape == (1, tokens.input_ids.shape[1] - 4)
    assert torch.equal(short.input_ids[0], tokens.input_ids[1, :-4])
    both = tokens.select(torch.tensor([1, 0]))
    assert torch.equal(both.input_ids, tokens.input_ids[[1, 0]])


def test_an_end_of_text_follows_each_completion_and_is_learned() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS, ANSWERS, 64, end=True)
    assert [words(row[row != IGNORED]) for row in tokens.labels] == [["5", "</s>"], ["2", "</s>"]]
    assert [words(row[mask == 1])[-1] for row, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)] == [
        "</s>"
    ] * 2


def test_an_end_that_is_there_already_is_not_doubled() -> None:
    tokens = tokenize(TOKENIZER, PROMPTS[:1], [" 5 </s>"], 64, end=True)
    assert words(tokens.labels[0][tokens.labels[0] != IGNORED]) == ["5", "</s>"]


@pytest.mark.parametrize("data", [{}, {"format": "chat"}])
def test_a_row_that_the_tokenizer_fails_over_costs_itself_only(data: dict[str, Any]) -> None:
    """What an expression takes too many steps over is a panic in Rust, no ``Exception``; it took all rows with it."""
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Split(Regex("(x+x+)+y"), "isolated"), Whitespace()])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    texts = ["one", "x" * 40, "two"]
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in texts]
    rows = Dataset.from_dict({"prompt": texts, "completion": [" yes"] * 3, "messages": list(map(json.dumps, turns))})
    settings = DataConfig(**data)
    assert len(encode(rows, settings, tokenizer, end=False, lenient=True)) == 2
    with pytest.raises(BaseException, match="retry-limit"):
        encode(rows, settings, tokenizer, end=False)


def test_a_token_that_spans_prompt_and_completion_is_learned() -> None:
    """``an`` + ``swer`` is one word of this tokenizer: the prompt alone ends in an unknown one."""
    tokens = tokenize(TOKENIZER, ["what is the an"], ["swer : 5"], 64)
    assert words(tokens.labels[0][tokens.labels[0] != IGNORED]) == ["answer", ":", "5"]


@pytest.mark.parametrize(("prompt", "completion"), [("what is", "  "), ("", "5")])
def test_an_example_with_nothing_to_learn_is_refused(prompt: str, completion: str) -> None:
    with pytest.raises(ConfigError, match="example 2 has nothing to learn"):
        tokenize(TOKENIZER, ["what", prompt], [" is", completion], 64, special=False)


@pytest.mark.parametrize("length", [2, 3, 7])
def test_however_short_the_limit_a_cut_example_keeps_labels_that_the_model_can_predict(length: int) -> None:
    tokens = tokenize(TOKENIZER, PROMPTS, [" 5 4 3 2", " 1"], length, end=True)
    assert tokens.input_ids.shape[1] == length
    assert (tokens.labels[:, 1:] != IGNORED).any(dim=1).all()
