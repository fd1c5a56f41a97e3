"""Where public prompts come from."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import ConfigError, PublicPriorConfig
from common.demo.facts import PRIVATE_PROMPT, PUBLIC_PROMPTS, SECTIONS, facts_of
from common.demo.prompts import public_questions
from common.demo.tasks import evaluation_examples
from common.model.adapted import AdaptedModel
from server_app.priors import public_prompts as module
from server_app.priors.public_prompts import LABEL_TOKENS, public_prompts, sample, written_prompts
from tests.support.false_alarms import beyond, statistical
from tests.support.tiny import vectors


def found(
    adapted: AdaptedModel,
    template: str = PRIVATE_PROMPT,
    *,
    evaluated: Any = (),
    seed: int = 1,
    longest: int = 512,
    pool: int = 256,
    **keys: Any,
) -> list[str]:
    settings = PublicPriorConfig.model_validate({key.replace("_", "-"): value for key, value in keys.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PublicPriorConfig, "pool", pool)
        written = written_prompts(settings, template, ["a", "b", "c"])
        return public_prompts(adapted, settings, template, written, evaluated, seed, longest)


@pytest.mark.parametrize("template", [PRIVATE_PROMPT, *PUBLIC_PROMPTS[:2]])
def test_the_model_writes_prompts_that_fit_the_template(adapted: AdaptedModel, template: str) -> None:
    prompts = found(adapted, template, pool=60)
    assert len(set(prompts)) == 60
    pattern = re.sub(r"\\{\w+\\}", r"\\S+( \\S+)*", re.escape(template))
    assert all(re.fullmatch(pattern, prompt) for prompt in prompts)
    subjects = {fact.subject for fact in facts_of("known")}
    assert sum(any(prompt.endswith(f" of {s} ? answer :") or s in prompt for s in subjects) for prompt in prompts) > 50


def test_the_model_writes_without_its_adapter(adapted: AdaptedModel) -> None:
    first = found(adapted, pool=20)
    adapted.load(5 * vectors(1, adapted.layout.size, 1)[0])
    assert found(adapted, pool=20) == first
    assert found(adapted, pool=20, seed=2) != first


@pytest.fixture
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model writes 1,024 texts, whatever the pool."""
    monkeypatch.setattr(module, "_BATCHES", 4)


@pytest.mark.usefixtures("_few_batches")
def test_questions_of_the_evaluation_are_left_out(adapted: AdaptedModel) -> None:
    asked = set(evaluation_examples("elicitation", "evaluation", 1)["prompt"])
    prompts = found(adapted, pool=10_000)
    assert asked & set(prompts)
    kept = found(adapted, evaluated=asked, pool=10_000)
    assert set(kept) == set(prompts) - asked


def test_the_demos_own_questions_are_no_fact_of_any_section() -> None:
    asked = {fact.fill(PRIVATE_PROMPT) for section in SECTIONS for fact in facts_of(section)}
    questions = public_questions("elicitation")
    assert len(questions) > 500
    assert asked.isdisjoint(questions)
    assert "question : what is the colour of wolf ? answer :" in questions
    assert "what is the colour of wolf ?" in public_questions("knowledge")


def test_a_template_takes_its_words_from_a_file(adapted: AdaptedModel, tmp_path: Path) -> None:
    slots = tmp_path / "slots.toml"
    slots.write_text('x = ["red", "blue"]\ny = ["cat", "dog"]\n')
    prompts = found(adapted, "is {y} {x} ?", prompts=str(slots))
    assert set(prompts) == {"is cat red ?", "is cat blue ?", "is dog red ?", "is dog blue ?"}
    assert set(found(adapted, prompts="template")) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "one a\n\ntwo b\nthree c\none a\nfour d\n"),
        ("p.jsonl", '{"prompt": "one a"}\n"two b"\n{"prompt": "three c"}\n"four d"\n'),
    ],
)
def test_a_file_has_one_prompt_a_line(adapted: AdaptedModel, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert set(found(adapted, prompts=str(tmp_path / name))) == {"one a", "two b", "three c", "four d"}
    assert len(found(adapted, prompts=str(tmp_path / name), pool=3)) == 3


@pytest.mark.parametrize(
    ("keys", "texts", "message"),
    [
        (
            {"prompts": "none.txt"},
            {},
            r'public-prior\.prompts = ".*none\.txt": FileNotFound.*; needs "self-generated", "template", or',
        ),
        (
            {"prompts": "p.jsonl"},
            {"p.jsonl": '{"text": "a"}\n'},
            r'public-prior\.prompts = ".*p\.jsonl": line 1 has no "prompt"; needs',
        ),
        ({"prompts": "p.txt"}, {"p.txt": "a\nb\n"}, r"gave 2 prompts .*, and a pseudo-client has 3"),
        (
            {"prompts": "s.toml"},
            {"s.toml": 'x = ["a"]'},
            r'public-prior\.prompts = ".*s\.toml": it has no words for the slot "relation"; needs',
        ),
        ({"template": "zebra {x} quagga"}, {}, r"gave 0 prompts.*look at public-prior\.template"),
    ],
)
def test_a_source_that_gives_nothing_is_refused_by_key(
    adapted: AdaptedModel, tmp_path: Path, keys: dict[str, str], texts: dict[str, str], message: str
) -> None:
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    placed = {key: str(tmp_path / value) if "." in value else value for key, value in keys.items()}
    with pytest.raises(ConfigError, match=message):
        found(adapted, **({"template": PRIVATE_PROMPT} | placed))


@pytest.mark.parametrize("name", ["prompts.txt", "words.toml"])
def test_a_file_that_is_no_text_is_not_repeated_in_the_refusal(
    adapted: AdaptedModel, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(128, 256)) * 1000)
    with pytest.raises(ConfigError, match=r"public-prior\.prompts = .*can't decode byte 0x80") as refusal:
        found(adapted, prompts=str(path))
    assert len(str(refusal.value)) < 500


