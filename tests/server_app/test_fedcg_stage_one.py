"""FedCG's stage 1: real gradients in the clear or released, and what a site allows of it."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client_app import app as client_module
from client_app.site_ledger import RECORD
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms, combine, release
from common.privacy.noise import RandomSource
from common.wire.records import GRADIENTS, TRAIN
from server_app.rounds.cohort import FederationError
from server_app.strategies.fedcg import FedCg
from tests.support.false_alarms import rms_outside, statistical
from tests.support.fedcg_runs import FEDCG, PRIVATE, STEPS, replies_to_stage_one
from tests.support.grids import faulty
from tests.support.messages import Reader
from tests.support.strategy_runs import NOISY, Make
from tests.support.tiny import CLIENTS, Files, ledger_in, planned, run_tiny, start, tiny_config, vectors

pytestmark = pytest.mark.usefixtures("few_steps")


def test_in_the_clear_the_server_gets_every_gradient_as_it_is(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape [clients x steps, n], bit by bit what the clients computed."""
    sent: list[Tensor] = []
    original = client_module.gradient_stream

    def spy(*arguments: Any) -> Any:
        for gradient in original(*arguments):
            sent.append(gradient.clone())
            yield gradient

    monkeypatch.setattr(client_module, "gradient_stream", spy)
    strategy, grid = make(FEDCG)
    assert isinstance(strategy, FedCg)
    rows = strategy._collect_gradients(grid)
    clients = sorted(torch.stack(sent).split(STEPS), key=lambda steps: steps.numpy().tobytes())
    assert torch.equal(rows, torch.cat(clients)), "in an order that no node id decides"
    assert rows.shape == (CLIENTS * STEPS, strategy.layout.size)


@pytest.mark.parametrize("trust", ["central", "distributed", "local"])
@statistical(rms_outside(0.95, 1.05, 6144), "system")
def test_private_gradients_are_their_noisy_means_with_the_noise_that_was_charged(make: Make, trust: str) -> None:
    """Clipped jointly to .5, z = 2 x 2: std on the mean 4 x .5 / 6; 6,144 values, so 5 % is over 5 standard errors."""
    changes = {**FEDCG, **PRIVATE, **NOISY, "privacy.trust": trust, "stage-one.clip-norm": 0.5}
    strategy, grid = make(changes)
    assert isinstance(strategy, FedCg)
    rows = strategy._collect_gradients(grid)
    (charge,) = strategy.account._ledger.charges
    assert (charge.label, charge.noise_multiplier) == ("stage 1: gradients", 4.0)
    scale = math.sqrt(CLIENTS) if trust == "local" else 1.0
    assert rows.shape == (STEPS, strategy.layout.size)
    assert rows.square().mean().sqrt() == pytest.approx(4.0 * 0.5 / CLIENTS * scale, rel=0.05)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_one_client_moves_what_stage_one_releases_by_the_clip_norm_at_most(
    files: Files, adapted: AdaptedModel, scale: float
) -> None:
    """The 2-norm over all gradients of a client together: clipping them one by one would allow sqrt(2) times more."""
    config = tiny_config(files, Path(), {**FEDCG, **PRIVATE, "privacy.epsilon": 4.0, "stage-one.clip-norm": 0.7})
    plan, stage = planned(config, adapted, CLIENTS), FedCg.recipe_for(config, adapted.layout).stage_one
    agreed = plan.stage_one_terms(stage)
    assert (agreed.clip_norm, agreed.size, agreed.normalize) == (0.7, STEPS * adapted.layout.size, False)
    bare = ReleaseTerms(agreed.size, agreed.clip_norm, 0.0, "central", 2, normalize=agreed.normalize)
    source = RandomSource.insecure(1)
    other, own = (release(code, bare, source) for code in vectors(2, agreed.size, 3) * scale)
    moved = combine([other, own], bare, source) - combine([other, np.zeros_like(own)], bare, source)
    assert moved.norm() <= 0.7 * (1 + 1e-5)
    assert moved.norm() == pytest.approx(min(0.7, float(vectors(2, agreed.size, 3)[1].norm()) * scale), rel=1e-4)


