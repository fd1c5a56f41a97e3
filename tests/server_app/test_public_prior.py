"""Strategy public-prior: what its codec is made of, and that no client's message is in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client_app import app as client_module
from common.adapter import Layout
from common.codecs import Codec, SubspaceCodec
from common.config import ConfigError, PublicPriorConfig
from common.model.adapted import AdaptedModel
from server_app.priors.public_gradients import Directions, PseudoClients, directions, layer_ranges, pseudo_clients
from server_app.strategies import public_prior
from server_app.strategies.public_prior import row_scales, rows_on
from tests.support.grids import faulty
from tests.support.strategy_runs import NOISY, Make
from tests.support.tiny import Files, run_tiny, start, tiny_config, vectors

PRIOR: dict[str, Any] = {"strategy.name": "public-prior", "codec.size": 24}
FORMS = ("full", "per-layer", "tucker")


def content(codec: Codec) -> dict[str, Tensor]:
    return dict(codec.state().arrays)


def same(one: Codec, other: Codec) -> bool:
    arrays = content(one), content(other)
    return arrays[0].keys() == arrays[1].keys() and all(torch.equal(arrays[0][k], arrays[1][k]) for k in arrays[0])


@pytest.mark.parametrize(
    ("changes", "seeds"),
    [({}, (1, 2, 3)), ({"public-prior.delivery": "rebuild"}, (2,))],
)
def test_the_loss_falls_for_every_draw_of_adapter_and_prompts(
    files: Files, tmp_path: Path, changes: dict[str, Any], seeds: tuple[int, ...]
) -> None:
    ratios = []
    for seed in seeds:
        keys = {**PRIOR, "num-server-rounds": 8, "server.learning-rate": 0.4, "seed": seed, **changes}
        folder = run_tiny(tiny_config(files, tmp_path / str(seed), keys)).path
        report = json.loads((folder / "report.json").read_text())
        ratios.append(report["outcome"]["final"]["loss"] / report["outcome"]["base"]["loss"])
    assert max(ratios) < 1, "a run may stay long on the plateau where the base is"
    assert sum(ratios) / len(ratios) < 0.92
    assert report["strategy"]["refreshes"] == 2
    assert report["strategy"]["server_seconds_per_refresh"] > 0
    assert 0.3 < report["strategy"]["pseudo_gradient_energy_in_rows"] <= 1 + 1e-5
    page = (folder / "report.md").read_text()
    assert "made 2 times on the server" in page
    assert "on the server; a client gets " in page


@pytest.mark.parametrize(
    ("trust", "more"), [("central", 1.0), ("distributed", 1.0), ("local", 6.0)], ids=["central", "distributed", "local"]
)
def test_the_noise_floor_is_that_of_the_noise_that_is_present(make: Make, trust: str, more: float) -> None:
    """z = 2 and six clients: (2/6)^2 per direction and round; in ``local`` each adds all of it: six times as much."""
    strategy, _ = make({**NOISY, **PRIOR, "privacy.trust": trust, "num-server-rounds": 3})
    assert strategy._noise_floor() == pytest.approx(4.0 * more * (2 / 6) ** 2 / 3, rel=1e-3)


def test_without_noise_no_row_fades(make: Make) -> None:
    assert make(PRIOR)[0]._noise_floor() == 0


def test_epsilon_is_that_of_the_rounds_alone(make: Make) -> None:
    epsilons = []
    for name in ("public-prior", "lora"):
        strategy, grid = make({**NOISY, **PRIOR, "strategy.name": name})
        start(strategy, grid)
        assert {charge.label for charge in strategy.account._ledger.charges} == {"stage 2: gradient"}
        epsilons.append(strategy.account.certify())
    assert epsilons[0] == pytest.approx(epsilons[1], rel=1e-6)


def test_no_message_of_a_client_reaches_the_codec_but_through_the_released_adapter(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other cohorts, clients that send something else or nothing: bit for bit the same codec at a fixed adapter."""
    codecs: dict[str, list[Codec]] = {"as it is": [], "fewer reply": [], "garbled": [], "moved": []}
    for case, made in codecs.items():
        if case == "garbled":
            monkeypatch.setattr(client_module, "local_update", lambda *_: vectors(1, 3072, 9)[0])
        sampled = {"privacy.sampling-rate": 0.8, "federation.min-reply-rate": 0.01}
        strategy, grid = make({**NOISY, **PRIOR, **sampled, "public-prior.refresh-every": 1})
        released = strategy.state.optimizer.adapter
        if case == "moved":
            released = released + 0.01 * vectors(1, 3072, 1)[0]
        original = strategy.configure

        def configure(*given: Any, original: Any = original, strategy: Any = strategy, to: Tensor = released) -> Any:
            strategy.state.optimizer.reset(to)
            return original(*given)

        strategy.configure = configure  # type: ignore[method-assign]
        strategy.hooks = type(strategy.hooks)(
            strategy.hooks.evaluate, strategy.hooks.on_prepared, lambda state, *_, made=made: made.append(state.codec)
        )
        start(strategy, faulty(grid, raising={1, 2}, silent={3}) if case == "fewer reply" else grid)
    for case in ("fewer reply", "garbled"):
        assert all(same(one, other) for one, other in zip(codecs["as it is"], codecs[case], strict=True)), case
    assert not same(codecs["as it is"][1], codecs["moved"][1])


