"""What a run leaves in its folder."""

import json
import math
import struct
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from common.config import ConfigError, OutputConfig, RunConfig, flatten
from common.demo.model import load_model, load_tokenizer
from common.model.adapted import AdaptedModel
from server_app.privacy.account import cross_check_sentence
from server_app.privacy.ledger import Ledger
from server_app.results.evaluation import Evaluation, Evaluator
from server_app.results.folder import RunFolder
from server_app.results.output_place import check_output
from server_app.results.report import _shortage_warning
from server_app.run import check_run, run_federation
from tests.support.grids import faulty
from tests.support.interrupted_runs import say_of_clients
from tests.support.seeded import seed_randomness
from tests.support.stopping_runs import stopped_in
from tests.support.tiny import CLIENTS, Files, final_adapter, run_tiny, tiny_config, tiny_grid

NOISY: dict[str, Any] = {
    "privacy.epsilon": 0.0,
    "privacy.noise-multiplier": 0.8,
    "privacy.trust": "central",
    "server.learning-rate": 0.4,
}


@pytest.fixture(scope="module")
def noisy(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A private run (in ``central``, so that one epsilon is infinite)."""
    return run_tiny(tiny_config(files, tmp_path_factory.mktemp("noisy"), NOISY), plots=True)


@pytest.fixture(scope="module")
def clear(files: Files, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run without noise and without public examples."""
    changes = {"data.evaluation": "", "strategy.name": "lora", "server.learning-rate": 3.0}
    return run_tiny(tiny_config(files, tmp_path_factory.mktemp("clear"), changes), plots=True)


def report_of(folder: RunFolder) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report: dict[str, Any] = json.loads((folder.path / "report.json").read_text(), parse_constant=refuse)
    return report


KEYS = {
    "": {"schema", "run", "outcome", "privacy", "communication", "codec", "strategy"},
    "run": {
        *("name", "strategy", "model", "data", "seed", "clients", "rounds_planned", "rounds_run", "seconds"),
        *("app_digest", "versions"),
    },
    "outcome": {
        *("stopped_because", "divergence_judged_on", "rounds_short_of_replies", "base", "final"),
        *("warning", "shortage_warning"),
    },
    "privacy": {
        *("released_model", "one_client_against_server", "not_private_because", "trust"),
        *("clip_norm", "clipping", "sampling_rate", "noise_multiplier", "statistics_noise_multiplier"),
        *("noise_shares", "delta_set_aside", "rounds_charged", "noise_source"),
    },
    "communication": {
        *("adapter_values", "code_values", "per_client_run", "per_client_run_plain_lora"),
        "per_client_run_as_released",
        *("times_smaller_than_plain_lora", "cover", "expected_bytes_up", "expected_bytes_down"),
    },
}
FIGURE = {"epsilon", "of", "against", "accountant", "delta", "unit", "adjacency"}


def test_the_report_has_the_documented_keys(noisy: RunFolder, clear: RunFolder) -> None:
    for folder in (noisy, clear):
        report = report_of(folder)
        for section, keys in KEYS.items():
            assert set(report[section] if section else report) >= keys, section
        for figure in ("released_model", "one_client_against_server"):
            assert set(report["privacy"][figure]) >= FIGURE


def test_the_certified_epsilon_lies_in_the_bracket_of_the_prv_accountant(noisy: RunFolder) -> None:
    privacy = report_of(noisy)["privacy"]
    check = privacy["released_model"]["cross_check"]
    assert check["lower"] <= privacy["released_model"]["epsilon"] <= check["upper"] <= check["lower"] + 0.05
    assert check["agrees"] is True
    assert privacy["noise_source"].endswith("from the operating system's random generator")
    page = (noisy.path / "report.md").read_text()
    assert cross_check_sentence(check) in page
    assert privacy["noise_source"] in page


def test_the_page_states_the_terms_of_the_guarantee(noisy: RunFolder, clear: RunFolder) -> None:
    page = (noisy.path / "report.md").read_text()
    terms = "Noise multiplier (std over the clip norm 1): 0.8000 in a round, 1.6000 in stage 1"
    assert f"Trust model: central. {terms}; one message of a round carries 0.0000 by itself." in page
    assert "Noise: none: no noise is added." in (clear.path / "report.md").read_text()


def test_what_stage_one_has_spent_is_stated_by_itself(noisy: RunFolder) -> None:
    released = report_of(noisy)["privacy"]["released_model"]
    assert released["epsilon_of_stage_1"] == pytest.approx(exact_epsilon(1 / 1.6, 1e-3), rel=1e-3)


def test_an_infinite_figure_against_the_server_has_its_reason(noisy: RunFolder, clear: RunFolder) -> None:
    server = report_of(clear)["privacy"]["one_client_against_server"]
    assert server["not_claimed_because"] == "privacy.epsilon = inf: no noise is added"
    assert f"nothing is claimed: {server['not_claimed_because']}" in (clear.path / "report.md").read_text()
    trusted = "the server is trusted with single messages, which carry no noise of their own"
    assert report_of(noisy)["privacy"]["one_client_against_server"]["not_claimed_because"] == trusted


def test_the_report_says_what_happened(noisy: RunFolder, adapted: AdaptedModel) -> None:
    report = report_of(noisy)
    run, wire, privacy = report["run"], report["communication"], report["privacy"]
    assert (run["strategy"], run["clients"], run["rounds_planned"], run["rounds_run"]) == ("dr-encoder", CLIENTS, 3, 3)
    assert report["outcome"]["stopped_because"] == "all rounds done"
    assert (wire["adapter_values"], wire["code_values"]) == (adapted.layout.size, 64)
    own, lora = wire["per_client_run"], wire["per_client_run_plain_lora"]
    assert wire["times_smaller_than_plain_lora"] == pytest.approx(lora["both"] / own["both"])
    for figures in (own, lora):
        assert figures["both"] == figures["up"] + figures["down"]
        assert figures["rounds_asked"] == 3.0
    assert 3 * 4 * adapted.layout.size < lora["down"] < 3 * 4 * adapted.layout.size + 1200
    assert report["outcome"]["rounds_short_of_replies"] == 0
    assert privacy["noise_shares"] == CLIENTS
    assert (privacy["noise_multiplier"], privacy["rounds_charged"]) == (0.8, 3)
    charges = Ledger(noisy.ledger).charges
    assert [charge.noise_multiplier for charge in charges] == [1.6, 0.8, 0.8, 0.8]
    mu = math.sqrt(sum(charge.noise_multiplier**-2 for charge in charges))
    assert privacy["released_model"]["epsilon"] == pytest.approx(exact_epsilon(mu, 1e-3), rel=1e-3)
    assert privacy["not_private_because"] == ""


def exact_epsilon(mu: float, delta: float) -> float:
    """By bisection of delta(epsilon) of the Gaussian mechanism (Balle and Wang 2018)."""
    normal = torch.distributions.Normal(0.0, 1.0)

    def exceeds(epsilon: float) -> bool:
        a, b = (torch.tensor(x, dtype=torch.float64) for x in (mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu))
        return float(normal.cdf(a) - math.exp(epsilon) * normal.cdf(b)) > delta

    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return high


def test_bytes_are_those_of_a_message_times_the_expected_cohorts(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The realized totals would tell the sizes of the secret cohorts; here two clients of six never answer."""
    changes = {
        **NOISY,
        "strategy.name": "lora",
        "data.evaluation": "",
        "privacy.sampling-rate": 0.5,
        "federation.min-reply-rate": 1.0,
        "federation.max-failed-rounds": 9,
        "num-server-rounds": 4,
    }
    seed_randomness(monkeypatch, 2)
    config = tiny_config(files, tmp_path, changes)
    folder = run_tiny(config, faulty(tiny_grid(config), raising={1}, silent={2}))
    report, rows = report_of(folder), folder.read_metrics()[1:]
    wire, whole = report["communication"], [row for row in rows if row["replies"]]
    own = wire["per_client_run"]
    assert own["rounds_asked"] == 0.5 * 4
    assert {row["bytes_up"] / row["replies"] for row in whole} == {own["up"] / 2}
    assert wire["expected_bytes_up"] == CLIENTS * own["up"]
    assert wire["expected_bytes_down"] == CLIENTS * own["down"]
    assert wire["expected_bytes_up"] != sum(row["bytes_up"] for row in rows)
    assert not {"bytes_up_total", "bytes_down_total"} & set(wire)
    short = [row for row in rows if row["replies"] < row["cohort"]]
    assert report["outcome"]["rounds_short_of_replies"] == len(short) > 0
    assert {row["shortage"] != "" for row in short} == {True}


def test_an_infinite_epsilon_is_the_text_inf_with_its_reason(noisy: RunFolder, clear: RunFolder) -> None:
    assert report_of(noisy)["privacy"]["one_client_against_server"]["epsilon"] == "inf"
    privacy = report_of(clear)["privacy"]
    assert privacy["released_model"]["epsilon"] == "inf"
    assert privacy["not_private_because"].startswith("privacy.epsilon = inf")
    assert privacy["released_model"]["cross_check"] == {"unavailable": privacy["not_private_because"]}
    assert privacy["noise_source"] == "none: no noise is added"
    assert "Not private end to end" in (clear.path / "report.md").read_text()


def test_without_public_examples_there_are_no_scores(clear: RunFolder) -> None:
    assert report_of(clear)["outcome"]["final"] == {}
    assert "No evaluation data was configured" in (clear.path / "report.md").read_text()


def test_the_final_scores_are_those_of_the_last_round(noisy: RunFolder) -> None:
    rows, outcome = noisy.read_metrics(), report_of(noisy)["outcome"]
    assert outcome["base"]["round"] == 0
    assert outcome["final"]["round"] == 3
    for key in ("loss", "accuracy"):
        assert (outcome["base"][key], outcome["final"][key]) == (rows[0][key], rows[3][key])
    assert rows[0]["loss"] != rows[3]["loss"]


def test_metrics_have_a_row_for_the_base_model_and_for_each_round(noisy: RunFolder) -> None:
    rows = [json.loads(line) for line in noisy.metrics.read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for row in rows[1:]:
        assert (row["cohort"], row["replies"], row["shortage"], row["failures"]) == (CLIENTS, CLIENTS, "", 0)
        assert row["epsilon_server"] == "inf"
        assert {"loss", "accuracy", "bytes_up", "bytes_down", "seconds", "elapsed"} <= set(row)
    epsilons = [row["epsilon"] for row in rows[1:]]
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] == pytest.approx(report_of(noisy)["privacy"]["released_model"]["epsilon"], rel=5e-3)


def test_the_written_configuration_is_that_of_the_run_but_for_its_name(noisy: RunFolder, files: Files) -> None:
    written = RunConfig.parse(flatten(tomllib.loads((noisy.path / "config.toml").read_text())))
    assert written.flat() == tiny_config(files, noisy.path.parent, NOISY).flat() | {"output.name": ""}


def test_the_saved_adapter_gives_the_live_models_logits(noisy: RunFolder, adapted: AdaptedModel) -> None:
    base = load_model()
    ids = load_tokenizer()(["question : what is the sum of 2 and 3 ? answer :"], return_tensors="pt")
    with torch.no_grad():
        untouched = base(**ids).logits
        loaded = PeftModel.from_pretrained(base, noisy.path / "adapter").eval()(**ids).logits
        adapted.load(final_adapter(noisy))
        live = adapted.model.eval()(**ids).logits
    torch.testing.assert_close(loaded, live, rtol=0, atol=1e-6)
    assert (loaded - untouched).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["progress.png", "epsilon.png", "bytes.png"])
def test_plots_are_pictures_with_something_in_them(noisy: RunFolder, clear: RunFolder, name: str) -> None:
    for folder in (noisy, clear):
        data = (folder.path / name).read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG")
        assert width > 400
        assert height > 200
        assert len(data) > 4000
        assert name in (folder.path / "report.md").read_text()


def test_no_adapter_is_scored_twice(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last round's scores are the final ones; base, three rounds."""
    calls: list[int] = []
    scored = Evaluator.__call__

    def counted(self: Evaluator, adapter: torch.Tensor) -> Evaluation:
        calls.append(1)
        return scored(self, adapter)

    monkeypatch.setattr(Evaluator, "__call__", counted)
    folder = run_tiny(tiny_config(files, tmp_path, NOISY))
    assert len(calls) == 4
    assert report_of(folder)["outcome"]["final"]["loss"] == folder.read_metrics()[-1]["loss"]


@pytest.mark.parametrize(("broken_until", "loud"), [(2, True), (1, False)])
def test_a_run_most_of_whose_rounds_were_empty_does_not_end_as_a_plain_success(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str], broken_until: int, loud: bool
) -> None:
    config = tiny_config(files, tmp_path, {**NOISY, "strategy.name": "lora"})
    grid = faulty(tiny_grid(config), raising={1, 2, 3, 4, 5, 6}, silent=set(), until=broken_until)
    folder = run_tiny(config, grid)
    said = capfd.readouterr().out
    assert bool(report_of(folder)["outcome"]["shortage_warning"]) is loud
    assert ("MOST ROUNDS HAD TOO FEW REPLIES" in said) is loud
    page = (folder.path / "report.md").read_text(encoding="utf-8")
    assert "TOO FEW REPLIES" not in page, "who replied is the secret cohort's; the page is published"
    assert " 2 " not in report_of(folder)["outcome"]["shortage_warning"], "how many is told on no page"


def test_rounds_that_asked_nobody_do_not_hide_that_nobody_ever_answered() -> None:
    asked = {"round": 1, "cohort": 1, "shortage": "0 of 1 clients replied, 1 is needed"}
    nobody, fine = ({"round": 2, "cohort": cohort, "shortage": ""} for cohort in (0, 1))
    assert "MOST ROUNDS HAD TOO FEW REPLIES" in _shortage_warning([*[asked] * 7, *[nobody] * 18])
    assert not _shortage_warning([*[asked] * 7, *[fine] * 18])
    assert not _shortage_warning([nobody] * 3)


def test_an_existing_folder_is_never_written_into(noisy: RunFolder, files: Files) -> None:
    with pytest.raises(ConfigError, match=r'output\.name = "run": .* exists already; choose another name$'):
        RunFolder.create(tiny_config(files, noisy.path.parent, NOISY))


def test_the_name_of_a_run_that_can_be_resumed_is_told_how(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, NOISY | {"num-server-rounds": 2})
    going = stopped_in(config, 1)
    said = f"another name, or continue that run with: dr-encoder run --resume {going.path}$"
    with pytest.raises(ConfigError, match=said):
        RunFolder.create(config)
    with pytest.raises(ConfigError, match=said):
        check_output(OutputConfig(dir=config.output.dir, name=going.path.name))
    say_of_clients(going.path, "deployed")
    with pytest.raises(ConfigError, match="continue that run with: python -m workbench"):
        check_output(OutputConfig(dir=config.output.dir, name=going.path.name))


def test_two_runs_in_one_process_do_not_influence_each_other(noisy: RunFolder, files: Files, tmp_path: Path) -> None:
    """The second starts from the initial adapter, not from where the first ended."""
    found = [final_adapter(run_tiny(tiny_config(files, tmp_path, {"output.name": name}))) for name in ("one", "two")]
    assert torch.equal(found[0], found[1])


def test_an_unknown_strategy_is_refused_with_those_that_exist(files: Files, tmp_path: Path) -> None:
    config = RunConfig.parse(tiny_config(files, tmp_path).flat() | {"strategy.name": "fedavg"})
    with pytest.raises(ConfigError, match=r'strategy\.name = "fedavg": registered are dr-encoder, .*lora'):
        check_run(config)


def test_a_code_larger_than_the_adapter_is_refused_before_anything_is_written(files: Files, tmp_path: Path) -> None:
    config = tiny_config(files, tmp_path, {"codec.size": 10**6})
    with pytest.raises(ConfigError, match=r"codec\.size = 1000000: larger than the adapter, which has \d+ values"):
        run_federation(tiny_grid(config), config)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_left_the_numbers_ends_with_its_report(files: Files, tmp_path: Path) -> None:
    """Noise of 10^30 makes the loss NaN, which JSON cannot hold: the run ends as diverged, plots and page included."""
    changes = {"privacy.epsilon": 4.0, "privacy.clip-norm": 1e30, "num-server-rounds": 2}
    folder = run_tiny(tiny_config(files, tmp_path, changes), plots=True)
    report = json.loads((folder.path / "report.json").read_text())
    assert report["outcome"]["stopped_because"].startswith("diverged: held-out loss is not a number")
    assert report["outcome"]["final"] == report["outcome"]["base"], "scores of the kept adapter, told of its round"
    assert (folder.path / "report.html").exists()


def test_a_run_whose_rounds_mostly_ask_nobody_says_so_at_its_start(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0, "strategy.name": "lora"}
    changes = noisy | {"privacy.sampling-rate": 0.05, "num-server-rounds": 1}
    run_tiny(tiny_config(files, tmp_path / "rare", changes))
    said = "privacy.sampling-rate = 0.05 with 6 clients: a round asks nobody with probability 0.74"
    assert said in capsys.readouterr().out
    run_tiny(tiny_config(files, tmp_path / "usual", changes | {"privacy.sampling-rate": 0.5}))
    assert "a round asks nobody" not in capsys.readouterr().out
