"""FedCG: real gradients in stage 1, in the clear or released, and rounds on the other examples."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client_app import app as client_module
from common.codecs import NeuralCodec
from common.config import ConfigError, RunConfig
from common.data import private_tokens
from common.models import AdaptedModel
from common.privacy.ledger import Ledger
from common.privacy.mechanism import ReleaseTerms, combine, release
from common.privacy.noise import RandomSource
from common.wire import GRADIENTS, TRAIN, serialised_bytes, unpack_instruction
from server_app.checkpoints import load_checkpoint
from server_app.federation import FederationError
from server_app.informed_prior import CollectedGradients, train_informed
from server_app.privacy_plan import stage_one_terms
from server_app.run import plan_run
from server_app.strategies.fedcg import FedCg
from tests.false_alarms import rms_outside, statistical
from tests.server_app.strategy_runs import NOISY, Make, faulty
from tests.server_app.test_resume import killed_after, resumed
from tests.server_app.test_strategy_privacy import recorded
from tests.tiny import CLIENTS, Files, final_adapter, run_tiny, start, tiny_config, vectors

STEPS = 2
FEDCG: dict[str, Any] = {
    "strategy.name": "fedcg",
    "fedcg.sampling-rate": 1.0,
    "fedcg.gradients-per-client": STEPS,
    "prior.steps": 5,
    "prior.batch-size": 4,
    "codec.size": 16,
}
CONV: dict[str, Any] = {"codec.kind": "conv", "codec.depth": 2, "codec.size": 0}
PRIVATE: dict[str, Any] = {"fedcg.private": True}


def report_of(files: Files, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_tiny(tiny_config(files, folder, changes)).path / "report.json").read_text())
    return found


def test_the_loss_falls(files: Files, tmp_path: Path) -> None:
    changes = {**FEDCG, "num-server-rounds": 6, "server.learning-rate": 3.0, "prior.steps": 100}
    outcome = report_of(files, tmp_path, changes)["outcome"]
    assert outcome["final"]["loss"] < 0.99 * outcome["base"]["loss"]


# ---- the examples


def test_stage_one_and_the_rounds_see_other_examples(
    make: Make, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each client's eight rows two feed stage 1 and the other six every round, the same ones each time."""
    seen: dict[str, list[list[tuple[int, ...]]]] = {"gradient_stream": [], "local_update": []}
    for name in ("gradient_stream", "local_update"):
        original = getattr(client_module, name)

        def spy(*arguments: Any, name: str = name, original: Any = original) -> Any:
            seen[name].append([tuple(row[row > 0].tolist()) for row in arguments[2].input_ids])
            return original(*arguments)

        monkeypatch.setattr(client_module, name, spy)
    strategy, grid = make({**FEDCG, "num-server-rounds": 2})
    start(strategy, grid)
    first, rounds = seen["gradient_stream"], seen["local_update"]
    assert rounds[:CLIENTS] == rounds[CLIENTS:]
    for client, (collected, trained) in enumerate(zip(first, rounds[:CLIENTS], strict=True)):
        config = strategy.config
        whole = private_tokens(config.data, adapted.tokenizer, client, CLIENTS, config.seed).input_ids
        assert (len(collected), len(trained)) == (2, 6)
        assert sorted(collected + trained) == sorted(tuple(row[row > 0].tolist()) for row in whole)


def test_other_strategies_keep_all_examples_in_both_stages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    original = client_module.local_update

    def spy(*arguments: Any) -> Tensor:
        counts.append(len(arguments[2]))
        return original(*arguments)

    monkeypatch.setattr(client_module, "local_update", spy)
    strategy, grid = make({"num-server-rounds": 1})
    start(strategy, grid)
    assert counts == [8] * CLIENTS


# ---- what stage 1 sends


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
    changes = {**FEDCG, **PRIVATE, **NOISY, "privacy.trust": trust, "fedcg.clip-norm": 0.5}
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
    config = tiny_config(files, Path(), {**FEDCG, **PRIVATE, "privacy.epsilon": 4.0, "fedcg.clip-norm": 0.7})
    plan, stage = plan_run(config, adapted, CLIENTS), FedCg.stage_one(config, adapted.layout)
    agreed = stage_one_terms(config, plan, stage)
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
        sent = recorded(strategy, grid)
        tasks = {kind: unpack_instruction(content)[2] for kind, _, content in sent}
        assert set(tasks) == {GRADIENTS, TRAIN}
        assert (tasks[GRADIENTS].raw, tasks[GRADIENTS].terms.noise_multiplier > 0) == (raw, not raw)
        assert not tasks[TRAIN].raw


