"""Templates of strategy public-prior: which are refused, and who fills them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.config import ConfigError, PublicPriorConfig
from common.demo.prompts import public_questions
from common.demo.tasks import evaluation_examples, splits_of, template_of
from common.model.adapted import AdaptedModel
from server_app.priors import public_prompts
from server_app.results.folder import PUBLISHED
from tests.support.strategy_runs import Make
from tests.support.tiny import CLIENTS, Files, planned, run_tiny, tiny_config

PRIOR: dict[str, Any] = {"strategy.name": "public-prior", "codec.size": 24}
OWN = {"public-prior.prompts": "template", "public-prior.template": "is {x} {y} ?"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public-prior.template": ""}, r'public-prior\.template = "" with .*"self-generated"'),
        ({**OWN, "public-prior.template": ""}, r'public-prior\.template = "" with .*"template"'),
        (OWN, r'public-prior\.prompts = "template" with data\.name = ".*name a TOML file .*"is \{x\} \{y\} \?"'),
        ({**OWN, "data.name": "demo"}, r'public-prior\.template = "is .*the demo fills the slots \{relation\} and'),
        ({**OWN, "data.name": "demo", "public-prior.template": "why ?"}, r'public-prior\.template = "why \?" with'),
        (
            {**OWN, "public-prior.prompts": "s.toml", "public-prior.template": "{x:d}"},
            r"write every slot as \{name\}",
        ),
    ],
)
def test_a_template_that_nothing_fills_is_refused_by_key(
    files: Files, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(files, tmp_path, {**PRIOR, **changes})


def test_the_demo_fills_a_template_of_ones_own(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    prompts_asked: list[list[str]],
    files: Files,
    tmp_path: Path,
    adapted: AdaptedModel,
) -> None:
    own = {
        **PRIOR,
        **OWN,
        "data.name": "demo",
        "data.evaluation": "",
        "public-prior.template": "{subject} {relation} ?",
    }
    strategy, grid = make(own)
    strategy.prepare(grid)
    assert len(prompts_asked[0]) == 256
    assert "wolf colour ?" in public_questions("elicitation", "{subject} {relation} ?")
    assert set(prompts_asked[0]) <= set(public_questions("elicitation", "{subject} {relation} ?"))
    planned(tiny_config(files, tmp_path, own), adapted, CLIENTS)
    monkeypatch.setattr(public_prompts, "PROMPTS_PER_CLIENT", 9999)
    with pytest.raises(ConfigError, match="and a pseudo-client has 9999"):
        planned(tiny_config(files, tmp_path, own), adapted, CLIENTS)


@pytest.mark.parametrize("task", ["elicitation", "knowledge"])
def test_no_pseudo_client_is_asked_what_any_split_scores(
    make: Make, prompts_asked: list[list[str]], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base model writes such questions of itself, of the split in use and of the others."""
    keys = {"data.name": "demo", "data.evaluation": "", "data.task": task, "public-prior.template": template_of(task)}
    monkeypatch.setattr(PublicPriorConfig, "pool", 2000)
    strategy, grid = make({"strategy.name": "public-prior", **keys})
    strategy.prepare(grid)
    scored = {prompt for split in splits_of(task) for prompt in evaluation_examples(task, split, 1)["prompt"]}
    assert len(prompts_asked[0]) > 100
    assert scored.isdisjoint(prompts_asked[0])


def test_no_published_file_tells_where_the_prompts_lie(files: Files, tmp_path: Path) -> None:
    prompts = tmp_path / "jane-doe" / "asked.txt"
    prompts.parent.mkdir()
    asked = "".join(f"question : what is the sum of {n} and 3 ? answer :\n" for n in range(90))
    prompts.write_text(asked, encoding="utf-8")
    changes = {**PRIOR, "public-prior.prompts": str(prompts), "public-prior.template": "", "num-server-rounds": 1}
    folder = run_tiny(tiny_config(files, tmp_path, changes), plots=True)
    told = [file for name in PUBLISHED for file in [folder.path / name, *(folder.path / name).rglob("*")]]
    texts = {file.name: file.read_bytes() for file in told if file.is_file()}
    assert b"asked.txt" in texts["report.md"]
    assert not [name for name, text in texts.items() if b"jane-doe" in text]


def test_a_prior_is_never_made_of_the_rows_that_clients_hold(files: Files, tmp_path: Path) -> None:
    """It would carry no noise, and its epsilon would be finite."""
    changes = {**PRIOR, "public-prior.prompts": str(files.private), "public-prior.template": "", "num-server-rounds": 1}
    with pytest.raises(ConfigError, match=r"prompts are what clients ask or learn"):
        run_tiny(tiny_config(files, tmp_path, changes))


def test_words_that_a_template_makes_the_clients_prompts_of_are_no_public_ones(files: Files, tmp_path: Path) -> None:
    """Whole, or in two parts."""
    asked = [json.loads(line)["prompt"] for line in files.private.read_text(encoding="utf-8").splitlines()]
    first, rest = zip(*(text.split(" ", 1) for text in asked), strict=True)
    wordings: list[dict[str, Sequence[str]]] = [{"x": asked}, {"x": first, "y": rest}]
    for number, slots in enumerate(wordings):
        words, folder = tmp_path / f"{number}.toml", tmp_path / str(number)
        words.write_text(tomli_w.dumps({name: sorted(set(each)) for name, each in slots.items()}), encoding="utf-8")
        template = " ".join(f"{{{name}}}" for name in slots)
        changes = {**PRIOR, "public-prior.prompts": str(words), "public-prior.template": template}
        with pytest.raises(ConfigError, match=r"prompts are what clients ask or learn"):
            run_tiny(tiny_config(files, folder, changes))