def test_the_prior_is_made_anew_when_it_is_due_and_at_the_released_model(make: Make) -> None:
    strategy, grid = make({**NOISY, **PRIOR, "num-server-rounds": 5, "public-prior.refresh-every": 2})
    seen = []
    original = strategy.aggregate

    def aggregate(*given: Any) -> Any:
        seen.append(strategy.codec)
        return original(*given)

    strategy.aggregate = aggregate  # type: ignore[method-assign]
    start(strategy, grid)
    assert [seen[i] is seen[i + 1] for i in range(4)] == [True, False, True, False]
    assert strategy.measure().details()["refreshes"] == 3


def test_rebuilding_the_rows_equals_sending_them(make: Make) -> None:
    """In codes and steps; rows that are sent are rounded to float16, which is the whole difference."""
    codecs = []
    for delivery in ("basis", "rebuild"):
        strategy, grid = make({**PRIOR, "public-prior.delivery": delivery})
        strategy.state.optimizer.reset(strategy.state.optimizer.adapter + 0.02 * vectors(1, 3072, 1)[0])
        strategy.state.codec = strategy.prepare(grid)
        codecs.append(strategy._codec_of(1))
    x, c = vectors(1, 3072, 2)[0], vectors(1, 24, 3)[0]
    for one, other in ((codecs[0].encode(x), codecs[1].encode(x)), (codecs[0].decode(c), codecs[1].decode(c))):
        assert one.norm() > 0.1
        assert (one - other).norm() < 2e-3 * one.norm()


def test_what_is_rebuilt_needs_fewer_bytes_than_the_rows(make: Make) -> None:
    """64 pseudo-clients: weights and the adapter, of 3,072 values, beside 24 rows of as many in two bytes."""
    sizes = {}
    for delivery in ("basis", "rebuild"):
        strategy, grid = make({**PRIOR, "public-prior.delivery": delivery})
        strategy.state.codec = strategy.prepare(grid)
        sizes[delivery] = strategy.measure().details()["encoder_bytes_down_per_refresh"]
    assert sizes["basis"] == 2 * 24 * 3072 + 24 + 24 * 4
    assert sizes["rebuild"] < 0.3 * sizes["basis"]  # type: ignore[operator]


def test_a_model_that_is_not_finite_ends_in_divergence_not_in_an_error(make: Make) -> None:
    changes = {**PRIOR, "server.learning-rate": 3e38, "privacy.clip-norm": 1e4, "public-prior.refresh-every": 1}
    strategy, grid = make(changes)
    before = strategy.state.optimizer.adapter
    assert torch.equal(start(strategy, grid), before)
    assert "diverged" in strategy.stop_reason
    strategy, grid = make(PRIOR)
    strategy.state.optimizer.reset(torch.full((3072,), torch.nan))
    codec = strategy.prepare(grid)
    assert not codec.decode(torch.ones(codec.size)).any()


def gradients(adapted: AdaptedModel, count: int = 64) -> Tensor:
    """Low-rank and noise: the leading directions are clear."""
    n = adapted.layout.size
    strong = torch.tensor([8.0, 6, 5, 4, 3, 2]) * vectors(count, 6, 1)
    return strong @ torch.linalg.qr(vectors(6, n, 2).T).Q.T + 0.01 * vectors(count, n, 3)


def made(adapted: AdaptedModel, given: Tensor, size: int, **keys: Any) -> Directions:
    settings = PublicPriorConfig.model_validate({key.replace("_", "-"): value for key, value in keys.items()})
    nothing = PseudoClients(torch.zeros(len(given), 1, 2), torch.zeros(len(given), 1, 2))
    return directions(adapted.layout, given, size, settings, nothing, adapted.initial)


def basis(codec_rows: Any) -> Tensor:
    return torch.stack([codec_rows.lift(unit) for unit in torch.eye(codec_rows.size)])


