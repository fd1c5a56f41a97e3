"""What a model's tokenizer may do over private rows."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from tokenizers import Regex, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from client_app.expressions import PUBLISHED
from client_app.site import ModelUnavailable, Site
from client_app.tokenizer_limits import NORMALIZERS, PRE_TOKENIZERS, check_tokenizer
from common.config import ConfigError
from common.demo.model import load_model, load_tokenizer
from tests.support.tiny import ledger_in, write_jsonl
from workbench.deployment.site_check import check_site
from workbench.deployment.site_files import read_run


def charsmap(*forms: str) -> bytes:
    """A table of SentencePiece's with an empty trie."""
    return (4).to_bytes(4, "little") + bytes(4) + b"\0".join(form.encode() for form in forms)


def tokenizer(**parts: Any) -> PreTrainedTokenizerBase:
    """The demo's, with other parts."""
    found = copy.deepcopy(load_tokenizer())
    for name, part in parts.items():
        setattr(found.backend_tokenizer, name, part)
    return found


ORDINARY: dict[str, Callable[[], dict[str, Any]]] = {
    "the demo's": dict,
    "GPT-2's": lambda: {"normalizer": None, "pre_tokenizer": pre_tokenizers.ByteLevel()},
    "Llama 2's": lambda: {
        "normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        "pre_tokenizer": None,
    },
    "T5's": lambda: {
        "normalizer": normalizers.Sequence(
            [normalizers.Precompiled(charsmap("ff", "x" * 12)), normalizers.Replace(Regex(" {2,}"), "▁")]
        ),
        "pre_tokenizer": pre_tokenizers.Metaspace(),
    },
    "BERT's": lambda: {"normalizer": normalizers.BertNormalizer(), "pre_tokenizer": pre_tokenizers.BertPreTokenizer()},
    "DeepSeek's": lambda: {
        "pre_tokenizer": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
                pre_tokenizers.Split(Regex(PUBLISHED["DeepSeek V3"]), "isolated"),
                pre_tokenizers.ByteLevel(use_regex=False),
            ]
        )
    },
}


@pytest.mark.parametrize("name", ORDINARY)
def test_those_of_ordinary_models_pass(name: str) -> None:
    check_tokenizer(tokenizer(**ORDINARY[name]()))


GREEDY: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a split that backtracks": (
        lambda: {"pre_tokenizer": pre_tokenizers.Split(Regex("secret(a+)+b"), "isolated")},
        "its expression 'secret(a+)+b' is neither a plain nor a published one",
    ),
    "one within others": (
        lambda: {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("a*a*b"), "isolated")]),
                    pre_tokenizers.ByteLevel(),
                ]
            )
        },
        "its expression 'a*a*b'",
    ),
    "a replacement that backtracks": (
        lambda: {"normalizer": normalizers.Replace(Regex("(a|a)*b"), "")},
        "its expression '(a|a)*b'",
    ),
    "a long replacement": (lambda: {"normalizer": normalizers.Replace("secret", "x" * 1000)}, "over 40 times as long"),
    "one of a class": (lambda: {"normalizer": normalizers.Replace(Regex("b"), "x" * 40)}, "over 40 times as long"),
    "compatibility forms, one after the other": (
        lambda: {"normalizer": normalizers.Sequence([normalizers.NFKD(), normalizers.Replace("ل", "ﷺ")] * 2)},
        "over 40 times as long",
    ),
    "bytes of bytes": (
        lambda: {
            "normalizer": normalizers.ByteLevel(),
            "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(use_regex=False)] * 2),
        },
        "over 40 times as long",
    ),
    "many expressions": (
        lambda: {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("a"), "isolated")] * 9)},
        "more than 8 expressions",
    ),
    "a guess made longer": (
        lambda: {"normalizer": normalizers.Replace("secret", "x" * 31)},
        "what it replaces may make a text over 4 times as long",
    ),
    "many parts": (
        lambda: {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits()] * 20)},
        "more than 16 normalizers and pre-tokenizers",
    ),
    "long pieces": (
        lambda: {"model": models.Unigram([("x", 0.0), ("-" * 65, -1.0)], unk_id=0)},
        "its longest piece has 65 characters",
    ),
    "words in parts at random": (lambda: {"model": models.BPE({"a": 0}, [], dropout=0.5)}, "at random (dropout)"),
    "a long affix": (
        lambda: {"model": models.BPE({"a": 0}, [], continuing_subword_prefix="#" * 17)},
        "longer than 16 characters",
    ),
    "many that double": (
        lambda: {"normalizer": normalizers.Sequence([normalizers.Replace("x", "xx")] * 6)},
        "over 40 times as long",
    ),
    "a long form of a character": (
        lambda: {"normalizer": normalizers.Precompiled(charsmap("a", "b" * 100))},
        "over 40 times as long",
    ),
    "a long beginning": (lambda: {"normalizer": normalizers.Prepend("a" * 100)}, "more than 16 characters before"),
    "endless words": (
        lambda: {"model": models.WordPiece({"a": 0}, max_input_chars_per_word=1 << 20)},
        "longer than 200 characters",
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_one_whose_work_a_text_may_multiply_is_refused(name: str) -> None:
    parts, said = GREEDY[name]
    with pytest.raises(ConfigError, match="this model's tokenizer is not let at private rows") as refusal:
        check_tokenizer(tokenizer(**parts()))
    assert said in str(refusal.value)


def test_one_that_cannot_be_looked_through_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        check_tokenizer(ByT5Tokenizer())


def test_every_part_that_the_library_has_is_decided_on() -> None:
    """A new kind of part is refused until somebody has looked at it."""

    def kinds(module: Any, base: type) -> set[str]:
        return {name for name, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, base)} - {
            base.__name__
        }

    assert kinds(normalizers, normalizers.Normalizer) <= set(NORMALIZERS)
    assert kinds(pre_tokenizers, pre_tokenizers.PreTokenizer) <= set(PRE_TOKENIZERS)


@pytest.fixture
def greedy_model(tmp_path: Path) -> Path:
    """The demo model, saved with a tokenizer that backtracks over a guessed text."""
    load_model().save_pretrained(tmp_path / "model")
    odd = tokenizer(pre_tokenizer=pre_tokenizers.Split(Regex("secret(a+)+b"), "isolated"))
    odd.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_site_neither_loads_nor_charges_for_such_a_model_and_check_site_says_why(
    greedy_model: Path, tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "site.jsonl", [{"prompt": "a", "completion": " red"}] * 4)
    ledger = Path(ledger_in(tmp_path))
    own = {"data-path": str(rows), "models": str(greedy_model), "max-epsilon": 9.0, "ledger-path": str(ledger)}
    before = ledger.read_bytes()
    run = {**read_run(None), "model.name": str(greedy_model)}
    found = {
        finding.what: finding
        for finding in check_site(" ".join(f"{key}={json.dumps(own[key])}" for key in own), run, "", "")
    }["data and model"]
    assert not found.passed
    assert found.text == (
        "this model's tokenizer is not let at private rows: its expression 'secret(a+)+b' is neither a plain nor a "
        "published one"
    )
    place = Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config=run)
    with pytest.raises(ModelUnavailable) as refusal:
        Site.of(place).model()
    assert "secret" not in str(refusal.value), "what it is, is in the site's own log"
    assert ledger.read_bytes() == before
