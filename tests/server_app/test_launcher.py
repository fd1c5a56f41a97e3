"""The launcher and the command line, without starting Flower."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config import ConfigError, RunConfig
from server_app.results.units import TRACEBACK
from tests.support.flwr_program import write_flwr
from tests.support.interrupted_runs import write_checkpoint, write_interrupted
from workbench.cli import main as cli
from workbench.cli import run as run_command
from workbench.cli.overrides import parse_override
from workbench.simulation import launcher
from workbench.simulation.flower_cli import ask_flower
from workbench.simulation.launcher import LaunchError, Resources, flower_environment, read_preset

runner = CliRunner()


def test_a_preset_is_read_by_its_name() -> None:
    preset = read_preset("demo")
    assert preset["federation.num-clients"] == 1000
    assert all(key in RunConfig().flat() for key in preset)


def test_a_preset_may_be_any_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('num-server-rounds = 3\n[codec]\nsize = 7\n[privacy]\ntrust = "local"\n')
    assert read_preset(str(path)) == {"num-server-rounds": 3, "codec.size": 7, "privacy.trust": "local"}


def test_a_preset_written_on_windows_is_read(tmp_path: Path) -> None:
    """A byte-order mark, CRLF, and letters beyond ASCII."""
    path = tmp_path / "mine.toml"
    path.write_bytes('\ufeffnum-server-rounds = 3\r\ndata.name = "/srv/Größe.jsonl"\r\n'.encode())
    assert read_preset(str(path)) == {"num-server-rounds": 3, "data.name": "/srv/Größe.jsonl"}


def test_an_unknown_preset_is_refused_with_those_that_exist() -> None:
    with pytest.raises(LaunchError, match=r'preset "demoo": neither a preset \(.*demo.*\) nor a TOML file'):
        read_preset("demoo")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("privacy.epsilon=4", ("privacy.epsilon", 4)),
        ("privacy.epsilon=inf", ("privacy.epsilon", float("inf"))),
        ("lora.freeze-a=true", ("lora.freeze-a", True)),
        ("strategy.name=lora", ("strategy.name", "lora")),
        ('strategy.name = "lora"', ("strategy.name", "lora")),
        ("data.name=a=b.csv", ("data.name", "a=b.csv")),
        ("lora.target-modules=q_proj,v_proj", ("lora.target-modules", "q_proj,v_proj")),
    ],
)
def test_overrides_are_toml_and_bare_words_are_text(text: str, expected: tuple[str, Any]) -> None:
    key, value = parse_override(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'--set "seed": expected key=value'):
        parse_override("seed")


def test_paths_are_made_absolute_because_flower_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own.jsonl", "held-out.csv"):
        (tmp_path / name).touch()
    (tmp_path / "model").mkdir()
    overrides = ["data.name=own.jsonl", "data.evaluation=held-out.csv", "model.name=model", "output.name=mine"]
    config = run_command._configure("demo", overrides, None)
    assert config.data.name == str(tmp_path / "own.jsonl")
    assert config.data.evaluation == str(tmp_path / "held-out.csv")
    assert config.model.name == str(tmp_path / "model")
    assert (config.output.dir, config.output.name) == (str(tmp_path / "results"), "mine")


def test_overrides_win_over_the_preset() -> None:
    assert run_command._configure("demo", ["federation.num-clients=5"], None).federation.num_clients == 5


def test_resume_takes_the_configuration_and_the_place_of_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_interrupted(folder)
    config = run_command._configure("demo", [], folder)
    assert (config.seed, config.resume) == (77, str(folder))
    assert (config.output.dir, config.output.name) == (str(tmp_path), "mine")


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
        "bytes_up_per_client_round": 700.0,
        "bytes_up_per_client_round_plain_lora": 98_000,
        "times_smaller_than_plain_lora": 140.0,
    },
}


def options(tmp_path: Path, *more: str) -> list[str]:
    return ["run", "--set", f"output.dir={tmp_path}", "--set", "output.name=x", *more]


def test_run_launches_the_configured_federation_and_sums_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch)
    result = runner.invoke(cli.app, options(tmp_path, "--cpus", "3", "--gpus-per-client", "0.25"))
    assert result.exit_code == 0, result.output
    ((config, clients, resources),) = launched.calls
    assert clients == config.federation.num_clients == 1000
    assert resources == Resources(3, gpus_per_client=0.25)
    for part in (
        "25.0% -> 75.0%",
        "3.500 -> 1.500",
        "1.235 at delta 1e-05",
        "inf",
        "700 B, plain LoRA 98.0 kB (140 times more)",
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


@pytest.mark.parametrize("saved", [{"latest"}, {"latest", "ended"}, {"ended"}, set()])
def test_an_interrupt_says_how_to_continue_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: set[str]
) -> None:
    """Without ``latest`` the run had no checkpoint yet; with ``ended`` there is nothing left to do."""

    def interrupt(*_: Any) -> None:
        write_checkpoint(tmp_path / "x")
        if "latest" not in saved:
            (tmp_path / "x" / "checkpoint" / "latest").unlink()
        for name in saved:
            (tmp_path / "x" / "checkpoint" / name).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "launch", interrupt)
    result = runner.invoke(cli.app, options(tmp_path))
    assert result.exit_code == 130
    assert (f"dr-encoder run --resume {tmp_path / 'x'}" in result.output) == (saved == {"latest"})


def test_the_page_of_keys_is_what_the_command_prints() -> None:
    page = (launcher.APP / "docs" / "configuration.md").read_text()
    assert runner.invoke(cli.app, ["keys", "--markdown"]).output == page
    assert all(f"| `{key}` |" in page for key in RunConfig().flat())


def test_flower_gets_a_home_of_its_own_and_no_network(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))


def test_flower_works_in_utf_8_and_asks_no_proxy_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example.org, 127.0.0.1")
    monkeypatch.delenv("no_proxy", raising=False)
    environment = flower_environment(tmp_path)
    assert environment["PYTHONUTF8"] == "1"
    for name in ("NO_PROXY", "no_proxy"):
        assert environment[name] == "intranet.example.org,127.0.0.1,localhost,::1"


def test_the_superlink_is_found_past_a_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked first is loopback: a company's HTTP_PROXY is not for that."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    dead, port = launcher.free_ports(2)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launcher, "_START_SECONDS", 3.0)
    with HTTPServer(("127.0.0.1", port), Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        process = subprocess.Popen(["sleep", "60"])
        try:
            launcher._wait_until_healthy(process, port)
        finally:
            process.kill()
            process.wait()
            server.shutdown()


def test_commands_of_flower_ask_no_proxy_for_this_machine(tmp_path: Path) -> None:
    write_flwr(tmp_path, """#!/bin/sh\necho '{"success": true, "said": "'$no_proxy'"}'\n""")
    environment = {"PATH": f"{tmp_path}{os.pathsep}/bin", "no_proxy": "example.org"}
    assert ask_flower("ls", environment=environment)["said"] == "example.org,localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ('{"success": true, "runs": [{"status": "finished:failed"}]}', "finished:failed"),
        ('{"success": true, "runs": []}', "unknown (flwr ls launcher said: no run)"),
        ('{"success": false, "error-message": "no connection"}', "unknown (flwr ls launcher --format json said: no c"),
    ],
)
def test_the_status_is_what_flower_lists_and_never_a_guess(tmp_path: Path, printed: str, expected: str) -> None:
    write_flwr(tmp_path, f"#!/bin/sh\necho '{printed}'\n")
    assert launcher._final_status(tmp_path, {"PATH": f"{tmp_path}{os.pathsep}/bin"}).startswith(expected)


