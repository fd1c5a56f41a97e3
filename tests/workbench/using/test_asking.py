"""``dr-encoder generate`` and ``chat``: what both models say, asked as the adapter was trained."""

import io
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from common.config import ConfigError, DataConfig
from common.data import render
from tests.support.benchmark_files import MMLU, question
from tests.support.tiny import write_jsonl
from workbench.cli import main as cli
from workbench.using.prompts import read_prompts
from workbench.using.request import Sampling, asked
from workbench.using.terminal import talk
from workbench.using.writer import Writer

QUESTION = question(next(iter(MMLU)), 0, "ABCD") + "\nAnswer:"
CHAT = {"data.chat-template": True}
runner = CliRunner()


@pytest.fixture(scope="module")
def plain(adapter: Path) -> Writer:
    return Writer.load(asked(adapter, {}), Sampling(2), base=True)


@pytest.fixture(scope="module")
def chat(adapter: Path) -> Writer:
    return Writer.load(asked(adapter, CHAT), Sampling(4), base=True)


def generate(adapter: Path, *options: str) -> tuple[int, str]:
    result = runner.invoke(cli.app, ["generate", "--adapter", str(adapter), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_tuned_model_says_what_it_learned_and_the_base_does_not(adapter: Path, tmp_path: Path) -> None:
    prompts = write_jsonl(tmp_path / "ask.jsonl", [{"prompt": QUESTION, "completion": "B"}, {"prompt": QUESTION * 2}])
    code, output = generate(adapter, "--prompts", str(prompts), "--out", str(tmp_path / "o.jsonl"), "--new-tokens", "2")
    assert code == 0, output
    first, second = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert first["prompt"] == QUESTION
    assert "messages" not in first, "nobody speaks where a text is continued"
    assert (first["tuned"][0], first["reference"]) == ("B", "B")
    assert not first["base"].startswith("B")
    assert "reference" not in second


def test_a_terminal_obeys_no_text_of_a_model_or_a_file(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terminals let a text write into the clipboard, whence it goes into a shell."""
    evil = "\x1b]52;c;cm0gLXJm\x1b\\\x9b2J"
    prompts = write_jsonl(tmp_path / "ask.jsonl", [{"prompt": f"asked{evil}", "completion": evil}])
    monkeypatch.setattr(Writer, "write_all", lambda _, who, asked, __: [f"{who} {evil}" for _ in asked])
    code, output = generate(adapter, "--prompts", str(prompts))
    assert code == 0
    assert "tuned" in output
    assert not {"\x1b", "\x9b"} & set(output)
    code, output = generate(adapter, "--prompts", str(tmp_path / f"none{evil}"))
    assert code != 0
    assert "\\x1b" in output
    assert not {"\x1b", "\x9b"} & set(output)


def test_a_template_that_refuses_is_a_line(chat: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat.adapted.tokenizer, "chat_template", "{{ raise_exception('not this') }}")
    with pytest.raises(ConfigError, match=r"refuses the conversation \(not this\); --set data.chat-template=false"):
        chat.prompt([{"role": "user", "content": "a"}])


def test_texts_in_the_terminal_stand_beside_each_other(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("first\n\nsecond\n", encoding="utf-8")
    code, output = generate(adapter, "--prompts", str(tmp_path / "ask.txt"), "--new-tokens", "1", "--limit", "1")
    assert code == 0
    assert "first" in output
    assert "second" not in output
    assert next(line for line in output.splitlines() if "tuned" in line).index("base model") < 40


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a"}], "row 1: no text in any of prompt, messages; it has question"),
        ([{"messages": [{"role": "assistant", "content": "a"}]}], "row 1: nobody asks anything"),
        ([{"messages": [{"role": "tool", "content": "a"}]}], "row 1: message 1 has the role 'tool'"),
        ([], "the file is empty"),
    ],
)
def test_a_file_without_prompts_is_refused_before_the_model_is_loaded(
    adapter: Path, tmp_path: Path, rows: list[dict[str, Any]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "load", lambda *_, **__: pytest.fail("loaded"))
    code, output = generate(adapter, "--prompts", str(write_jsonl(tmp_path / "ask.jsonl", rows)))
    assert code == 1
    assert said in " ".join(output.split())


def test_rows_of_the_runs_own_layout_are_prompts(tmp_path: Path) -> None:
    talk = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    told = [{"role": role, "content": text} for role, text in talk]
    path = write_jsonl(tmp_path / "chat.jsonl", [{"messages": told}])
    (found,) = read_prompts(path, DataConfig(format="chat"), templated=True)
    assert (found.messages, found.reference) == (told[:-1], "d")
    path = write_jsonl(tmp_path / "own.jsonl", [{"ask": "a", "more": "b", "say": "c"}])
    (found,) = read_prompts(path, DataConfig(prompt_column="ask,more", completion_column="say"), templated=False)
    assert (found.messages, found.reference) == ([{"role": "user", "content": "a\n\nb"}], "c")
    path = write_jsonl(tmp_path / "alpaca.jsonl", [{"instruction": "I", "input": "", "output": "O"}])
    said, templated = (read_prompts(path, DataConfig(format="alpaca"), templated=way)[0] for way in (False, True))
    assert said.messages[0]["content"].endswith("### Response:")
    assert templated.messages[0]["content"] == "I"


def test_what_is_written_to_a_file_asks_the_same_again(adapter: Path, tmp_path: Path) -> None:
    talk = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant")]
    rows: list[dict[str, Any]] = [
        {"prompt": " b \n"},
        {"messages": talk},
        {"instruction": "I", "input": "", "output": "O"},
    ]
    asked_of, written = write_jsonl(tmp_path / "ask.jsonl", rows), tmp_path / "out.jsonl"
    (tmp_path / "ask.txt").write_text("first\nsecond\n", encoding="utf-8")
    for path, keys in ((asked_of, ("prompt", "messages", "prompt")), (tmp_path / "ask.txt", ("prompt", "prompt"))):
        options = ["--prompts", str(path), "--new-tokens", "1", "--set", "data.format=alpaca"]
        code, output = generate(adapter, *options, "--out", str(written))
        assert code == 0, output
        assert tuple(next(iter(json.loads(line))) for line in written.read_text().splitlines()) == keys
        data = DataConfig(format="alpaca")
        one, other = (read_prompts(each, data, templated=False) for each in (path, written))
        assert one == other


def test_a_conversation_is_asked_in_the_template_and_a_text_is_continued(plain: Writer, chat: Writer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    tokenizer = chat.adapted.tokenizer
    assert tokenizer.decode(chat.prompt(messages)) == render(tokenizer, messages, ask=True) == "<user>hi\n<assistant>"
    assert tokenizer.decode(plain.prompt(messages), skip_special_tokens=True) == "hi"


def test_without_a_run_beside_it_a_chat_model_is_asked_in_its_template(
    adapter: Path, model: str, tmp_path: Path
) -> None:
    alone = shutil.copytree(adapter, tmp_path / "adapter")
    writer = Writer.load(asked(alone, {"model.name": model, "model.device": "cpu"}), Sampling(1), base=False)
    assert writer.templated
    assert list(writer.adapters) == ["tuned"]


def test_each_model_remembers_its_own_answers_until_it_is_told_to_forget(
    chat: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def spy(who: str, prompt: list[int], told: Any) -> str:
        seen.append((who, len(prompt)))
        told(f"{who} says")
        return f"{who} says"

    monkeypatch.setattr(Writer, "write", lambda _, *given: spy(*given))
    lines: Iterator[str] = iter(["one", "one", "", "/help", "/new", "one", "/quit", "never"])
    out = io.StringIO()
    talk(chat, Console(file=out, width=80), "Be kind.", lambda: next(lines))
    lengths = [length for who, length in seen if who == "base"]
    assert lengths[0] == lengths[2] < lengths[1]
    assert len(seen) == 6
    assert out.getvalue().count("base says") == 3, "each answer once, and whole"
    assert out.getvalue().endswith("\n")
    assert "tuned says" in out.getvalue()


def test_a_talk_that_outgrows_the_model_says_so_each_time_that_it_cuts(
    plain: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "write", lambda *_: "yes")
    lines: Iterator[str] = iter(["short", "word " * 600, "short", "/quit"])
    out = io.StringIO()
    talk(plain, Console(file=out, width=200), read=lambda: next(lines))
    assert out.getvalue().count("what was said first is not read any more") == 1


def test_a_key_that_is_not_read_is_refused(adapter: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set privacy.epsilon: no effect"):
        asked(adapter, {"privacy.epsilon": 1.0})


def test_a_text_is_told_in_pieces_as_it_is_written(plain: Writer) -> None:
    pieces: list[str] = []
    text = plain.write("tuned", plain.prompt([{"role": "user", "content": QUESTION}]), pieces.append)
    assert "".join(pieces).strip() == text


def test_what_is_drawn_does_not_begin_anew_with_every_batch(adapter: Path) -> None:
    """Of 24 texts for one prompt, in batches of 8, there were 8."""
    writer = Writer.load(asked(adapter, {}), Sampling(12, temperature=3.0), base=False)
    prompt = writer.prompt([{"role": "user", "content": QUESTION}])
    texts = writer.write_all("tuned", [prompt] * 8, 2)
    assert len(set(texts)) == 8
    assert writer.write_all("tuned", [prompt] * 8, 2) == texts


def test_a_long_text_that_is_asked_for_takes_no_prompt_away(adapter: Path) -> None:
    """With more new tokens than positions a prompt was cut to its last token, and nobody was told."""
    writer = Writer.load(asked(adapter, {}), Sampling(10_000), base=False)
    ids = writer.prompt([{"role": "user", "content": "Answer: A B"}])
    assert writer.adapted.tokenizer.decode(ids, skip_special_tokens=True) == "Answer: A B"
    (warning,) = writer.warnings()
    assert "--new-tokens 10000: the model has 512 positions" in warning
    assert "texts end after 256 tokens" in warning


def test_a_prompt_that_is_cut_is_told(adapter: Path) -> None:
    writer = Writer.load(asked(adapter, {}), Sampling(12), base=False)
    assert writer.warnings() == []
    assert len(writer.prompt([{"role": "user", "content": "~" * 600}])) == 500
    (warning,) = writer.warnings()
    assert warning.startswith("1 prompt of up to 600 tokens cut at the left to 500")


def test_a_line_of_prompts_ends_where_an_editor_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "ask.txt"
    path.write_bytes("\ufeffa\u2028b\x85c\r\n\r\nd".encode())
    asks = read_prompts(path, DataConfig(), templated=False)
    assert [ask.messages[0]["content"] for ask in asks] == ["a\u2028b\x85c", "d"]


def test_prompts_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "ask.txt"
    path.write_bytes(b"a\xff")
    with pytest.raises(ConfigError, match=r'--prompts ".*ask.txt": not text in UTF-8 \(byte 0xff at 1\)'):
        read_prompts(path, DataConfig(), templated=False)


def test_what_is_drawn_is_drawn_from_all_tokens_at_their_probabilities(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers draws from the 50 likeliest tokens where nothing is said."""
    temperature, draws = 20.0, 4000
    writer = Writer.load(asked(adapter, {}), Sampling(1, temperature), base=False)
    prompt = writer.prompt([{"role": "user", "content": QUESTION}])
    found: list[int] = []
    generate = writer.adapted.model.generate

    def spy(**given: Any) -> torch.Tensor:
        written = generate(**given)
        found.extend(written[:, -1].tolist())
        return written

    monkeypatch.setattr(writer.adapted.model, "generate", spy)
    writer.write_all("tuned", [prompt] * draws, 1000)
    with torch.no_grad():
        logits = writer.adapted.model(torch.tensor([prompt])).logits[0, -1]
    shares = torch.bincount(torch.tensor(found), minlength=len(logits)) / draws
    probabilities = torch.softmax(logits / temperature, dim=0)
    rare = logits.argsort()[:-50]
    bound = math.sqrt(math.log(2 / 1e-10) / (2 * draws))  # Hoeffding: one share is farther off once in 10^10 times
    assert float(probabilities[rare].sum()) > 4 * bound, "or the test says nothing"
    for tokens in (rare, rare[: len(rare) // 2], logits.argsort()[-10:]):
        assert abs(float(shares[tokens].sum() - probabilities[tokens].sum())) < bound


def test_how_texts_were_written_is_said(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("first\n", encoding="utf-8")
    options = ["--prompts", str(tmp_path / "ask.txt"), "--new-tokens", "1"]
    said = [
        " ".join(generate(adapter, *options, *more)[1].split())
        for more in ([], ["--temperature", "2", "--seed", "7"], ["--out", str(tmp_path / "out.jsonl")])
    ]
    assert all(
        "num_beams = 1, max_new_tokens = 1, min_new_tokens = 0, repetition_penalty = 1.0" in text for text in said
    )
    assert "texts: do_sample = True" in said[1]
    assert "temperature = 2.0, top_k = 0, top_p = 1.0, min_p = 0.0, typical_p = 1.0" in said[1]
    assert "seed = 7, batch_size = 8" in said[1]
    assert "temperature" not in said[0] + said[2]


def test_a_line_that_is_no_utf_8_is_passed_over(plain: Writer) -> None:
    """It came as half of a pair, over which the tokenizer fell with a long traceback."""
    lines, out = iter([b"caf\xe9 bad".decode(errors="surrogateescape"), "hello", "/quit"]), io.StringIO()
    talk(plain, Console(file=out, width=200), read=lambda: next(lines))
    told = out.getvalue()
    assert told.count("not text in UTF-8") == 1
    assert told.count("base model") == 1, "the next line is answered"
