"""Prompts in a tokenizer's own chat template."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig
from common.data import IGNORED, load_examples, private_tokens, prompt_texts
from common.demo.model import load_tokenizer
from tests.support.benchmark_files import save_model

RECORDS = Path(__file__).parents[1] / "data" / "formats"
DOLLY = DataConfig(format="dolly", chat_template=True)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(save_model(tmp_path_factory.mktemp("chat"), chat=True))


def test_the_user_says_the_message_and_the_assistant_the_bare_answer(chat: PreTrainedTokenizerBase) -> None:
    tokens = private_tokens(DOLLY, chat, 0, 1, 1, str(RECORDS / "dolly.jsonl"))
    ids, labels = tokens.input_ids[1], tokens.labels[1]
    text = chat.decode(ids[tokens.attention_mask[1] == 1])
    assert text == (
        "<user>Who wrote the report?\n\nThe report was written by Ada in spring.\n<assistant>Ada wrote it.</s>"
    ), "no begin-of-text beside the template's own"
    assert chat.decode(labels[labels != IGNORED]) == "Ada wrote it.</s>"


def test_own_columns_go_into_the_template_as_they_are(chat: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,completion\nWho?, Ada\n")
    data = DataConfig(chat_template=True)
    assert prompt_texts(load_examples(str(path), data), data, chat) == ["<user>Who?\n<assistant>"]


def test_without_the_key_a_chat_tokenizer_reads_plain_prompts(chat: PreTrainedTokenizerBase) -> None:
    data = DataConfig(format="dolly")
    rows = load_examples(str(RECORDS / "dolly.jsonl"), data)
    assert prompt_texts(rows, data, chat) == list(rows["prompt"])


def test_an_end_can_be_left_out(chat: PreTrainedTokenizerBase) -> None:
    data = DOLLY.model_copy(update={"append_eos": False})
    tokens = private_tokens(data, chat, 0, 1, 1, str(RECORDS / "dolly.jsonl"))
    assert not torch.any(tokens.labels == chat.eos_token_id)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    rows = load_examples(str(RECORDS / "dolly.jsonl"), DOLLY)
    with pytest.raises(ConfigError, match=r"data.chat-template = true: the tokenizer of .* has no chat template"):
        prompt_texts(rows, DOLLY, load_tokenizer())
