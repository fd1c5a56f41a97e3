"""A site that trains a smaller rank than the run's: the same lengths and bounds, and zeros where it has nothing."""

import pytest
import torch

from client_app.node_config import PolicyRefusal
from client_app.site import own_lora
from common.adapter import Layout, RankCut
from common.codecs import IdentityCodec, LinearCodec
from common.codecs.base import Codec
from common.config import LoraConfig, RunConfig, StageOneConfig
from common.model.adapted import AdaptedModel, initial_adapter, load_adapted_model
from common.model.lora import is_factor, with_rank
from common.privacy.mechanism import ReleaseTerms
from common.scale_code import ScaleCode
from common.wire.records import STATISTICS
from tests.support.instructions import answer, ask, terms
from tests.support.tiny import vectors
from workbench.simulation.in_process import InProcessGrid

FULL = Layout.of({"q.lora_A.w": (4, 3), "q.lora_B.w": (5, 4)})
PART = Layout.of({"q.lora_A.w": (2, 3), "q.lora_B.w": (5, 2)})
CUT = RankCut(FULL, PART)


def test_the_part_is_the_first_directions_of_every_factor() -> None:
    whole = vectors(1, FULL.size, 1)[0]
    wide, narrow = FULL.unflatten(whole), PART.unflatten(CUT.cut(whole))
    assert torch.equal(narrow["q.lora_A.w"], wide["q.lora_A.w"][:2])
    assert torch.equal(narrow["q.lora_B.w"], wide["q.lora_B.w"][:, :2])
    kept = sum(torch.outer(wide["q.lora_B.w"][:, r], wide["q.lora_A.w"][r]) for r in range(2))
    assert torch.allclose(narrow["q.lora_B.w"] @ narrow["q.lora_A.w"], kept)


def test_a_gradient_is_padded_with_zeros_in_its_place_and_keeps_its_norm() -> None:
    part = vectors(1, PART.size, 2)[0]
    padded = CUT.pad(part)
    assert torch.equal(CUT.cut(padded), part)
    assert padded.count_nonzero() == part.count_nonzero() == PART.size
    assert torch.isclose(padded.norm(), part.norm())
    assert with_rank(PART, 4) == FULL


@pytest.mark.parametrize(("rank", "found"), [(0, (8, 16.0)), (2, (2, 4.0)), (8, (8, 16.0)), (64, (8, 16.0))])
def test_a_sites_rank_is_at_most_the_runs_and_acts_at_the_same_scale(rank: int, found: tuple[int, float]) -> None:
    own = own_lora({"lora-rank": rank}, LoraConfig(rank=8, alpha=16.0))
    assert (own.rank, own.alpha) == found


def test_a_rank_that_is_no_number_is_refused() -> None:
    with pytest.raises(PolicyRefusal, match=r"node config lora-rank = 1.5: write a whole number"):
        own_lora({"lora-rank": 1.5}, LoraConfig())


@pytest.fixture
def narrow(grid: InProcessGrid) -> InProcessGrid:
    """Client 3 trains rank 1 of the run's 2."""
    grid.context(3).node_config["lora-rank"] = 1
    return grid


def test_its_gradient_is_that_of_the_part_and_zero_elsewhere(narrow: InProcessGrid, adapted: AdaptedModel) -> None:
    start = vectors(1, adapted.layout.size, 3)[0] * 0.1
    agreed = terms(adapted.layout.size, 0.0)
    sent = answer(ask(narrow, start, IdentityCodec(adapted.layout), agreed), agreed)
    for name, values in adapted.layout.unflatten(sent).items():
        own, other = (values[:1], values[1:]) if is_factor(name, "A") else (values[:, :1], values[:, 1:])
        assert other.count_nonzero() == 0
        assert own.count_nonzero() > 0


@pytest.mark.parametrize("linear", [True, False])
def test_its_code_has_the_length_and_the_bound_of_every_other(
    grid: InProcessGrid, adapted: AdaptedModel, linear: bool
) -> None:
    """The whole code is clipped after it was encoded, so no gradient, padded or not, moves the sum by more than C."""
    codec: Codec = LinearCodec.of_form(adapted.layout, 64, 1) if linear else IdentityCodec(adapted.layout)
    agreed = terms(codec.size, 0.0, clip_norm=0.5)
    codes = []
    for rank in (0, 1):
        grid.context(3).node_config["lora-rank"] = rank
        codes.append(answer(ask(grid, adapted.initial, codec, agreed), agreed))
    assert [len(code) for code in codes] == [codec.size] * 2
    assert all(float(code.norm()) <= 0.5 + 1e-6 for code in codes)
    assert all(float(code.norm()) > 0.49 for code in codes), "scaled to the bound, both"
    assert not torch.allclose(*codes)


def test_its_statistics_are_of_the_same_length(narrow: InProcessGrid, adapted: AdaptedModel) -> None:
    code = ScaleCode.of(adapted.layout, StageOneConfig())
    agreed = ReleaseTerms(code.size, code.bound, 1.0, "local", 1, normalize=False)
    codec = IdentityCodec(adapted.layout)
    assert not ask(narrow, adapted.initial, codec, agreed, STATISTICS, round=0).has_error()


def test_a_smaller_site_knows_the_whole_fresh_adapter_without_its_model() -> None:
    """Of which it makes the run's adapter from the released sums."""
    config = RunConfig.parse({})
    adapted = load_adapted_model(config.model, config.lora, 7)
    assert torch.equal(initial_adapter(adapted.layout, 7), adapted.initial)
    assert not torch.equal(initial_adapter(adapted.layout, 8), adapted.initial)
