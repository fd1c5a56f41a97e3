"""Every registered strategy once through the real ``flwr run``: ``make test-engine`` (not in ``make test``)."""

import json
import time
from pathlib import Path

import pytest
import torch

from common.model.adapted import AdaptedModel
from server_app.results.folder import RunFolder
from server_app.strategies import STRATEGIES
from tests.support.tiny import Files, final_adapter, run_tiny, tiny_config
from workbench.simulation.launcher import Resources, launch

CLIENTS = 4
ROUNDS = 2


@pytest.mark.engine
@pytest.mark.parametrize("name", STRATEGIES)
def test_flwr_run_ends_where_the_loop_of_comparisons_does(
    files: Files,
    adapted: AdaptedModel,
    tmp_path: Path,
    name: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread on both sides: a sum over two threads is another sum, and stages that learn a codec amplify that."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of Flower's processes, the ServerApp's among them
    torch.set_num_threads(1)
    changes = {
        "strategy.name": name,
        "num-server-rounds": ROUNDS,
        "federation.num-clients": CLIENTS,
        "federation.connect-timeout": 60.0,
        "server.learning-rate": 3.0,
    }
    started = time.monotonic()
    with (tmp_path / "log").open("w+") as log:
        launch(tiny_config(files, tmp_path / "flower", changes), CLIENTS, Resources(num_cpus=2), log)
    seconds = time.monotonic() - started
    flower = RunFolder(tmp_path / "flower" / "run")
    here = run_tiny(tiny_config(files, tmp_path / "here", changes))
    report = json.loads((flower.path / "report.json").read_text())
    assert (report["run"]["strategy"], report["run"]["rounds_run"], report["run"]["clients"]) == (name, ROUNDS, CLIENTS)
    assert [row["replies"] for row in flower.read_metrics()[1:]] == [CLIENTS] * ROUNDS
    assert (final_adapter(flower) - adapted.initial).norm() > 0.01, "something must have been learnt"
    torch.testing.assert_close(final_adapter(here), final_adapter(flower), rtol=0, atol=1e-6)
    weights = [[(row["bytes_up"], row["bytes_down"]) for row in run.read_metrics()[1:]] for run in (here, flower)]
    assert weights[0] == weights[1]
    losses = [report["outcome"][when]["loss"] for when in ("base", "final")]
    sent = report["communication"]
    with capfd.disabled():
        print(
            f"\n| {name} | {losses[0]:.3f} | {losses[1]:.3f} | {sent['per_client_run']['up']:,.0f} | "
            f"{sent['per_client_run']['down']:,.0f} | {seconds:.0f} |"
        )