def test_full_directions_are_the_right_singular_vectors_of_the_unit_gradients(adapted: AdaptedModel) -> None:
    given = gradients(adapted)
    units = given / given.norm(dim=1, keepdim=True)
    _, values, vectors_ = torch.linalg.svd(units.double(), full_matrices=False)
    found = made(adapted, given * torch.logspace(-9, 9, 64)[:, None], 6)
    assert torch.allclose(found.energies.double(), values[:6].square() / 64, rtol=1e-4)
    overlap = (basis(found.rows).double() * vectors_[:6]).sum(1).abs()
    assert torch.allclose(overlap, torch.ones(6).double(), atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_form_are_orthonormal_and_their_energies_true(adapted: AdaptedModel, form: str) -> None:
    given = gradients(adapted)
    found = made(adapted, given, 24, form=form)
    rows = basis(found.rows)
    assert rows.shape == (24, adapted.layout.size)
    assert (rows @ rows.T - torch.eye(24)).abs().max() < 4e-3
    units = given / given.norm(dim=1, keepdim=True)
    held = (units @ rows.T).square().mean(0)
    assert torch.allclose(held, found.energies, rtol=0.02, atol=1e-5)


def test_per_layer_rows_belong_to_one_layer_and_keep_the_strongest(adapted: AdaptedModel) -> None:
    ranges = layer_ranges(adapted.layout)
    assert len(ranges) == 4
    assert ranges[-1][1] == adapted.layout.size
    given = gradients(adapted)
    given[:, : ranges[0][1]] *= 3
    found = made(adapted, given, 24, form="per-layer")
    touched = torch.stack([basis(found.rows)[:, a:b].any(1) for a, b in ranges])
    assert (touched.sum(0) == 1).all()
    assert touched.sum(1)[0] >= 6


def test_layers_are_told_by_the_first_number_of_a_name() -> None:
    layout = Layout.of({"m.1.a": (2,), "m.1.b0": (2,), "m.10.a": (3,), "m.2.a": (4,), "top": (5,)})
    assert layer_ranges(layout) == [(0, 4), (4, 7), (7, 11), (11, 16)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_gradients_without_a_direction_count_for_nothing(adapted: AdaptedModel, form: str, broken: float) -> None:
    given = gradients(adapted)
    spoilt = torch.cat([given, torch.full((64, adapted.layout.size), broken)])
    whole, half = made(adapted, given, 6, form=form), made(adapted, spoilt, 6, form=form)
    assert torch.allclose(half.energies, whole.energies / 2, rtol=1e-3)
    assert ((basis(half.rows) * basis(whole.rows)).sum(1).abs() > 0.99).all()


@pytest.mark.parametrize("form", FORMS)
def test_more_rows_than_directions_are_left_empty(adapted: AdaptedModel, form: str) -> None:
    given = gradients(adapted)[:1].expand(64, -1)
    found = made(adapted, given, 5, form=form)
    directions_there = 4 if form == "per-layer" else 1
    assert int((found.energies > 0).sum()) == directions_there
    assert int(basis(found.rows).any(1).sum()) == directions_there


def test_every_pseudo_client_has_prompts_and_labels_of_its_own(adapted: AdaptedModel) -> None:
    """And labels come from the model with the released adapter: another adapter, other labels."""
    prompts = [f"question : what is the sum of {a} and {b} ? answer :" for a in range(10) for b in range(10)]
    settings = PublicPriorConfig.model_validate({"pseudo-clients": 50})
    moved = adapted.initial + vectors(1, adapted.layout.size, 1)[0]
    one, again, other = (pseudo_clients(adapted, at, prompts, settings, 7) for at in (adapted.initial,) * 2 + (moved,))
    assert one.tokens.shape[:2] == (50, 3)
    assert torch.equal(one.tokens, again.tokens)
    assert len({tuple(row.flatten().tolist()) for row in one.tokens}) == 50
    assert ((one.spans[..., 1] - one.spans[..., 0]) == 1).all()
    assert torch.equal(one.tokens[..., :12], other.tokens[..., :12])
    assert not torch.equal(one.tokens, other.tokens)


ENERGIES = torch.tensor([0.4, 0.1, 0.001, 0.0])


def test_rows_count_alike_without_whitening_and_noise() -> None:
    assert torch.allclose(row_scales(ENERGIES, whitening=0, floor=0), torch.tensor([1.0, 1, 1, 0]))


def test_whitening_turns_strong_rows_down_and_noise_turns_weak_ones_off() -> None:
    white = row_scales(ENERGIES, whitening=0.25, floor=0)
    assert white[1] / white[0] == pytest.approx(4**0.25, rel=1e-5)
    assert white[2] / white[0] == pytest.approx(400**0.25, rel=1e-5)
    noisy = row_scales(ENERGIES, whitening=0.25, floor=0.1)
    ratio = 400**0.25 * (0.001 / 0.101) / (0.4 / 0.5)
    assert noisy[2] / noisy[0] == pytest.approx(ratio, rel=1e-5)
    assert noisy[3] == 0


@pytest.mark.parametrize("whitening", [0.0, 0.25])
def test_a_code_of_unit_length_is_decoded_to_unit_length_in_the_mean_square(whitening: float) -> None:
    squares = row_scales(ENERGIES, whitening=whitening, floor=0.01).double().square()
    energies = ENERGIES.double()
    assert squares.square() @ energies == pytest.approx(float(squares @ energies), rel=1e-5)


def test_no_energy_at_all_makes_no_scale_infinite() -> None:
    assert row_scales(torch.zeros(2), whitening=0.25, floor=0.0).isfinite().all()


def test_rows_that_the_noise_turns_off_are_not_sent_and_what_is_decoded_stays(make: Make) -> None:
    """With a floor that drowns the weak ones: without them a code is shorter, and gives the same step."""
    changes = {**NOISY, **PRIOR, "public-prior.noise-floor": 50.0, "privacy.trust": "central"}
    strategy, grid = make(changes)
    codec = strategy.prepare(grid)
    assert isinstance(codec, SubspaceCodec)
    assert 1 <= codec.size < strategy.config.codec.size
    assert strategy.state.prior["public_prior_rows"] == codec.size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public_prior, "OFF", 0.0)
        other, _ = make(changes)
        whole = other.prepare(grid)
    assert whole.size == strategy.config.codec.size
    x = codec.decode(torch.ones(codec.size)) + 0.1 * whole.decode(torch.ones(whole.size))
    torch.testing.assert_close(codec.decode(codec.encode(x)), whole.decode(whole.encode(x)), rtol=0.01, atol=1e-4)
    assert codec.spec().nbytes / whole.spec().nbytes == pytest.approx(codec.size / whole.size, rel=0.05)


def test_only_rows_worth_it_are_on_and_one_always_is() -> None:
    energies = torch.tensor([0.5, 0.1, 1e-3, 0.0])
    assert rows_on(energies, 0.05).tolist() == [True, True, True, False]
    assert rows_on(energies, 0.2).tolist() == [True, True, False, False]
    assert rows_on(energies, 1e9).tolist() == [True, False, False, False]
    assert rows_on(torch.zeros(3), 0.0).tolist() == [True, False, False]


def test_rows_fade_at_the_noise_of_the_whole_run(make: Make) -> None:
    """z = 2 over six clients and three rounds: energy (2/6)^2/3 on the mean of the rounds' mean codes."""
    strategy, grid = make({**NOISY, **PRIOR, "public-prior.noise-floor": 0.5, "privacy.trust": "central"})
    expected, codec = 0.5 * (2 / 6) ** 2 / 3, strategy.prepare(grid)
    assert isinstance(codec, SubspaceCodec)
    plain, _ = make({**PRIOR, "public-prior.noise-floor": 0.5})
    without = plain.prepare(grid)
    ratio = codec.spec().arrays["scales"] / without.spec().arrays["scales"][: codec.size]
    weights = ratio / ratio[0]
    assert 0 < weights[-1] < weights[1] < 1
    # weight of energy l is l / (l + floor), so 1/weight is linear in 1/l
    energies = without.spec().arrays["scales"][: codec.size] ** -4
    energies = energies / energies[0]
    slope = (1 / weights[-1] - 1) / (1 / energies[-1] - 1)
    lead = expected / slope - expected
    assert 0.02 < lead < 0.9, "the energy of the leading row that this noise implies"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec.size": 65}, r"codec\.size = 65 is out of range.*1 to 64"),
        ({"codec.size": 0}, r"codec\.size = 0 is out of range.*1 to 64"),
        ({"codec.kind": "conv"}, r'codec\.kind = "conv".*strategy public-prior needs "linear" and "global"'),
        ({"public-prior.delivery": "rebuild", "public-prior.form": "tucker"}, r'public-prior\.delivery = "rebuild"'),
        (
            {"public-prior.delivery": "rebuild", "model.name": "x", "model.quantization": "4"},
            r'model\.quantization = "4": quantized',
        ),
    ],
)
def test_a_contradiction_is_refused_by_key(files: Files, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(files, tmp_path, {"strategy.name": "public-prior", **changes})
