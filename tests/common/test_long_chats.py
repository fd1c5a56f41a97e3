"""Long and odd conversations: what of them is read, what it takes, and that they cost no row but themselves."""

import csv
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.config import ConfigError
from common.data import chat_template, encode, load_examples
from common.data.chat_template import render
from common.data.chats import MOST_MESSAGES, latest
from common.data.sources import load_site_examples
from common.model.token_ids import token_ids
from tests.support.benchmark_files import save_model
from tests.support.conversations import CHAT, CHATML, turns
from tests.support.tiny import write_jsonl


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(save_model(tmp_path_factory.mktemp("chat"), chat=True))


@pytest.fixture
def chat(plain: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    plain.chat_template = CHATML
    return plain


@pytest.mark.parametrize("count", [256, 2000])
def test_of_a_conversation_of_many_turns_the_last_are_read(
    count: int, chat: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding its answers takes time that grows with their square: one row held up a site for minutes."""
    rendered = list[object]()
    monkeypatch.setattr(chat_template, "render", lambda *given, **how: rendered.append(given) or render(*given, **how))
    messages = [{"role": "system", "content": "s"}, *turns(*(f"{place} apples" for place in range(count)))]
    rows = load_examples(str(write_jsonl(tmp_path / "many.jsonl", [{"messages": messages}])), CHAT)
    found = encode(rows, CHAT.model_copy(update={"max_length": 100_000}), chat, end=True)
    text = chat.decode(found.input_ids[0])
    assert (f"\n{count - MOST_MESSAGES} apples" in text, "\n1 apples" in text) == (True, count == MOST_MESSAGES)
    assert text.startswith("<|system|>")
    assert found.shortened == (count > MOST_MESSAGES)
    assert len(rendered) == 1 + MOST_MESSAGES


def test_a_short_conversation_is_as_it_was_and_a_cut_one_begins_with_a_question() -> None:
    whole = [{"role": "system", "content": "s" * 9}, *turns("q1" * 9, "a1" * 9, "q2" * 9, "a2" * 9)]
    assert latest(whole, 100, len) == whole
    short = {"role": "system", "content": "s" * 9}
    assert latest(whole, 36, len) == [short, *turns("q2" * 9, "a2" * 9)]
    asked, answered = latest(whole, 8, len)[1:]
    assert (asked["role"], len(asked["content"])) == ("user", 9), "an answer has some of its question before it"
    assert answered == turns("", "a2" * 9)[1], "cut by halves, of which one would be too short"
    long = latest(turns("q" * 1000, "a" * 1000), 100, len)
    assert [len(message["content"]) for message in long] == [16, 125]
    apart = [*turns("q"), *turns("", "a1" * 50)[1:], *turns("", "a2" * 50)[1:]]
    assert latest(apart, 50, len) == turns("q", "a2" * 50)


@pytest.mark.parametrize("answers", [1, 40])
def test_what_a_long_conversation_is_read_for_is_bounded_and_loses_nothing_of_it(
    answers: int, chat: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long question before short turns was read anew for each of them: 75 kB took 9 s, 141 kB 35 s and 4.8 GB."""
    read = list[int]()
    monkeypatch.setattr(
        chat_template, "token_ids", lambda t, texts, **how: read.extend(map(len, texts)) or token_ids(t, texts, **how)
    )
    talk = turns("how many apples? " * 3000, *(f"{place} apples and pears" for place in range(2 * answers - 1)))
    rows = load_examples(
        str(write_jsonl(tmp_path / "long.jsonl", [{"messages": [{"role": "system", "content": "s " * 9000}, *talk]}])),
        CHAT,
    )
    whole = encode(rows, CHAT.model_copy(update={"max_length": 10**6}), chat, end=True)
    read.clear()
    found = encode(rows, CHAT.model_copy(update={"max_length": 100}), chat, end=True)
    assert max(read) < 3000
    assert torch.equal(found.input_ids, whole.input_ids[:, -100:])
    assert torch.equal(found.labels, whole.labels[:, -100:])


@pytest.mark.parametrize(
    "cell",
    ["[" * 100_000, '[{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "a"}]'],
    ids=["nested", "half a surrogate pair"],
)
def test_a_cell_that_is_no_conversation_costs_its_row_alone(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(turns("q", "a"))], [cell]])
    assert len(load_site_examples(str(path), CHAT)) == 1
    with pytest.raises(ConfigError, match="row 2"):
        load_examples(str(path), CHAT)


@pytest.mark.parametrize(
    "fails",
    [
        "{{ 1 // (messages[0].content|length - 1) }}",
        "{% for i in range((messages[0].content * 9)|int) %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f((messages[0].content * 6)|int) }}",
        "{{ (messages[0].content ~ 'e999')|float|int }}",
    ],
)
def test_whatever_a_template_fails_with_is_that_rows_fault(
    fails: str, plain: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    plain.chat_template = fails + CHATML
    rows = [{"messages": turns(question, "a")} for question in ("00", "9")]
    found = load_examples(str(write_jsonl(tmp_path / "odd.jsonl", rows)), CHAT)
    assert len(encode(found, CHAT, plain, end=True, lenient=True)) == 1
    with pytest.raises(ConfigError, match="conversation 2: the chat template refuses the conversation"):
        encode(found, CHAT, plain, end=True)