def test_a_client_whose_gradients_are_not_finite_releases_noise(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, grid = make({**FEDCG, **PRIVATE, **NOISY})
    broken = torch.full((strategy.layout.size,), math.nan)
    monkeypatch.setattr(client_module, "gradient_stream", lambda *_: iter([broken] * STEPS))
    assert isinstance(strategy, FedCg)
    assert torch.isfinite(strategy._collect_gradients(grid)).all()


def test_gradients_are_asked_for_in_the_clear_only_when_nothing_was_to_be_private(make: Make) -> None:
    for changes, raw in (({}, True), (NOISY, True), ({**PRIVATE, **NOISY}, False)):
        strategy, grid = make({**FEDCG, **changes, "num-server-rounds": 1})
        start(strategy, grid)
        read = Reader()
        tasks = {m.metadata.message_type: read(m.content).task for m in grid.sent}
        assert set(tasks) == {GRADIENTS, TRAIN}
        assert (tasks[GRADIENTS].raw, tasks[GRADIENTS].terms.noise_multiplier > 0) == (raw, not raw)
        assert not tasks[TRAIN].raw


@pytest.mark.parametrize(("changes", "limit"), [({}, "allow-raw-gradients"), (PRIVATE, "min-noise-multiplier")])
def test_a_site_refuses_naming_its_limit(make: Make, changes: dict[str, Any], limit: str) -> None:
    strategy, grid = make({**FEDCG, **NOISY, **changes})
    for context in map(grid.context, grid.get_node_ids()):
        context.node_config["min-noise-multiplier"] = 4.5  # stage 1 has 4, and raw gradients are off with it
    with pytest.raises(FederationError, match=rf"none of 6 clients released gradients\. PolicyRefusal.*{limit}"):
        strategy.prepare(grid)


def own_data(files: Files) -> dict[str, Any]:
    """What makes a node a site."""
    ledger = ledger_in(files.private.parent)
    return {"data-path": str(files.private), "max-epsilon": 0.0, "ledger-path": ledger}


def test_a_site_with_its_own_data_never_sends_them_by_default(make: Make, files: Files) -> None:
    strategy, grid = make(FEDCG)
    for node in (1, 2):
        grid.context(node).node_config |= own_data(files)
    assert isinstance(strategy, FedCg)
    assert strategy._collect_gradients(grid).shape[0] == (CLIENTS - 2) * STEPS
    grid.context(1).node_config["allow-raw-gradients"] = True
    assert strategy._collect_gradients(grid).shape[0] == (CLIENTS - 1) * STEPS


def test_a_site_computes_no_more_gradients_than_its_limit_on_work(make: Make, files: Files) -> None:
    own = {**own_data(files), "max-local-steps": STEPS, "allow-raw-gradients": True}
    for steps, said in ((STEPS, []), (STEPS + 1, ["PolicyRefusal: this site refuses: micro-batches = 3, above"])):
        strategy, grid = make({**FEDCG, "stage-one.steps": steps})
        grid.context(1).node_config |= own
        sent = [m for m in replies_to_stage_one(strategy, grid) if m.has_error()]
        assert [m.error.reason.partition(" its max")[0] for m in sent] == said


def test_a_client_knows_stage_one_from_its_instruction_alone(make: Make) -> None:
    """Whatever its own copy of the configuration says of the strategy and of stage 1."""
    strategy, grid = make({**FEDCG, **PRIVATE, **NOISY})
    for context in map(grid.context, grid.get_node_ids()):
        context.run_config |= {"strategy.name": "lora", "stage-one.steps": 7}
    assert not [m for m in replies_to_stage_one(strategy, grid) if m.has_error()]


def test_terms_that_do_not_fit_the_gradients_are_refused_before_data_or_budget_are_touched(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, grid = make({**FEDCG, **PRIVATE, **NOISY})
    for context in map(grid.context, grid.get_node_ids()):
        context.node_config["max-releases"] = 5
    monkeypatch.setattr(client_module, "gradient_stream", None)
    assert strategy.recipe.stage_one is not None
    more = replace(strategy.recipe.stage_one, steps=STEPS + 1)
    strategy.recipe = replace(strategy.recipe, stage_one=more)
    with pytest.raises(FederationError, match="WireError: the gradients have 9216 values, the release terms say 6144"):
        strategy.prepare(grid)
    assert not any(RECORD in context.state for context in map(grid.context, grid.get_node_ids()))


def test_a_failure_while_collecting_from_a_sites_own_data_is_answered_with_noise(
    make: Make, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 1 is a site: whether it failed cannot be seen; node 2 is simulated and tells."""
    strategy, grid = make({**FEDCG, **PRIVATE, **NOISY})
    grid.context(1).node_config |= own_data(files)

    def fail(*_: object) -> None:
        raise MemoryError("row 17 is long, which is a secret")

    monkeypatch.setattr(client_module, "gradient_stream", fail)
    site, simulated, *_ = sorted(replies_to_stage_one(strategy, grid), key=lambda reply: reply.metadata.src_node_id)
    assert not site.has_error()
    assert simulated.error.reason.startswith("MemoryError")


def test_a_run_without_any_reply_in_stage_one_ends(make: Make) -> None:
    strategy, grid = make(FEDCG)
    with pytest.raises(FederationError, match=r"none of 6 clients released gradients\. MemoryError"):
        start(strategy, faulty(grid, raising=set(range(1, 7)), silent=set()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"stage-one.sampling-rate": 0.5},
            "WARNING: stage-one.sampling-rate = 0.5 with 6 clients: stage 1 of a run asks",
        ),
        ({"stage-one.sampling-rate": 0.6}, ""),
    ],
)
def test_a_run_warns_of_a_stage_one_that_may_ask_nobody(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    """(1 - .5)^6 = .016 is above 1 %, (1 - .6)^6 = .004 is not; said before stage 1, which may ask nobody indeed."""
    config = tiny_config(files, tmp_path, {**FEDCG, "num-server-rounds": 1, **changes})
    with contextlib.suppress(FederationError):
        run_tiny(config)
    printed = capsys.readouterr().out
    assert (says in printed) if says else ("asks nobody" not in printed)
