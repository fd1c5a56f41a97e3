"""Where the texts of ``dr-encoder generate`` and ``chat`` end in a chat template."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmark_files import save_run
from tests.support.brief_model import ANSWER, TEMPLATE, save_brief_model
from workbench.using.request import Sampling, asked
from workbench.using.writer import Writer

ASK = [{"role": "user", "content": "Who?"}]
CHAT = {"data.format": "chat"}


def writer_of(folder: Path, template: str, changes: dict[str, Any]) -> Writer:
    adapter = save_run(folder / "run", save_brief_model(folder / "model", template), "q_proj,v_proj")
    return Writer.load(asked(adapter, changes), Sampling(12), base=True)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,
        TEMPLATE.replace("<pad>", "\n<pad>"),
        TEMPLATE.replace("{{ m.content }}", "{{ m.content | trim | upper }}"),
        "{% for m in messages %}{{ '<s>' + m.role + '>' + m.content + '<pad>' }}{% endfor %}",
    ],
    ids=["plain", "a line's end before it", "another text", "no prompt for an answer"],
)
def test_an_answer_ends_with_its_turn(tmp_path: Path, template: str) -> None:
    """Without a prompt for an answer its end was thought to be ``<s>``; elsewhere there was none."""
    writer = writer_of(tmp_path, template, CHAT)
    assert writer.adapted.tokenizer.convert_ids_to_tokens(writer.settings["eos_token_id"]) == ["</s>", "<pad>"]
    assert writer.warnings() == []
    if "add_generation_prompt" in template:
        pieces: list[str] = []
        assert writer.write("base", writer.prompt(ASK), pieces.append) == ANSWER == "".join(pieces)
        assert writer.write_all("base", [writer.prompt(ASK)] * 2, 2) == [ANSWER] * 2


def test_a_template_that_ends_no_turn_is_told_where_training_ends_no_text_either(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, TEMPLATE.replace("<pad>", ""), CHAT)
    assert writer.warnings() == [], "training appends the end of a text"
    settings = tmp_path / "run" / "config.toml"
    settings.write_text(settings.read_text().replace("append-eos = true", "append-eos = false"))
    writer = Writer.load(asked(tmp_path / "run" / "adapter", CHAT), Sampling(12), base=True)
    (warning,) = writer.warnings()
    assert "no token that ends an answer" in warning
    assert writer.write_all("base", [writer.prompt(ASK)], 1) == [ANSWER * 3]
