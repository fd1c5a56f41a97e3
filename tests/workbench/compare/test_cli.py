"""``dr-encoder compare`` from the command line to its files."""

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workbench.cli.main import app
from workbench.compare import session

runner = CliRunner()
TOML = """
num-server-rounds = 1
[federation]
num-clients = 2
[lora]
rank = 2
target-modules = "q_proj"
[codec]
size = 32
"""


def invoke(folder: Path, *options: str) -> tuple[int, str]:
    preset = folder / "small.toml"
    preset.write_text(TOML)
    result = runner.invoke(app, ["compare", "--preset", str(preset), "--out", str(folder / "out"), *options])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategies", "lorra"], '--strategies "lorra": registered are'),
        (["--epsilons", "many"], '--epsilons "many": give numbers above 0'),
        (["--cohort", "3"], "--cohort 3: larger than the 2 clients"),
        (["--tasks", "algebra"], '--tasks "algebra": there are'),
        (["--preset", "absent"], 'preset "absent": neither a preset'),
        (["--set", "seed=3"], "--set: seed is the comparison's own; use --seeds"),
        (["--set", "codec.size=0.5"], "codec.size = 0.5"),
        (["--set", "data.name=own.jsonl"], 'data.evaluation = "": scores are of public held-out rows'),
        (
            ["--set", "server.learning-rate=1"],
            "server.learning-rate is the comparison's own; leave it out, for every row's step is tuned",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(session, "compare", lambda *_, **__: pytest.fail("a run was started"))
    code, output = invoke(tmp_path, *options)
    assert code == 1
    assert message in output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_that_is_stopped_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    monkeypatch.setattr(session, "compare", lambda *_, **__: signal.raise_signal(sent))
    code, output = invoke(tmp_path, "--strategies", "lora", "--epsilons", "inf")
    assert code == 130
    assert output.endswith(f"\nstopped; the same command goes on with what is done in {tmp_path / 'out'}\n")


def test_a_comparison_leaves_table_numbers_and_plots_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    options = ["--strategies", "random-projection", "--epsilons", "8", "--trials", "3", "--tuning-seeds", "1"]
    code, output = invoke(tmp_path, *options, "--seeds", "1", "--jobs", "1")
    assert code == 0, output
    assert "8 runs of about" in output
    out = tmp_path / "out"
    found = json.loads((out / "comparison.json").read_text())
    central, row = found["rows"]
    assert (central["strategy"], row["strategy"], row["epsilon_asked"]) == ("centralized", "random-projection", 8.0)
    assert 7.8 < row["epsilon_released"] <= 8.0
    assert row["epsilon_server"] >= row["epsilon_released"] - 0.05  # one of two may collude: each share is all of it
    assert 100 < row["bytes_up"] < 600
    assert len(row["tuning"]["trials"]) == len(central["tuning"]["trials"]) == 3
    assert row["step"] in [trial["step"] for trial in row["tuning"]["trials"]]
    assert row["accuracy"]["values"] == [row["seeds"]["1"]["accuracy"]]
    page = (out / "comparison.md").read_text()
    assert f"| `random-projection` | 8 | {100 * row['accuracy']['mean']:.1f} % |" in page
    for name in ("utility-elicitation.png", "bytes-elicitation.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    assert len(before) == 8
    (out / "utility-knowledge.png").write_bytes(b"of a larger comparison")
    code, output = invoke(tmp_path, *options, "--seeds", "1", "--jobs", "1")
    assert code == 0, output
    assert "8 runs, 8 of them done already" in output
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    assert not (out / "utility-knowledge.png").exists()


def test_a_page_of_ones_own_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "compare", lambda *_, **__: pytest.fail("a run was started"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.md").write_text("mine")
    code, output = invoke(tmp_path)
    assert code == 1
    assert "comparison.md there was not made by this command" in output
    assert (tmp_path / "out" / "comparison.md").read_text() == "mine"


def test_a_budget_within_which_no_row_was_done_ends_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over(*_: object, **__: object) -> None:
        raise session.OutOfTime("--budget-hours 1 are over and no row is done yet; the same command goes on")

    monkeypatch.setattr(session, "compare", over)
    code, output = invoke(tmp_path, "--budget-hours", "1")
    assert code == 3
    assert "no row is done yet; the same command goes on" in output


def test_a_stage_one_that_may_ask_nobody_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "compare", lambda *_, **__: None)
    code, output = invoke(
        tmp_path, "--strategies", "fedcg+stage-one.private=false,lora", "--epsilons", "inf,8", "--dry-run"
    )
    assert code == 0
    said = "warning: stage-one.sampling-rate = 0.1 with 2 clients: stage 1 of a run asks nobody with probability 0.81"
    assert output.count(said) == output.count("warning: ") == 1, "the same for both budgets, and once"


def test_a_dry_run_whose_short_run_fails_ends_non_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [{"status": "failed", "error": "FederationError: nobody"}]
    monkeypatch.setattr("workbench.compare.scheduler.Scheduler.measure", lambda *_: broken)
    code, output = invoke(tmp_path, "--strategies", "lora", "--epsilons", "inf", "--dry-run")
    assert code == 1
    assert "error: a short run to measure the time failed: FederationError: nobody" in output