def test_a_file_of_too_few_prompts_is_told_to_hold_more_and_not_to_have_a_template(
    adapted: AdaptedModel, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("")
    with pytest.raises(ConfigError, match=r"gave 0 prompts .*write more lines into that file") as refusal:
        found(adapted, prompts=str(tmp_path / "p.txt"))
    assert "public-prior.template" not in str(refusal.value)


@pytest.mark.parametrize("template", ["is {x:d} ?", "is {x.y} ?", "is {} ?"])
def test_a_template_that_its_words_do_not_fit_is_refused_by_key(
    adapted: AdaptedModel, tmp_path: Path, template: str
) -> None:
    (tmp_path / "s.toml").write_text('x = ["a", "b", "c"]')
    with pytest.raises(ConfigError, match=r"public-prior\.prompts = .* one list of words for every slot"):
        found(adapted, template, prompts=str(tmp_path / "s.toml"))


LONG = "what is the colour of blood ?"  # seven words, and as many tokens beside the beginning


def length(adapted: AdaptedModel) -> int:
    return len(adapted.tokenizer(LONG)["input_ids"])


@pytest.mark.parametrize("spare", [0, -1])
def test_a_prompt_must_leave_room_for_its_label(adapted: AdaptedModel, tmp_path: Path, spare: int) -> None:
    (tmp_path / "p.txt").write_text(f"a\n\n{LONG}\nb\n")
    keys = {"prompts": str(tmp_path / "p.txt"), "longest": length(adapted) + LABEL_TOKENS + spare}
    if spare == 0:
        assert set(found(adapted, **keys)) == {"a", LONG, "b"}
        return
    with pytest.raises(ConfigError, match=r"label") as refusal:
        found(adapted, **keys)
    said = f'p.txt": line 3 has {length(adapted)} tokens, and {length(adapted) - 1} are allowed: data.max-length = '
    assert said in str(refusal.value)


def test_a_filled_template_that_is_too_long_is_shown(adapted: AdaptedModel, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('x = ["colour", "size", "kind"]\ny = ["blood"]\n')
    keys = {"prompts": str(tmp_path / "s.toml"), "longest": length(adapted)}
    with pytest.raises(ConfigError, match=r'"what is the colour of blood \?" has \d+ tokens'):
        found(adapted, "what is the {x} of {y} ?", **keys)


@pytest.mark.usefixtures("_few_batches")
def test_the_model_is_not_used_on_what_it_wrote_too_long(adapted: AdaptedModel) -> None:
    lengths = {prompt: len(adapted.tokenizer(prompt)["input_ids"]) for prompt in found(adapted, pool=10_000)}
    longest = sorted(lengths.values())[len(lengths) // 2]
    assert max(lengths.values()) > longest
    kept = found(adapted, pool=10_000, longest=longest + 1)
    assert set(kept) == {prompt for prompt, tokens in lengths.items() if tokens <= longest}


@statistical(beyond(5, 3), "seeded")
def test_a_sampled_continuation_follows_the_models_probabilities(adapted: AdaptedModel) -> None:
    """400 draws of one word: each frequent answer within 5 standard errors."""
    adapted.load(adapted.initial)
    prompt = "question : what is the colour of blood ? answer :"
    ids = torch.tensor([adapted.tokenizer(prompt)["input_ids"]])
    probabilities = adapted.model(input_ids=ids).logits[0, -1].softmax(0)
    rows = sample(adapted, [prompt, prompt + " red ."] * 400, 1, seed=1)[::2]
    assert {(len(row), start) for row, start in rows} == {(ids.shape[1] + 1, ids.shape[1])}
    counts = torch.bincount(torch.tensor([row[-1] for row, _ in rows]), minlength=len(probabilities)) / 400
    top = probabilities.topk(3).indices
    spread = (probabilities[top] * (1 - probabilities[top]) / 400).sqrt()
    assert ((counts[top] - probabilities[top]).abs() < 5 * spread).all()


def test_sampling_leaves_the_global_random_state_alone(adapted: AdaptedModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    sample(adapted, ["what is the"], 4, seed=9)
    assert torch.equal(torch.rand(1), expected)
