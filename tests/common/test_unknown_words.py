"""Texts that the model's tokenizer has no tokens for: told wherever somebody names rows of their own."""

import html
import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from typer.testing import CliRunner

from common.config import RunConfig
from common.data import tokenize, unknown_share, unknown_words
from common.demo.model import load_tokenizer
from tests.support.inline_runs import run_on
from tests.support.tiny import write_jsonl
from workbench.cli import main as cli
from workbench.planning.local_model import check_rows

KNOWN = {"prompt": "what is the capital of france ?", "completion": " oslo"}
FOREIGN = {"prompt": "Wie viel Metformin ?", "completion": " Zwei Tabletten"}
SAID = r'model.name = "demo" has no token for 100% of the words that it shall write'


def share(tokenizer: PreTrainedTokenizerBase, *rows: dict[str, str]) -> tuple[float, float]:
    prompts, completions = ([row[name] for row in rows] for name in ("prompt", "completion"))
    return unknown_share(tokenize(tokenizer, prompts, completions, 64, end=True), tokenizer)


def test_the_share_counts_words_and_neither_marks_nor_padding() -> None:
    tokenizer = load_tokenizer()
    assert share(tokenizer, KNOWN) == (0.0, 0.0)
    assert share(tokenizer, FOREIGN) == pytest.approx((5 / 6, 1.0)), "all but the question mark"
    assert share(tokenizer, FOREIGN, KNOWN) == pytest.approx((5 / 14, 2 / 3))


def test_answers_that_are_unknown_are_told_however_well_the_questions_are_known() -> None:
    """A prompt that ends without a blank made one word of its last word and the answer."""
    row = {"prompt": "question : what is the capital of france ? answer :", "completion": "oslo"}
    shares = share(load_tokenizer(), row)
    assert (shares[0] < 0.1, shares[1]) == (True, 1.0)
    assert "has no token for 100% of the words that it shall write" in unknown_words(shares, "x", "demo")


def test_a_token_that_a_tokenizer_never_writes_for_a_word_counts_for_nothing() -> None:
    """Byte-level ones call their end-of-text unknown too."""
    end = "<end>"
    model = Tokenizer(WordLevel({end: 0, "a": 1}, unk_token=end))
    model.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token=end, unk_token=end, pad_token=end)
    assert share(tokenizer, {"prompt": "a", "completion": " b"}) == (0.0, 0.0)


@pytest.mark.parametrize(("found", "told"), [(0.0, False), (0.09, False), (0.1, True), (1.0, True)])
def test_a_few_unknown_words_are_nobodys_concern(found: float, told: bool) -> None:
    assert bool(unknown_words((found, 0.0), "x", "some/model")) == told
    assert bool(unknown_words((0.0, found), "x", "some/model")) == told
    assert "demo" not in unknown_words((found, found), "x", "some/model")


@pytest.mark.parametrize("row", [KNOWN, FOREIGN])
def test_private_rows_of_a_simulation_are_looked_at_before_it_starts(tmp_path: Path, row: dict[str, str]) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", [row])
    warnings = check_rows(RunConfig.parse({"data.name": str(path), "data.partitioner": "iid"}), 1)
    assert [warning.startswith(f'data.name = "{path}": {SAID}') for warning in warnings] == [True] * (row is FOREIGN)


def test_run_and_evaluate_tell_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = run_on(tmp_path, [FOREIGN] * 2, [FOREIGN | {"completion": " Drei Tabletten"}])
    own, held = tmp_path / "own.jsonl", tmp_path / "held.jsonl"
    assert f'warning: data.name = "{own}": {SAID}' in output
    assert f'WARNING: data.evaluation = "{held}": {SAID}' in output
    for page in ("report.md", "report.html"):
        told = html.unescape((tmp_path / "x" / page).read_text(encoding="utf-8")).replace("\\", "")
        assert f'data.evaluation = "held.jsonl": {SAID}' in told
        assert 'data.name = "own.jsonl"' not in told, "what is published says nothing of private rows"
    with caplog.at_level(logging.WARNING):
        scored = CliRunner().invoke(cli.app, ["evaluate", "--adapter", str(tmp_path / "x" / "adapter")])
    assert scored.exit_code == 0, scored.output
    assert f'data.evaluation = "{held}": {SAID}' in caplog.text