# ---- site policy


@pytest.mark.parametrize(("changes", "limit"), [({}, "allow-raw-gradients"), (PRIVATE, "min-noise-multiplier")])
def test_a_site_refuses_naming_its_limit(make: Make, changes: dict[str, Any], limit: str) -> None:
    strategy, grid = make({**FEDCG, **NOISY, **changes})
    for context in grid._contexts.values():
        context.node_config["min-noise-multiplier"] = 4.5  # stage 1 has 4, and raw gradients are off with it
    with pytest.raises(FederationError, match=rf"none of 6 clients released gradients\. PolicyRefusal.*{limit}"):
        strategy.prepare(grid)


def test_a_site_with_its_own_data_never_sends_them_by_default(make: Make, files: Files) -> None:
    strategy, grid = make(FEDCG)
    for node in (1, 2):
        grid._contexts[node].node_config["data-path"] = str(files.private)
    assert isinstance(strategy, FedCg)
    assert strategy._collect_gradients(grid).shape[0] == (CLIENTS - 2) * STEPS
    grid._contexts[1].node_config["allow-raw-gradients"] = True
    assert strategy._collect_gradients(grid).shape[0] == (CLIENTS - 1) * STEPS


def test_a_site_refuses_more_than_the_gradients_that_it_was_configured_for(make: Make) -> None:
    strategy, grid = make({**FEDCG, "fedcg.gradients-per-client": 3})
    grid._contexts[1].run_config["fedcg.gradients-per-client"] = STEPS
    sent = [m for m in recorded_replies(strategy, grid) if m.has_error()]
    assert [m.error.reason for m in sent] == [
        f"PolicyRefusal: this site refuses: size = {3 * 3072}, above 2 times its adapter's size = {2 * 3072}"
    ]


