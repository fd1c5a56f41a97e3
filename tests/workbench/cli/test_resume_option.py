"""``dr-encoder run --resume``: what it takes up, what it refuses, and what an interrupt says."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config import ConfigError, RunConfig
from common.privacy.accounting import Charge
from server_app.privacy.ledger import Ledger
from server_app.results.checkpoint_files import STATE
from server_app.results.checkpoints import mark_ended
from server_app.results.resuming import check_same_run, why_not_resumable
from tests.support.interrupted_runs import LAST, STATE_KEYS, say_of_clients, write_interrupted
from workbench.cli import main as cli
from workbench.cli import run as run_command

runner = CliRunner()


def interrupted_run(folder: Path) -> Path:
    """A results folder with the files that a resume looks for first."""
    return write_interrupted(folder / "results" / "mine")


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize("options", [["--resume", "{}"], ["--set", "resume={}"], ["--preset", "{}.toml"]])
def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path, options: list[str]) -> None:
    absent = tmp_path / "absent"
    (tmp_path / "absent.toml").write_text(f'resume = "{absent}"\n')
    result = runner.invoke(cli.app, ["run", *(option.format(absent) for option in options)])
    assert result.exit_code == 1
    assert result.output.startswith(f'error: resume = "{absent}": config.toml is missing there; ')


@pytest.mark.parametrize("options", [["--resume", "results/mine"], ["--set", "resume=results/mine"]])
def test_resume_is_the_same_as_an_option_and_as_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: list[RunConfig], options: list[str]
) -> None:
    run = interrupted_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(cli.app, ["run", *options])
    assert result.exit_code == 130, result.output
    (config,) = launched
    assert (config.seed, config.resume) == (77, str(run))
    assert (config.output.dir, config.output.name) == (str(run.parent), run.name)
    assert f"dr-encoder run --resume {run}" in result.output


def test_a_preset_may_say_what_to_resume(tmp_path: Path, launched: list[RunConfig]) -> None:
    run = interrupted_run(tmp_path)
    (tmp_path / "own.toml").write_text(f'num-server-rounds = 40\nresume = "{run}"\n')
    assert runner.invoke(cli.app, ["run", "--preset", str(tmp_path / "own.toml")]).exit_code == 130
    assert (launched[0].seed, launched[0].num_server_rounds, launched[0].resume) == (77, 40, str(run))


@pytest.mark.usefixtures("_no_launch")
def test_a_run_is_not_resumed_under_another_configuration_and_no_engine_starts_to_say_so(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    result = runner.invoke(cli.app, ["run", "--resume", str(run), "--set", "num-server-rounds=3"])
    assert result.exit_code == 1
    said = f'error: resume = "{run}": the configuration differs from that run\'s: num-server-rounds was 40, is 3'
    assert result.output.startswith(said)


@pytest.mark.parametrize(
    "wait",
    [
        *("federation.connect-timeout=999", "federation.wait-timeout=999", "federation.round-timeout=999"),
        *("federation.max-in-flight=7", "federation.max-failed-rounds=9"),
    ],
)
def test_a_run_that_failed_over_a_wait_is_resumed_with_another(
    tmp_path: Path, launched: list[RunConfig], wait: str
) -> None:
    """Every resume failed as the run had, and charged a round more: the key that its error named was not to change."""
    run = interrupted_run(tmp_path)
    assert runner.invoke(cli.app, ["run", "--resume", str(run), "--set", wait]).exit_code == 130
    key, value = wait.split("=")
    assert launched[0].flat()[key] == float(value)


@pytest.mark.usefixtures("_no_launch")
def test_an_edited_config_file_does_not_change_what_a_run_was_planned_with(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    state = run / "checkpoint" / LAST / STATE
    planned = RunConfig.parse({"seed": 77, "privacy.epsilon": 2.0}).flat()
    state.write_text(json.dumps(STATE_KEYS | {"configuration": planned}), encoding="utf-8")
    (run / "config.toml").write_text("seed = 77\n[federation]\nnum-clients = 10\n[privacy]\nepsilon = 9.0\n")
    result = runner.invoke(cli.app, ["run", "--resume", str(run)])
    assert result.exit_code == 1
    assert "the configuration differs from that run's: privacy.epsilon was 2.0, is 9.0\n" in result.output


@pytest.mark.usefixtures("_no_launch")
@pytest.mark.parametrize("engine", ["flower", "inline"])
def test_a_run_of_deployed_sites_is_not_gone_on_with_by_simulated_clients(tmp_path: Path, engine: str) -> None:
    run = interrupted_run(tmp_path)
    say_of_clients(run, "deployed")
    result = runner.invoke(cli.app, ["run", "--resume", str(run), "--engine", engine])
    assert result.exit_code == 1
    assert result.output == (
        f'error: resume = "{run}": its clients are deployed, not simulated; continue it with: python -m '
        "workbench.deployment.submit CONNECTION --config FILE --resume-existing, where FILE has the keys that the run "
        f'was started with, output.dir = "{run.parent}" and output.name = "mine"\n'
    )


@pytest.mark.usefixtures("_no_launch")
def test_a_run_that_has_ended_cannot_be_resumed(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    mark_ended(run / "checkpoint")
    result = runner.invoke(cli.app, ["run", "--resume", str(run)])
    assert result.exit_code == 1
    assert result.output.startswith(f'error: resume = "{run}": this run has ended; start a new run')


@pytest.mark.usefixtures("_no_launch")
def test_a_run_of_another_version_is_not_resumed_and_says_which_keys_and_what_to_do(tmp_path: Path) -> None:
    """Keys that its strategy did not read are in its ``config.toml`` too; what others did, this version cannot know."""
    run = interrupted_run(tmp_path)
    with (run / "config.toml").open("a", encoding="utf-8") as file:
        file.write("[history]\ndecay = 0.95\nrows = 32\n")
    said = f'error: resume = "{run}": its config.toml has history.*, which this version does not know; continue it with'
    assert runner.invoke(cli.app, ["run", "--resume", str(run)]).output.startswith(said)
    with pytest.raises(ConfigError, match=r"has history\.\*, which this version does not know"):
        check_same_run(RunConfig.parse({"resume": str(run)}))
    mark_ended(run / "checkpoint")
    assert "this run has ended; start a new run" in runner.invoke(cli.app, ["run", "--resume", str(run)]).output


def test_what_an_old_run_without_a_checkpoint_has_spent_is_told_all_the_same(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    (run / "checkpoint" / "latest").unlink()
    with (run / "config.toml").open("a", encoding="utf-8") as file:
        file.write("[history]\nrows = 32\n")
    Ledger(run / "ledger.jsonl").charge(Charge(2.0, 1.0, 1, "stage 1: statistics"), round_index=0)
    assert "its ledger has charged stage 1: statistics: at most epsilon " in why_not_resumable(run)


def test_an_interrupt_after_the_end_does_not_offer_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted_run(tmp_path)

    def finish(*_: Any) -> None:
        mark_ended(run / "checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "launch", finish)
    result = runner.invoke(cli.app, ["run", "--resume", str(run)])
    assert result.exit_code == 130
    assert "stopped" in result.output
    assert "continue with" not in result.output


def test_an_interrupt_before_there_is_a_folder_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "_configure", interrupt)
    result = runner.invoke(cli.app, ["run"])
    assert (result.exit_code, result.output.strip()) == (130, "stopped")
