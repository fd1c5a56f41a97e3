"""``dr-encoder run`` around the launch: what it starts, sums up, leaves and says."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from common.config import RunConfig
from tests.support.interrupted_runs import write_checkpoint
from workbench.cli import main as cli
from workbench.cli import run as run_command
from workbench.simulation import launcher
from workbench.simulation.launcher import LaunchError, Resources

runner = CliRunner()


class Launched:
    """Stands in for ``launch``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcome: BaseException | None = None) -> None:
        self.calls: list[tuple[RunConfig, int, Resources]] = []
        self._outcome = outcome
        monkeypatch.setattr(run_command, "launch", self)

    def __call__(self, config: RunConfig, clients: int, resources: Resources, log: Any) -> None:
        self.calls.append((config, clients, resources))
        if self._outcome is not None:
            raise self._outcome
        folder = Path(config.output.dir) / config.output.name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(REPORT))


FIGURE = {"epsilon": 1.2341, "delta": 1e-5, "assumes": "at most 1 client colludes, cohorts stay secret"}


REPORT: dict[str, Any] = {
    "strategy": {},
    "outcome": {
        "stopped_because": "all rounds done",
        "base": {"loss": 3.5, "accuracy": 0.25},
        "final": {"loss": 1.5, "accuracy": 0.75},
        "warning": "ended below the base model",
        "shortage_warning": "MOST ROUNDS HAD TOO FEW REPLIES",
    },
    "privacy": {
        "released_model": FIGURE | {"cross_check": {"agrees": False}},
        "one_client_against_server": FIGURE | {"epsilon": "inf", "not_claimed_because": "epsilon is above 20"},
        "not_private_because": "",
    },
    "communication": {
        "per_client_run": {"up": 700.0, "down": 300.0, "both": 1000.0},
        "per_client_run_plain_lora": {"up": 49_000.0, "down": 98_000.0, "both": 147_000.0},
        "times_smaller_than_plain_lora": 147.0,
    },
}


def options(tmp_path: Path, *more: str) -> list[str]:
    return ["run", "--set", f"output.dir={tmp_path}", "--set", "output.name=x", *more]


def test_run_launches_the_configured_federation_and_sums_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    result = runner.invoke(
        cli.app, options(tmp_path, "--cpus", "3", "--gpus-per-client", "0.25", "--set", "model.device=cpu")
    )
    assert result.exit_code == 0, result.output
    ((config, clients, resources),) = launched.calls
    assert clients == config.federation.num_clients == 1000
    assert resources == Resources(3, gpus_per_client=0.25)
    for part in (
        "25.0% -> 75.0%",
        "3.500 -> 1.500",
        "1.235 at delta 1e-05",
        "inf",
        "1.00 kB both ways (700 B up, 300 B down), plain LoRA 147 kB (147 times more)",
    ):
        assert part in result.output, "an epsilon is rounded up, never down"
    assert "inf (nothing is claimed: epsilon is above 20)" in result.output
    assert "THE TWO ACCOUNTANTS DISAGREE" in result.output
    assert "WARNING: ended below the base model" in result.output
    assert "WARNING: MOST ROUNDS HAD TOO FEW REPLIES" in result.output
    assert "NOT PRIVATE" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lora.rank=0"], "lora.rank = 0"),
        (["--set", "lora.rnk=1"], "lora.rnk: unknown key"),
        (["--set", "seed"], "expected key=value"),
        (["--preset", "nowhere"], 'preset "nowhere"'),
        (["--set", "data.evaluation=absent.csv"], "absent.csv"),
    ],
)
def test_a_bad_configuration_ends_non_zero_before_flower_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    launched = Launched(monkeypatch)
    result = runner.invoke(cli.app, options(tmp_path, *arguments))
    assert result.exit_code == 1
    assert launched.calls == []
    assert "error: " in result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_missing_run_to_resume_ends_non_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch)
    result = runner.invoke(cli.app, ["run", "--resume", str(tmp_path / "absent")])
    assert result.exit_code == 1
    assert "absent" in result.output
    assert launched.calls == []


def test_a_failed_run_ends_non_zero_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Launched(monkeypatch, LaunchError("the run ended as finished:failed"))
    result = runner.invoke(cli.app, options(tmp_path))
    assert result.exit_code == 1
    assert "error: the run ended as finished:failed" in result.output


@pytest.mark.parametrize(
    "end",
    [
        KeyboardInterrupt(),
        LaunchError("the run ended as finished:failed"),
        OSError(errno.ENOSPC, "No space left on device", "/x"),
    ],
    ids=["^C", "killed", "full"],
)
@pytest.mark.parametrize("saved", [{"latest"}, {"latest", "ended"}, {"ended"}, set()])
def test_an_interrupted_run_says_how_to_continue_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: set[str], end: BaseException
) -> None:
    """Without ``latest`` the run had no checkpoint yet; with ``ended`` there is nothing left to do."""

    def interrupt(*_: Any) -> None:
        write_checkpoint(tmp_path / "x")
        if "latest" not in saved:
            (tmp_path / "x" / "checkpoint" / "latest").unlink()
        for name in saved:
            (tmp_path / "x" / "checkpoint" / name).touch()
        raise end

    monkeypatch.setattr(run_command, "launch", interrupt)
    result = runner.invoke(cli.app, options(tmp_path))
    assert result.exit_code == (130 if isinstance(end, KeyboardInterrupt) else 1)
    assert (f"dr-encoder run --resume {tmp_path / 'x'}" in result.output) == (saved == {"latest"})


def test_the_page_of_keys_is_what_the_command_prints() -> None:
    page = (launcher.APP / "docs" / "configuration.md").read_text()
    assert runner.invoke(cli.app, ["keys", "--markdown"]).output == page
    assert all(f"| `{key}` |" in page for key in RunConfig().flat())


def test_the_log_of_a_run_that_was_stopped_before_it_began_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Launched(monkeypatch, KeyboardInterrupt())
    result = runner.invoke(cli.app, options(tmp_path))
    assert (result.exit_code, list(tmp_path.iterdir())) == (130, [])
    assert result.output.endswith("\nstopped\n")


def test_a_second_run_of_one_name_is_refused_before_the_first_one_s_log_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = Launched(monkeypatch)
    (tmp_path / "x").mkdir()
    (tmp_path / "x.flower.log").write_text("of the finished run\n")
    result = runner.invoke(cli.app, options(tmp_path))
    assert (result.exit_code, launched.calls) == (1, [])
    assert 'output.name = "x"' in result.output
    assert (tmp_path / "x.flower.log").read_text() == "of the finished run\n"


def test_a_new_run_begins_a_new_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of an earlier attempt that never became a run is not this run's."""
    Launched(monkeypatch)
    (tmp_path / "x.flower.log").write_text("of an attempt that failed\n")
    assert runner.invoke(cli.app, options(tmp_path)).exit_code == 0
    assert (tmp_path / "x.flower.log").read_text() == ""


def test_the_log_is_closed_to_others_though_it_was_there_and_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the cohorts, and ``output.dir`` may be a folder that others enter."""
    Launched(monkeypatch)
    log = tmp_path / "x.flower.log"
    log.touch()
    log.chmod(0o644)
    assert runner.invoke(cli.app, options(tmp_path)).exit_code == 0
    assert log.stat().st_mode & 0o077 == 0
    log.unlink()
    log.symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "x")
    result = runner.invoke(cli.app, options(tmp_path))
    assert result.exit_code == 1
    assert "x.flower.log is no file of this user alone" in result.output