APP_ERROR = "[dr-encoder] ERROR: stage 1: none of 10 clients released statistics"
RAY_ERROR = "Exception: The current node timed out during startup. This could happen because the raylet failed to start"
FLOWER_ERROR = "\x1b[91mERROR \x1b[0m:     Exit Code: 700"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([APP_ERROR, "Traceback", "a.B.FederationError: x", FLOWER_ERROR], APP_ERROR.partition("ERROR: ")[2]),
        (["KeyError: 'a'", "a", "torch.OutOfMemoryError: full", FLOWER_ERROR], "KeyError: 'a' ... torch.OutOfMemory"),
        ([RAY_ERROR, "RuntimeError: An error was encountered. Ending simulation.", FLOWER_ERROR], RAY_ERROR),
        ([FLOWER_ERROR, "INFO: bye"], "ERROR :     Exit Code: 700"),
    ],
)
def test_a_failed_run_names_its_log_and_the_error_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[str], expected: str
) -> None:
    def fail(_config: RunConfig, _clients: int, _resources: Resources, log: Any) -> None:
        log.write("\n".join(written))
        log.flush()
        raise LaunchError("the run ended as finished:failed")

    monkeypatch.setattr(launcher, "_launch", fail)
    path = tmp_path / "x.flower.log"
    path.write_text("[dr-encoder] ERROR: é, of an earlier run\n")
    (tmp_path / "x").mkdir()
    with path.open("a") as log, pytest.raises(LaunchError) as caught:
        launcher.launch(named(tmp_path), 1, Resources(1), log)
    assert str(caught.value).startswith(
        f"the run ended as finished:failed; its log is {path}, and its error is: {expected}"
    )


def named(tmp_path: Path) -> RunConfig:
    return RunConfig.parse({"output.dir": str(tmp_path), "output.name": "x"})


@pytest.mark.parametrize(
    ("written", "kept"),
    [(APP_ERROR, False), (f"{APP_ERROR} {TRACEBACK}", True), (FLOWER_ERROR, True)],
    ids=["the app told why", "the traceback is in the log", "Flower failed"],
)
def test_the_log_of_a_start_that_failed_stays_only_where_it_tells_more_than_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, kept: bool
) -> None:
    def fail(_config: RunConfig, _clients: int, _resources: Resources, log: Any) -> None:
        log.write(written)
        log.flush()
        raise LaunchError("the run ended as finished:failed")

    monkeypatch.setattr(launcher, "_launch", fail)
    path = tmp_path / "x.flower.log"
    with path.open("w") as log, pytest.raises(LaunchError, match="its error is: ") as caught:
        launcher.launch(named(tmp_path), 1, Resources(1), log)
    assert path.exists() is kept is (str(path) in str(caught.value))


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


def test_a_failed_run_without_any_error_still_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise LaunchError("flower-superlink was not ready")

    monkeypatch.setattr(launcher, "_launch", fail)
    with (tmp_path / "log").open("w") as log, pytest.raises(LaunchError, match=r"not ready; its log is \S+/log$"):
        launcher.launch(RunConfig(), 1, Resources(1), log)


def test_ports_are_free_and_distinct() -> None:
    assert len(set(launcher.free_ports(5))) == 5
