"""Flower's count of a run's bytes beside this app's, and where it may be told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.wire.records import EVALUATE, STATISTICS, TRAIN, serialized_bytes
from common.wire.secure import KEYS, REPAIR
from server_app.results.folder import RunFolder
from server_app.rounds.secure import set_up_bytes
from server_app.run import run_federation
from tests.support.flwr_program import write_flwr
from tests.support.grids import FailingGrid
from tests.support.tiny import CLIENTS, Files, tiny_config, tiny_grid
from workbench.cli import main as cli
from workbench.cli.main import app
from workbench.simulation import traffic
from workbench.simulation.traffic import TrafficError, add_traffic, ask_for_all, describe, flower_runs

NOISY: dict[str, Any] = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 4.0, "data.evaluation": ""}
COUNT = {"inbound-bytes": 1_500_000, "outbound-bytes": 2_500_000}
FLOWER = """#!/bin/sh
test "$1 $2 $3 $5 $6" = "ls hospital --run-id --format json" || exit 3
case $4 in
41) in=1000000; out=2000000;;
42) in=500000; out=500000;;
*) echo '{"success": false, "error-message": "no such run"}'; exit 0;;
esac
echo '{"success": true, "runs": [{"run-id": "'$4'",'
echo '"network-traffic": {"inbound-bytes": '$in', "outbound-bytes": '$out'}}]}'
"""


def ended(files: Files, output: Path, run: int = 41, **changes: Any) -> RunFolder:
    config = tiny_config(files, output, NOISY | changes)
    return run_federation(tiny_grid(config), config, run, plots=False)


def report_of(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder.path / "report.json").read_text())
    return found


@pytest.fixture
def everybody(files: Files, tmp_path: Path) -> RunFolder:
    return ended(files, tmp_path)


@pytest.fixture
def _flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ``flwr`` that knows the runs 41 and 42 of one SuperLink."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_flwr(folder, FLOWER)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[superlink]\n[superlink.hospital]\naddress = "127.0.0.1:9093"\n')


def test_both_counts_stand_in_the_report_where_everybody_is_asked(everybody: RunFolder) -> None:
    rows, before = everybody.read_metrics(), report_of(everybody)
    page = (everybody.path / "report.md").read_bytes()
    found = add_traffic(everybody, {41: COUNT})
    stage = before["strategy"]["stage_1"]
    assert (
        found["records_up_bytes"] == sum(row["bytes_up"] for row in rows[1:]) + CLIENTS * stage["bytes_up_per_client"]
    )
    assert found["records_down_bytes"] > CLIENTS * stage["bytes_down_per_client"] > 0
    assert found == json.loads((everybody.path / "traffic.json").read_text())
    each = CLIENTS * (1 + len(rows) - 1)
    assert (found["messages_up"], found["messages_down"]) == (each, each)
    assert found["flower_bytes_up"] == pytest.approx((1_500_000 - found["records_up_bytes"]) / each)
    assert found["flower_bytes_down"] == pytest.approx((2_500_000 - found["records_down_bytes"]) / each)
    assert f"Flower's own for each of {each} instructions: 1" in describe(found)
    after = report_of(everybody)
    assert after["communication"].pop("flower") == {"inbound_bytes": 1_500_000, "outbound_bytes": 2_500_000}
    assert after == before
    assert (everybody.path / "report.md").read_bytes() == page, "it tells how many answered, and the page is published"


def test_asking_again_replaces_what_was_told(everybody: RunFolder) -> None:
    add_traffic(everybody, {41: {"inbound-bytes": 1, "outbound-bytes": 1}})
    add_traffic(everybody, {41: COUNT})
    assert json.loads((everybody.path / "traffic.json").read_text())["inbound_bytes"] == 1_500_000


@pytest.mark.parametrize("key", ["privacy.sampling-rate", "stage-one.sampling-rate"])
def test_totals_of_secret_cohorts_never_get_into_the_report(files: Files, tmp_path: Path, key: str) -> None:
    """One total over a known number of bytes a client is the number of clients that were asked."""
    folder = ended(files, tmp_path, **{key: 0.9})
    before = {name: (folder.path / name).read_bytes() for name in ("report.json", "report.md")}
    assert add_traffic(folder, {41: COUNT})["inbound_bytes"] == 1_500_000
    assert {name: (folder.path / name).read_bytes() for name in before} == before


def test_where_nothing_is_promised_nothing_is_secret(files: Files, tmp_path: Path) -> None:
    config = tiny_config(
        files, tmp_path, {"strategy.name": "lora", "privacy.sampling-rate": 0.9, "data.evaluation": ""}
    )
    folder = run_federation(tiny_grid(config), config, 41, plots=False)
    add_traffic(folder, {41: COUNT})
    assert report_of(folder)["communication"]["flower"]["outbound_bytes"] == 2_500_000


def test_a_run_that_has_not_ended_has_no_report_to_write_into(tmp_path: Path) -> None:
    with pytest.raises(TrafficError, match=r"no report\.json; give the results folder of a run that has ended"):
        add_traffic(RunFolder(tmp_path), {41: COUNT})


@pytest.mark.usefixtures("_flower")
def test_the_command_asks_for_every_session_of_the_run(everybody: RunFolder) -> None:
    with everybody.events.open("a") as handle:  # as a resumed run writes it
        handle.write(json.dumps({"event": "run_resumed", "run": 42}) + "\n")
    assert flower_runs(everybody) == [41, 42]
    result = CliRunner().invoke(app, ["traffic", str(everybody.path), "hospital"])
    assert result.exit_code == 0, result.output
    assert "1.50 MB from the SuperNodes and 2.50 MB to them" in result.output
    assert "not known" not in result.output


@pytest.mark.usefixtures("_flower")
def test_a_run_that_flower_does_not_know_is_an_error_and_changes_nothing(files: Files, tmp_path: Path) -> None:
    folder = ended(files, tmp_path, run=43)
    result = CliRunner().invoke(app, ["traffic", str(folder.path), "hospital"])
    assert result.exit_code == 1
    assert "no such run" in result.output
    assert not (folder.path / "traffic.json").exists()


def test_a_session_without_a_count_is_told(everybody: RunFolder) -> None:
    assert "of 1 more run Flower's count is not known" in describe(add_traffic(everybody, {}))
    assert json.loads((everybody.path / "traffic.json").read_text())["runs_not_counted"] == [41]


def test_who_only_reads_results_waits_for_no_torch() -> None:
    """It would also leave a folder of its own among deploy-demo's temporary files."""
    code = "import sys, workbench.simulation.traffic, workbench.deployment.demo; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("_flower")