def test_terms_that_do_not_fit_the_gradients_are_refused_before_data_or_budget_are_touched(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, grid = make({**FEDCG, **PRIVATE, **NOISY})
    for context in grid._contexts.values():
        context.node_config["max-releases"] = 5
        context.run_config["fedcg.gradients-per-client"] = STEPS + 1
    monkeypatch.setattr(client_module, "gradient_stream", None)
    with pytest.raises(FederationError, match="WireError: the gradients have 9216 values, the release terms say 6144"):
        strategy.prepare(grid)
    assert not any(context.state for context in grid._contexts.values())


def test_a_failure_while_collecting_from_a_sites_own_data_is_answered_with_noise(
    make: Make, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node 1 is a site: whether it failed cannot be seen; node 2 is simulated and tells."""
    strategy, grid = make({**FEDCG, **PRIVATE, **NOISY})
    grid._contexts[1].node_config["data-path"] = str(files.private)

    def fail(*_: object) -> None:
        raise MemoryError("row 17 is long, which is a secret")

    monkeypatch.setattr(client_module, "gradient_stream", fail)
    site, simulated, *_ = sorted(recorded_replies(strategy, grid), key=lambda reply: reply.metadata.src_node_id)
    assert not site.has_error()
    assert simulated.error.reason.startswith("MemoryError")


def recorded_replies(strategy: Any, grid: Any) -> list[Any]:
    replies: list[Any] = []
    original = grid.answer

    def answer(message: Any) -> Any:
        replies.append(original(message))
        return replies[-1]

    grid.answer = answer
    strategy.collect(grid)
    return replies


def test_a_run_without_any_reply_in_stage_one_ends(make: Make) -> None:
    strategy, grid = make(FEDCG)
    with pytest.raises(FederationError, match=r"none of 6 clients released gradients\. MemoryError"):
        start(strategy, faulty(grid, raising=set(range(1, 7)), silent=set()))


# ---- what the report says


def test_in_the_clear_no_epsilon_is_claimed_and_the_report_says_why(files: Files, tmp_path: Path) -> None:
    """The rounds are noised all the same."""
    report = report_of(files, tmp_path, {**FEDCG, **NOISY, "num-server-rounds": 1})
    privacy = report["privacy"]
    assert privacy["released_model"]["epsilon"] == privacy["one_client_against_server"]["epsilon"] == "inf"
    assert privacy["not_private_because"].startswith("fedcg.private = false: stage 1 sends real gradients")
    assert privacy["noise_multiplier"] == 2.0
    assert "fedcg.private = false" in (tmp_path / "run" / "report.md").read_text()


def test_private_gradients_cost_their_share_of_epsilon(files: Files, adapted: AdaptedModel, tmp_path: Path) -> None:
    changes = {**FEDCG, **PRIVATE, "privacy.epsilon": 4.0, "privacy.statistics-share": 0.4, "num-server-rounds": 2}
    config = tiny_config(files, tmp_path, changes)
    plan, without = (
        plan_run(config, adapted, CLIENTS),
        plan_run(tiny_config(files, tmp_path, {**changes, "strategy.name": "lora"}), adapted, CLIENTS),
    )
    assert plan.statistics is not None
    assert plan.round.noise_multiplier > 1.05 * without.round.noise_multiplier
    report = json.loads((run_tiny(config).path / "report.json").read_text())
    assert report["privacy"]["released_model"]["epsilon"] == pytest.approx(plan.epsilon, rel=1e-3)
    assert 3.9 < plan.epsilon <= 4.0
    assert report["privacy"]["not_private_because"] == ""
    labels = [charge.label for charge in Ledger(tmp_path / "run" / "ledger.jsonl").charges]
    assert labels == ["stage 1: gradients", "stage 2: gradient", "stage 2: gradient"]


@pytest.mark.parametrize("changes", [CONV, {}, {**PRIVATE, **NOISY}], ids=["conv", "linear", "private"])
def test_the_bytes_in_the_report_are_those_on_the_wire(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDCG, "num-server-rounds": 1, **changes})
    down: dict[str, int] = {}
    up: dict[str, int] = {}
    original = grid.answer

    def answer(message: Any) -> Any:
        reply = original(message)
        down[message.metadata.message_type] = serialised_bytes(message.content)
        up[message.metadata.message_type] = serialised_bytes(reply.content)
        encoder[message.metadata.message_type] = unpack_instruction(message.content)[1]
        return reply

    encoder: dict[str, Any] = {}
    grid.answer = answer  # type: ignore[method-assign]
    start(strategy, grid)
    details: Any = strategy.details()
    stage, learnt = details["stage_1"], details["autoencoder"]
    assert (stage["bytes_up_per_client"], stage["bytes_down_per_client"]) == (up[GRADIENTS], down[GRADIENTS])
    assert stage["values_up_per_client"] == stage["exact_gradients_values"] == STEPS * strategy.layout.size
    assert 4 * stage["exact_gradients_values"] < stage["exact_gradients_bytes"] < 4 * STEPS * 3072 + 100
    assert learnt["encoder_bytes_down_per_client_round"] > encoder[TRAIN].nbytes
    assert down[TRAIN] - down[GRADIENTS] == pytest.approx(learnt["encoder_bytes_down_per_client_round"], abs=400)
    codec = strategy.codec
    assert isinstance(codec, NeuralCodec)
    assert (learnt["encoder_parameters"], learnt["decoder_parameters"]) == codec.parameters


def test_dr_encoder_says_what_its_statistics_save(make: Make) -> None:
    """The paper's Table 5 at this size: 17 values in place of 2 x 3,072."""
    strategy, grid = make({"strategy.name": "dr-encoder", **NOISY, "num-server-rounds": 1})
    start(strategy, grid)
    details: Any = strategy.details()
    assert details["stage_1"]["exact_gradients_values"] == 2 * 3072
    assert details["stage_1"]["values_up_per_client"] == 17
    assert details["stage_1"]["values_over_exact_gradients"] == pytest.approx(17 / 6144)


# ---- the AutoEncoder


def low_rank(count: int, dim: int) -> Tensor:
    """Rows in a space of three dimensions."""
    return vectors(count, 3, 1) @ vectors(3, dim, 2)


def test_the_autoencoder_is_trained_on_the_gradients_that_came(make: Make) -> None:
    """Rows of a three-dimensional space are learnt; other vectors are not."""
    strategy, _ = make({**FEDCG, "prior.steps": 300, "prior.learning-rate": 2e-3})
    from server_app.prior_settings import prior_settings  # noqa: PLC0415

    rows = low_rank(40, strategy.layout.size)
    codec, report = train_informed(strategy.layout, rows, prior_settings(strategy.config, strategy.layout))
    assert report.quality["captured_energy"] > 0.8
    assert report.losses[-1] < 0.3 < report.losses[0]
    other = vectors(1, strategy.layout.size, 9)[0]
    assert torch.cosine_similarity(codec.decode(codec.encode(other)), other, dim=0) < 0.2


@pytest.mark.parametrize("changes", [CONV, {}], ids=["conv", "linear"])
def test_codes_have_about_the_norm_that_they_are_clipped_to(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDCG, **changes})
    codec = strategy.prepare(grid)
    assert isinstance(strategy, FedCg)
    norms = torch.stack([codec.encode(row).norm() for row in strategy._collect_gradients(grid)])
    assert norms.mean() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("changes", [CONV, {}], ids=["conv", "linear"])
def test_a_code_of_zeros_decodes_and_the_report_says_to_what(make: Make, changes: dict[str, Any]) -> None:
    strategy, grid = make({**FEDCG, **changes})
    codec = strategy.prepare(grid)
    assert isinstance(strategy, FedCg)
    rows = strategy._collect_gradients(grid)
    zeroed = codec.decode(torch.zeros(codec.size))
    assert torch.isfinite(zeroed).all()
    assert zeroed.any()
    prior = strategy.state.prior
    assert prior["zeroed_norm"] == pytest.approx(float(zeroed.norm() / rows.norm(dim=1).mean()), rel=1e-4)
    expected = torch.cosine_similarity(zeroed, rows.mean(dim=0), dim=0)
    assert prior["zeroed_cosine"] == pytest.approx(float(expected), abs=1e-5)


def test_zero_gradients_are_not_trained_on() -> None:
    rows = torch.zeros(4, 10)
    rows[2] = 1.0
    assert CollectedGradients(rows, 1).sample(5).sum(dim=1).tolist() == [10.0] * 5
    with pytest.raises(ValueError, match="no collected gradient differs from zero"):
        CollectedGradients(torch.zeros(2, 10), 1)


# ---- restart, refusals


@pytest.mark.parametrize("changes", [CONV, PRIVATE], ids=["conv", "private"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    files: Files, adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """The decoder and what stage 1 cost come back from the checkpoint; stage 1 is not run again."""
    noisy = {**NOISY, "privacy.noise-multiplier": 0.5, "privacy.insecure-seed": 7, "num-server-rounds": 4}
    config = tiny_config(files, tmp_path / "whole", {**FEDCG, **noisy, **changes})
    whole = run_tiny(config)
    config = RunConfig.parse(config.flat() | {"output.dir": str(tmp_path / "killed")})
    folder = killed_after(config, 2, monkeypatch)
    state, _ = load_checkpoint(folder.checkpoint, config, adapted.layout)
    assert state.codec is not None
    assert any(name.startswith("decoder.") for name in state.codec.state().arrays)
    resumed(config, folder)
    assert torch.equal(final_adapter(folder), final_adapter(whole))
    assert Ledger(folder.ledger).charges == Ledger(whole.ledger).charges
    reports = [json.loads((place.path / "report.json").read_text())["strategy"] for place in (folder, whole)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec.kind": "identity"}, r'strategy\.name = "fedcg" with codec\.kind = "identity"'),
        (
            {
                "privacy.mechanism": "printed",
                "privacy.trust": "local",
                "privacy.clipping": "clip",
                "privacy.epsilon": 1.0,
            },
            r'strategy\.name = "fedcg" with privacy\.mechanism = "printed"',
        ),
        ({"fedcg.share": 0.0}, r"fedcg\.share = 0\.0"),
        ({"fedcg.share": 1.0}, r"fedcg\.share = 1\.0"),
    ],
)
def test_a_contradiction_is_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse({"strategy.name": "fedcg", **changes})


def test_a_conv_code_of_another_size_is_refused(make: Make) -> None:
    strategy, grid = make({**FEDCG, **CONV, "codec.size": 7})
    with pytest.raises(ConfigError, match=r"codec\.size = 7 with codec\.kind = 'conv'"):
        strategy.prepare(grid)
