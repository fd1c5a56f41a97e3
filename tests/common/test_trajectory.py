"""The adapter as a function of released sums."""

import numpy as np
import pytest
import torch

from common.adapter import Layout
from common.codecs import IdentityCodec, LinearCodec
from common.codecs.statistics import GradientStatistics
from common.trajectory import RoundSum, StepTerms, adapter_digest, epoch_of
from common.wire.sums import pack_sum, unpack_sum
from tests.support.tiny import vectors

LAYOUT = Layout.of({"a": (10, 20), "b": (301,)})
START = vectors(1, 501, 0)[0]
TOTALS = [np.rint(1e4 * row.numpy()).astype(np.int64) for row in vectors(6, 48, 1)]


def terms(optimizer: str = "sgd") -> StepTerms:
    return StepTerms(unit=1e-4, denominator=7.0, factor=3.2, optimizer=optimizer, learning_rate=0.3)


def test_one_step_is_equation_5_decoded_and_equation_6() -> None:
    codec, summed = LinearCodec.of_form(LAYOUT, 48, 7), RoundSum(1, 3, TOTALS[0])
    optimizer = terms().start(START)
    terms().advance(optimizer, [summed], lambda _: codec)
    mean = torch.from_numpy(TOTALS[0] * 3e-4 / 7.0)
    expected = START.double() - 0.3 * 3.2 * codec.decode(mean)
    torch.testing.assert_close(optimizer.adapter.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["global", "per-tensor", "variance-proportional", "optimum"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_that_have_traveled_give_the_same_bits_in_any_portions(form: str, optimizer: str, threads: int) -> None:
    """The server steps round by round; a client that was away steps six times at once, on other threads."""
    statistics = GradientStatistics(torch.zeros(2), torch.tensor([1.0, 2.0]))
    codec = LinearCodec.of_form(LAYOUT, 48, 7, form=form, statistics=statistics)
    sums = [RoundSum.of(number, total) for number, total in enumerate(TOTALS, start=1)]
    server = terms(optimizer).start(START)
    for summed in sums:
        terms(optimizer).advance(server, [summed], lambda number: codec.redraw(epoch_of(number, 2)))
    traveled = [unpack_sum(pack_sum(summed), 48) for summed in sums]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        client = terms(optimizer).start(START)
        terms(optimizer).advance(client, traveled, lambda number: codec.redraw(epoch_of(number, 2)))
    finally:
        torch.set_num_threads(before)
    assert adapter_digest(client.adapter) == adapter_digest(server.adapter)
    assert not torch.equal(client.adapter, START)


@pytest.mark.parametrize("form", ["global", "per-tensor"])
def test_the_decoder_of_a_seeded_codec_rounds_every_value_once(form: str) -> None:
    """In float32 as in float64 and rounded: there is no sum of products whose order could differ between machines."""
    codec, code = LinearCodec.of_form(LAYOUT, 48, 7, form=form), vectors(1, 48, 3)[0]
    assert codec.seeded
    exact = codec.decode(code.double())
    assert (codec.decode(code).double() - exact).abs().max() <= exact.abs().max() * 2.0**-23
    assert not IdentityCodec(LAYOUT).seeded


def test_a_digest_tells_the_smallest_difference() -> None:
    other = START.clone()
    other[-1] = torch.nextafter(other[-1], torch.tensor(9e9))
    assert len(adapter_digest(START)) == 8
    assert adapter_digest(START) == adapter_digest(START.clone())
    assert adapter_digest(other) != adapter_digest(START)


@pytest.mark.parametrize("wrong", [{"unit": 0.0}, {"denominator": -1.0}, {"factor": float("nan")}])
def test_terms_that_no_server_has_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        StepTerms(**{**terms().__dict__, **wrong})