def test_a_session_that_flower_has_forgotten_costs_only_its_own_count() -> None:
    assert ask_for_all([40, 41], "hospital") == {41: {"inbound-bytes": 1_000_000, "outbound-bytes": 2_000_000}}
    with pytest.raises(TrafficError, match="no such run"):
        ask_for_all([40], "hospital")


def test_the_key_set_up_of_secure_aggregation_is_counted(files: Files, tmp_path: Path) -> None:
    folder = ended(files, tmp_path, **{"privacy.trust": "secure", "strategy.name": "random-projection"})
    found = add_traffic(folder, {41: COUNT})
    rounds = [row for row in folder.read_metrics() if row["round"]]
    up, down = set_up_bytes(CLIENTS)
    assert found["messages_down"] == CLIENTS * (2 + len(rounds))
    assert found["records_up_bytes"] == sum(row["bytes_up"] for row in rounds) + CLIENTS * up
    assert found["records_down_bytes"] == sum(row["bytes_down"] for row in rounds) + CLIENTS * down


FAILING: dict[str, dict[str, set[int]]] = {
    "nobody fails": {},
    "one in each leg": {KEYS: {6}, STATISTICS: {1}, TRAIN: {2}, EVALUATE: {3}},
    "too many in the evaluation": {EVALUATE: {1, 2, 3}},
    "one in second legs": {TRAIN: {1}, EVALUATE: {2}, REPAIR: {5}},
}


@pytest.mark.parametrize("case", FAILING)
@pytest.mark.parametrize("trust", ["secure", "distributed"])
def test_every_message_of_a_run_with_private_evaluation_is_counted(
    files: Files, tmp_path: Path, trust: str, case: str
) -> None:
    """Key set-up, stage 1, rounds and evaluations, that of the base model and second legs among them."""
    changes = {"privacy.trust": trust, "privacy.dropouts": 2, "evaluation.private": 0.2, "num-server-rounds": 2}
    config = tiny_config(files, tmp_path, NOISY | changes)
    grid = tiny_grid(config, FailingGrid)
    grid.failing = FAILING[case]
    found = add_traffic(run_federation(grid, config, 41, plots=False), {41: COUNT})
    came = [message for message in grid.answered if not message.has_error()]
    assert {EVALUATE, STATISTICS, TRAIN} <= {message.metadata.message_type for message in grid.sent}
    assert (found["messages_down"], found["messages_up"]) == (len(grid.sent), len(came))
    assert found["records_down_bytes"] == sum(serialized_bytes(message.content) for message in grid.sent)
    assert found["records_up_bytes"] == sum(serialized_bytes(message.content) for message in came)


def test_of_a_simulation_flower_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``flwr ls`` would start a SuperLink on this machine and leave it running."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.events.write_text('{"event": "run_started", "run": 41}\n')
    folder.engine_log.touch()
    monkeypatch.setattr(traffic, "ask_for_all", lambda *_: pytest.fail("Flower was asked"))
    result = CliRunner().invoke(cli.app, ["traffic", str(folder.path)])
    assert result.exit_code == 1
    assert "a simulation, whose SuperLink has ended; give a run of a deployed federation" in result.output


@pytest.mark.parametrize("told", ["", '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n', "["])
@pytest.mark.parametrize("connection", ["", "local", "hospital"])
def test_without_the_address_of_a_superlink_flower_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, connection: str
) -> None:
    """It started one of its own, which ran on."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.events.write_text('{"event": "run_started", "run": 41}\n')
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    if told:
        (tmp_path / "config.toml").write_text(told)
    monkeypatch.setattr(traffic, "ask_for_all", lambda *_: pytest.fail("Flower was asked"))
    result = CliRunner().invoke(cli.app, ["traffic", str(folder.path), *([connection] if connection else [])])
    assert result.exit_code == 1
    assert "names no SuperLink's address under it" in " ".join(result.output.split())


@pytest.mark.usefixtures("_flower")
@pytest.mark.parametrize("name", ["traffic.json", "ledger.jsonl", "report.json", "events.jsonl"])
def test_a_folder_that_links_elsewhere_is_refused_and_what_it_links_stays(
    everybody: RunFolder, tmp_path: Path, name: str
) -> None:
    """It emptied a file of one line without an end, and wrote over one of JSON."""
    precious, link = tmp_path / "precious", everybody.path / name
    content = link.read_bytes() if link.exists() else b'{"runs": {}}'
    precious.write_bytes(content.rstrip(b"\n"))
    link.unlink(missing_ok=True)
    link.symlink_to(precious)
    result = CliRunner().invoke(app, ["traffic", str(everybody.path), "hospital"])
    assert result.exit_code == 1
    assert f"{name} is a link out of that folder; put the file itself there" in " ".join(result.output.split())
    assert precious.read_bytes() == content.rstrip(b"\n")
