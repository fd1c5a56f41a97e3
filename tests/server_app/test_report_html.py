"""``report.html``: the facts of report.md, from the same place, whatever texts the data hold."""

import base64
import hashlib
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from common.config import DataConfig, RunConfig
from common.model.adapted import AdaptedModel, load_adapted_model
from server_app.results import facts
from server_app.results.folder import RunFolder
from server_app.results.html.page import html
from server_app.results.repeating import command, public_settings
from server_app.results.samples import Samples
from server_app.results.scoring import Scorer
from server_app.results.spread import ratio_error, share_error
from server_app.results.writing import greedy_settings, write_texts
from tests.support.brief_model import ANSWER, save_brief_model
from tests.support.html_text import page_text
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config, write_jsonl
from workbench.cli.overrides import parse_overrides
from workbench.simulation.launcher import preset_names, read_preset

NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 0.8,
    "privacy.colluders": 1,
    "server.divergence-factor": 1e9,
}


@pytest.fixture(scope="module")
def noisy(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_tiny(tiny_config(files, tmp_path_factory.mktemp("noisy"), NOISY), plots=True)


def report_of(folder: RunFolder) -> dict[str, Any]:
    """The report as it was before JSON made texts of its infinities."""
    found = json.loads((folder.path / "report.json").read_text(encoding="utf-8"))
    for key in ("released_model", "one_client_against_server"):
        found["privacy"][key]["epsilon"] = float(found["privacy"][key]["epsilon"])
    return found


def page_of(folder: RunFolder) -> str:
    return (folder.path / "report.html").read_text(encoding="utf-8")


def test_it_says_what_report_md_says(noisy: RunFolder) -> None:
    page, text = page_text(page_of(noisy)), (noisy.path / "report.md").read_text(encoding="utf-8")
    report = report_of(noisy)
    told = [cell for row in facts.utility_table(report["outcome"]) for cell in row]
    told += [facts.scored_on(report["outcome"]), *facts.warnings(report)]
    assert len(told) > 6
    for said in told:
        assert said in page, said
        assert said in text, said
    assert facts.headline(report["privacy"]) in text
    assert facts.headline(report["privacy"]) in page.replace("\u00a0", " ")
    for row in facts.bytes_table(report["communication"]):
        assert all(cell in page for cell in row)


def test_nothing_in_it_asks_for_anything(noisy: RunFolder) -> None:
    page = page_of(noisy)
    assert "://" not in page
    assert not re.search(r"<(?:img|iframe|object|embed|link(?! rel=\"icon\" href=\"data:,\"))\b", page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in page
    assert len(page) < 300_000


def test_texts_of_the_data_are_texts_and_no_markup(noisy: RunFolder) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\x9b"
    report = report_of(noisy)
    report["samples"] = [
        {"prompt": hostile, "reference": hostile, "base": hostile, "tuned": hostile},
        {"prompt": hostile, "reference": hostile, "choices": [{"text": hostile, "base": 0.5, "tuned": 0.5}]},
    ]
    report["run"]["data"] = hostile
    report["outcome"]["examples"]["groups"] = {hostile: 1, "other": 2}
    page = html(report, noisy.read_metrics())
    assert hostile not in page
    assert "<img" not in page
    assert page.count("<script") == 1
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 6
    assert not {"\x1b", "\x9b"} & set(page), "nor commands for the terminal of who reads the file there"


def test_examples_are_spread_over_the_rows_and_are_scored_as_accuracy_is(
    noisy: RunFolder, files: Files, adapted: AdaptedModel
) -> None:
    samples = report_of(noisy)["samples"]
    rows = [json.loads(line) for line in files.public.read_text(encoding="utf-8").splitlines()]
    assert [sample["prompt"] for sample in samples] == [rows[number]["prompt"] for number in (0, 2, 4, 7, 9)]
    config = tiny_config(files, Path(), NOISY)
    scorer = Scorer.of(adapted, config.data, config.seed)
    assert scorer is not None
    shares = scorer.held_out.shares(final_adapter(noisy))
    assert shares.sum(dim=1).tolist() == pytest.approx([1.0] * len(rows))
    for sample, number in zip(samples, (0, 2, 4, 7, 9), strict=True):
        assert [choice["text"] for choice in sample["choices"]] == [text.strip() for text in rows[number]["choices"]]
        assert [choice["tuned"] for choice in sample["choices"]] == pytest.approx(shares[number].tolist(), abs=1e-6)
        assert sample["reference"] in [choice["text"] for choice in sample["choices"]]
    best = [rows[number]["choices"][int(shares[number].argmax())] for number in range(len(rows))]
    right = sum(found == row["completion"] for found, row in zip(best, rows, strict=True))
    assert report_of(noisy)["outcome"]["final"]["accuracy"] == pytest.approx(right / len(rows))


def test_without_choices_both_models_write(files: Files, tmp_path: Path, adapted: AdaptedModel) -> None:
    rows = [json.loads(line) for line in files.public.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["choices"]
    config = tiny_config(files, tmp_path, {"data.evaluation": str(write_jsonl(tmp_path / "texts.jsonl", rows[:3]))})
    folder = run_tiny(config, plots=True)
    samples, prompts = report_of(folder)["samples"], [row["prompt"] for row in rows[:3]]
    settings = greedy_settings(adapted, 64, templated=False)
    for name, adapter in (("base", torch.zeros_like(adapted.initial)), ("tuned", final_adapter(folder))):
        assert [sample[name] for sample in samples] == write_texts(adapted, adapter, prompts, config.data, 1, settings)
    assert all(sample["base"] for sample in samples)
    assert report_of(folder)["outcome"]["examples"]["guessing"] is None
    assert "accuracy" not in page_text(page_of(folder))


@pytest.mark.parametrize("layout", ["chat", "columns"])
def test_in_a_chat_template_a_text_ends_with_the_turn(tmp_path: Path, layout: str) -> None:
    keys = {"model.name": save_brief_model(tmp_path / "model"), "lora.target-modules": "q_proj", "data.format": layout}
    config = RunConfig.parse(keys | {"data.name": "x", "data.chat-template": layout == "columns"})
    brief = load_adapted_model(config.model, config.lora, 1)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    rows = Dataset.from_list([{"prompt": "Who?", "completion": "Me.", "messages": json.dumps(turns)}])
    (sample,) = Samples(brief, rows, config.data)(brief.initial, brief.initial)
    assert sample["base"] == sample["tuned"] == ANSWER


def test_of_a_conversation_it_is_told_who_says_what(adapted: AdaptedModel) -> None:
    turns = [
        ("system", "Be short."),
        ("user", "Where is ice? " + 60 * "far, "),
        ("assistant", "Aye."),
        ("user", "When?"),
    ]
    talks = [turns[1:2], turns, 4 * turns]
    rows = Dataset.from_list([
        {"prompt": "joined", "completion": "At six.",
         "messages": json.dumps([{"role": role, "content": text} for role, text in [*talk, ("assistant", "At six.")]])}
        for talk in talks
    ])  # fmt: skip
    short, spoken, long = Samples(adapted, rows, DataConfig(name="x", format="chat"))._prompts()
    assert short == turns[1][1].strip()
    assert spoken.splitlines()[::3] == ["system: Be short.", "user: When?"]
    assert long.startswith("…")
    assert long.endswith("assistant: Aye.\nuser: When?"), "what is asked last is never cut away"


def test_noise_that_hides_a_private_score_is_told(noisy: RunFolder) -> None:
    scores = {"round": 3, "private_accuracy": -1.1, "private_loss": 2.0, "private_loss_error": 9.0}
    for error, hidden in ((0.6, True), (0.4, False)):
        report = report_of(noisy)
        ends = scores | {"private_accuracy_error": error}
        report["outcome"] |= {"private": {"base": ends, "final": ends}, "base": {}, "final": {}}
        said = page_text(html(report, noisy.read_metrics()))
        assert ("they tell nothing" in said) is hidden
        assert ("next token right, clients' own rows" in said) is not hidden, "no headline of nothing"


def test_without_held_out_rows_there_is_a_page_all_the_same(files: Files, tmp_path: Path) -> None:
    folder = run_tiny(tiny_config(files, tmp_path, {"data.evaluation": "", "strategy.name": "lora"}), plots=True)
    said = page_text(page_of(folder))
    assert "No evaluation data was configured" in said
    assert "Nothing is protected end to end: ε is infinite" in said.replace("\u00a0", " ")
    assert report_of(folder)["samples"] == []


def test_errors_are_those_of_the_textbook() -> None:
    assert share_error(0.25, 75) == pytest.approx(math.sqrt(0.25 * 0.75 / 75))
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 9, (4000,), generator=generator)
    losses = lengths * (2 + torch.randn(4000, generator=generator))
    picks = torch.randint(0, 4000, (2000, 4000), generator=generator)
    bootstrap = (losses[picks].sum(dim=1) / lengths[picks].sum(dim=1)).std()
    assert ratio_error(losses.tolist(), lengths.tolist()) == pytest.approx(float(bootstrap), rel=0.06)
    assert math.isnan(ratio_error([1.0], [1]))
    assert math.isnan(share_error(0.5, 0))


def parties(privacy: dict[str, Any], cover: bool = False) -> dict[str, str]:
    defaults: dict[str, Any] = {
        "trust": "distributed",
        "colluders": 1,
        "released_model": {"epsilon": 2.0, "assumes": "at most 1 client colludes, cohorts stay secret"},
        "one_client_against_server": {"epsilon": math.inf, "noise_multiplier_of_a_message": 0.1},
    }
    found = facts.parties({"privacy": defaults | privacy, "communication": {"cover": cover}})
    return {party: promise for party, _, promise in found}


def test_nothing_is_promised_to_a_party_that_the_ledger_does_not_prove() -> None:
    assert parties({}) == {
        "anyone with the adapter and this report": "ε = 2.000",
        "other clients": "ε = 2.000",
        "the server's operator": "nothing is claimed: the operator is trusted",
        "who watches the network": "nothing is claimed (cohorts are seen, so nothing is amplified)",
    }
    assert parties({}, cover=True)["who watches the network"] == "ε = 2.000"
    assert parties({"colluders": 0})["other clients"].startswith("nothing is claimed: each knows its own share")
    local = {
        "trust": "local",
        "colluders": 0,
        "one_client_against_server": {"epsilon": 7.0, "noise_multiplier_of_a_message": 1.0},
    }
    assert parties(local)["other clients"] == "ε = 2.000"
    assert parties(local)["the server's operator"] == "ε = 7.000"
    assert parties(local)["who watches the network"].startswith("ε = 7.000")
    infinite = {"released_model": {"epsilon": math.inf, "assumes": "cohorts need not be secret"}}
    assert set(parties(infinite).values()) >= {"nothing is claimed"}
    assert not any("ε" in promise for promise in parties(infinite).values())


def repeated(text: str) -> RunConfig:
    """The configuration that the command would run."""
    words = shlex.split(text.replace("\\\n", " "))
    assert words[:3] == ["dr-encoder", "run", "--preset"]
    assert words[4::2] == ["--set"] * len(words[4::2])
    return RunConfig.parse(read_preset(words[3]) | parse_overrides(words[5::2]))


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_repeated_by_its_name(preset: str) -> None:
    config = RunConfig.parse(read_preset(preset))
    text = command(public_settings(config, config.federation.num_clients))
    assert text == f"dr-encoder run --preset {preset}"


def test_changes_are_repeated_value_for_value() -> None:
    changes = {
        "privacy.epsilon": math.inf, "federation.cover": True, "model.name": "some-org/model", "codec.size": 64,
        "data.name": "it's 5 o'clock.jsonl", "data.prompt-column": "12", "model.quantization": "4", "seed": 7,
        "lora.target-modules": "q_proj,v_proj",
    }  # fmt: skip
    config = RunConfig.parse(read_preset("demo") | changes)
    again = repeated(command(public_settings(config, 1000))).flat()
    assert {key: again[key] for key in changes} == {key: config.flat()[key] for key in changes}


def test_places_are_not_told_by_the_settings() -> None:
    config = RunConfig.parse(
        {"data.name": "/home/jane/rows.jsonl", "data.evaluation": "/home/jane/out.jsonl", "output.dir": "/home/jane"}
    )
    settings = public_settings(config, 5)
    assert (settings["data.name"], settings["data.evaluation"]) == ("rows.jsonl", "out.jsonl")
    assert settings["federation.num-clients"] == 5
    assert "jane" not in json.dumps(settings) + command(settings)


def test_what_lies_on_this_machine_is_named_without_its_folder(tmp_path: Path) -> None:
    keys = ("model.name", "data.name", "data.evaluation", "data.validation")
    config = RunConfig.parse({key: str(tmp_path / "file.jsonl") for key in keys})
    settings = public_settings(config, 3)
    assert str(tmp_path) not in json.dumps(settings)
    assert {settings[key] for key in keys} == {"file.jsonl"}
