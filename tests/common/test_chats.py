"""Conversations: which layouts are read, what of them is learned, and which templates can say so."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig, RunConfig
from common.data import (
    IGNORED,
    check_evaluation_is_public,
    encode,
    load_examples,
    private_examples,
    private_tokens,
)
from tests.support.benchmark_files import save_model
from tests.support.conversations import CHAT, CHATML, turns
from tests.support.example_rows import RECORDS
from tests.support.tiny import write_jsonl
from workbench.planning.local_model import check_rows

LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']\n\n' + m.content.strip() + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
BARE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
FORGETFUL = (  # as templates of reasoning models: only the last answer has its thoughts
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}{{ m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{% if loop.last %}{{ '!' }}"
    "{% endif %}{% generation %}{{ m.content + '</s>' }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(save_model(tmp_path_factory.mktemp("chat"), chat=True))


@pytest.fixture
def chat(plain: PreTrainedTokenizerBase, request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    plain.chat_template = getattr(request, "param", CHATML)
    return plain


@pytest.mark.parametrize(
    ("row", "read", "said"),
    [
        ({"messages": turns("a", "b"), "conversations": turns("c", "d")}, "b", True),
        ({"conversations": turns("c", "d"), "messages": turns("a", "b")}, "b", True),
        ({"messages": turns("a", "b"), "conversations": None}, "b", False),
        ({"messages": None, "conversations": turns("c", "d")}, "d", False),
    ],
)
def test_of_two_conversations_in_a_row_messages_is_read_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: dict[str, Any], read: str, said: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        rows = load_examples(str(write_jsonl(tmp_path / "both.jsonl", [row])), CHAT)
    assert rows["completion"] == [read]
    assert ("rows have both messages and conversations; messages is read" in caplog.text) == said


def rows_of(folder: Path, *conversations: Any, column: str = "messages") -> str:
    return str(write_jsonl(folder / "own.jsonl", [{column: one} for one in conversations]))


def learned(tokenizer: PreTrainedTokenizerBase, path: str, data: DataConfig = CHAT) -> list[list[str]]:
    """Of every conversation the stretches that are learned."""
    tokens = encode(load_examples(path, data), data, tokenizer, end=data.append_eos)
    found = []
    for ids, labels in zip(tokens.input_ids, tokens.labels, strict=True):
        stretches: list[list[int]] = [[]]
        for number, label in zip(ids.tolist(), labels.tolist(), strict=True):
            assert label in {IGNORED, number}
            if label != IGNORED:
                stretches[-1].append(number)
            elif stretches[-1]:
                stretches.append([])
        found.append([tokenizer.decode(stretch) for stretch in stretches if stretch])
    return found


@pytest.mark.parametrize(
    ("chat", "answers"),
    [
        (CHATML, ["Ice.</s>", "Gallium.</s>"]),
        (LLAMA, ["Ice.</s>", "Gallium.</s>"]),
        (MISTRAL, [" Ice.</s>", " Gallium.</s>"]),
        (BARE, ["Ice.", "Gallium.</s>"]),
        (MARKED, ["Ice.</s>", "Gallium.</s>"]),
    ],
    indirect=["chat"],
    ids=["ChatML", "Llama", "Mistral", "no end of a turn", "generation marks"],
)
def test_every_answer_with_the_end_of_its_turn_is_learned_and_nothing_else(
    chat: PreTrainedTokenizerBase, answers: Sequence[str]
) -> None:
    found = learned(chat, str(RECORDS / "chat.jsonl"))
    assert found[0] == answers
    assert len(found) == 2, "a conversation without an answer teaches nothing"


@pytest.mark.parametrize("chat", [CHATML, LLAMA, MISTRAL], indirect=True, ids=["ChatML", "Llama", "Mistral"])
def test_what_is_learned_stands_behind_the_very_text_that_a_model_is_asked_with(chat: PreTrainedTokenizerBase) -> None:
    rows = load_examples(str(RECORDS / "chat.jsonl"), CHAT)
    tokens = encode(rows, CHAT, chat, end=True)
    for row, ids in zip(rows, tokens.input_ids, strict=True):
        messages = json.loads(row["messages"])
        asked = chat.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert chat.decode(ids).startswith(asked)


@pytest.mark.parametrize("chat", [FORGETFUL], indirect=True)
def test_a_template_that_writes_earlier_turns_otherwise_is_refused(
    chat: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = rows_of(tmp_path, turns("a", "b"), turns("a", "b", "c", "d"))
    with pytest.raises(ConfigError) as refused:
        learned(chat, path)
    assert "conversation 2: the chat template writes turn 2 otherwise" in str(refused.value)
    assert "{% generation %}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert learned(chat, rows_of(tmp_path, turns("a", "b"))) == [["<think></think>b</s>"]]


@pytest.mark.parametrize("chat", ["{{ raise_exception('roles must alternate') }}"], indirect=True)
def test_a_template_that_refuses_a_conversation_says_so_and_at_a_site_leaves_it_out(
    chat: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = rows_of(tmp_path, turns("a", "b"))
    with pytest.raises(ConfigError, match=r"conversation 1: the chat template refuses .*roles must alternate"):
        learned(chat, path)
    rows = load_examples(path, CHAT)
    assert len(encode(rows, CHAT, chat, end=True, lenient=True)) == 0


PICKY = "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('bad words') }}{% endif %}" + (
    "{{ m.role + ': ' + m.content }}{% endfor %}"
)


@pytest.mark.parametrize("chat", [PICKY], indirect=True)
def test_a_row_that_the_template_refuses_is_named_and_at_a_site_left_out(
    chat: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """One such row took a simulated client out of every round, and a site all of its rows."""
    data = DataConfig(chat_template=True)
    path = write_jsonl(
        tmp_path / "own.jsonl", [{"prompt": text, "completion": "b"} for text in ("a", "a bad one", "c")]
    )
    rows = load_examples(str(path), data)
    with pytest.raises(ConfigError, match=r"chat-template = true: row 2: the chat template refuses .*bad words"):
        encode(rows, data, chat, end=True)
    assert len(encode(rows, data, chat, end=True, lenient=True)) == 2


@pytest.mark.parametrize("layout", ["columns", "chat"])
def test_a_row_that_the_template_refuses_is_told_before_a_run_whoever_would_hold_it(
    tmp_path: Path, layout: str
) -> None:
    model = save_model(tmp_path / "model", chat=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = PICKY.replace("{{ m.role", "{{ '<' + m.role")
    tokenizer.save_pretrained(model)
    asks = [f"a {number}" for number in range(19)] + ["a bad one"]
    rows: list[dict[str, Any]] = [{"prompt": ask, "completion": "b"} for ask in asks]
    talks: list[dict[str, Any]] = [{"messages": turns(ask, "b")} for ask in asks]
    path = write_jsonl(tmp_path / "all.jsonl", rows if layout == "columns" else talks)
    flat = {"data.name": str(path), "model.name": model, "data.format": layout, "data.partitioner": "iid"}
    with pytest.raises(ConfigError, match=r'all\.jsonl": .* 20: the chat template refuses'):
        check_rows(RunConfig.parse(flat | {"data.chat-template": layout == "columns"}), 10)


def test_what_will_not_do_what_it_seems_to_is_said_before_a_run(tmp_path: Path) -> None:
    """No end-of-text where one is to be appended; private evaluation of clients that hold nothing out."""
    model = save_model(tmp_path / "model")
    settings = Path(model) / "tokenizer_config.json"
    said = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(
        json.dumps({name: value for name, value in said.items() if name != "eos_token"}), encoding="utf-8"
    )
    path = write_jsonl(tmp_path / "own.jsonl", [{"prompt": f"a{n}", "completion": "b"} for n in range(7)])
    flat = {"data.name": str(path), "model.name": model, "data.partitioner": "iid", "evaluation.private": 0.1}
    ends, alone = check_rows(RunConfig.parse(flat), 5)
    assert "names no end-of-text token, so none is appended" in ends
    assert "at least 3 of 5 clients hold one example and hold none out" in alone
    assert check_rows(RunConfig.parse(flat | {"data.append-eos": False, "evaluation.private": 0.0}), 5) == []


def test_a_long_conversation_loses_its_start_and_keeps_its_last_answer(
    chat: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = rows_of(tmp_path, turns("x" * 80, "first", "y" * 20, "second"))
    data = CHAT.model_copy(update={"max_length": 40})
    assert learned(chat, path, data) == [["second</s>"]]


def test_sharegpts_conversations_are_the_same_as_messages(chat: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    told = [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    same = [{"role": "system", "content": "S"}, *turns("a", "b")]
    one, other = (load_examples(rows_of(tmp_path, each, column=column), CHAT)["messages"][:] for each, column in (
        (told, "conversations"), (same, "messages")))  # fmt: skip
    assert one == other
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *turns("a", "b")[1:]]
    assert load_examples(rows_of(tmp_path, json.dumps(parts)), CHAT)["messages"][:] == [json.dumps(turns("a", "b"))]


def test_a_column_of_system_messages_begins_conversations_that_have_none(tmp_path: Path) -> None:
    rows = [
        {"system": "S", "conversations": turns("a", "b")},
        {"system": "S", "conversations": [{"role": "system", "content": "T"}, *turns("a", "b")]},
        {"system": None, "conversations": turns("a", "b")},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = [json.loads(messages)[0] for messages in load_examples(str(path), CHAT)["messages"][:]]
    assert [first["content"] for first in found] == ["S", "T", "a"]


def test_a_weight_of_0_on_what_is_not_learned_anyway_is_nothing_odd(tmp_path: Path) -> None:
    told = [turns("a")[0] | {"weight": 0}, {"role": "assistant", "content": "b", "weight": 1}]
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"messages": told}) + "\n", encoding="utf-8")
    assert load_examples(str(path), CHAT)["messages"][:] == [json.dumps(turns("a", "b"))]


@pytest.mark.parametrize(
    ("conversation", "said"),
    [
        ("hello", "messages holds a text that is not JSON"),
        ([], "holds no list of messages"),
        (["hello"], 'message 1 is no object with "role" and "content"'),
        ([{"role": "tool", "content": "x"}], "message 1 has the role 'tool'"),
        ([{"role": "user", "content": ""}], "message 1 has no text"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "message 1 has no text"),
        ([*turns("a"), {"role": "assistant", "content": "b", "tool_calls": [{}]}], "message 2 calls a tool"),
        ([*turns("a"), {"role": "assistant", "content": "b", "weight": 0}], 'message 2 has "weight": 0'),
        ([{"role": "assistant", "content": "a"}], "begins with the assistant"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_row(tmp_path: Path, conversation: object, said: str) -> None:
    path = rows_of(tmp_path, turns("a", "b"), conversation)
    with pytest.raises(ConfigError, match=rf'data.format = "chat": row 2 of ".*own.jsonl": .*{said}'):
        load_examples(path, CHAT)
    assert len(private_examples(CHAT, 0, 1, 1, path)) == 1, "a site leaves it out"


def test_a_client_learns_each_conversation_once_and_two_that_begin_alike_both(tmp_path: Path) -> None:
    path = rows_of(tmp_path, turns("a", "b", "c", "d"), turns("a", "b"), turns("a", "b", "c", "d"))
    assert len(private_examples(CHAT, 0, 1, 1, path)) == 2


@pytest.mark.parametrize(
    ("public", "refused"), [(turns("A", " b"), True), (turns("a", "b", "c", "x"), True), (turns("a", "x"), False)]
)
def test_an_answer_that_a_client_learns_is_not_public(tmp_path: Path, public: object, refused: bool) -> None:
    own = rows_of(tmp_path, turns("a", "b", "c", "d"))
    held_out = write_jsonl(tmp_path / "public.jsonl", [{"messages": public}])
    data = DataConfig(format="chat", name=own, evaluation=str(held_out))
    if refused:
        with pytest.raises(ConfigError, match="1 of its 1 example are"):
            check_evaluation_is_public(data, 1, 1)
    else:
        check_evaluation_is_public(data, 1, 1)


def test_a_sites_conversations_are_tokens_in_its_own_template(chat: PreTrainedTokenizerBase) -> None:
    tokens = private_tokens(CHAT, chat, 0, 1, 1, str(RECORDS / "chat.jsonl"))
    assert len(tokens) == 2


def test_a_tokenizer_without_a_template_is_refused(plain: PreTrainedTokenizerBase) -> None:
    plain.chat_template = None
    with pytest.raises(ConfigError, match=r'data.format = "chat": the tokenizer .* has no chat template'):
        learned(plain, str(RECORDS / "chat.jsonl"))


def test_plain_texts_have_no_template() -> None:
    with pytest.raises(ConfigError, match=r'data.chat-template = true with data.format = "text"'):
        RunConfig.parse({"data.format": "text", "data.chat-template": True})
