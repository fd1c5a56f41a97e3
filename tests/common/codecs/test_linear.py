"""The seeded linear codec: projection, bias, forms, and its memory."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor

from common.adapter import Layout
from common.codecs import GradientStatistics, LinearCodec, LinearEncoder
from common.codecs.allocation import FORMS, Block, apportion
from tests.support.codec_examples import LAYOUT, SEEDED, STATISTICS, linear
from tests.support.false_alarms import beyond, statistical

seeded = pytest.mark.parametrize("codec", SEEDED.values(), ids=SEEDED.keys())


def rows_of(codec: LinearCodec) -> Tensor:
    """The implied k x n matrix in float64."""
    bias = codec.decode(torch.zeros(codec.size, dtype=torch.float64))
    return torch.stack([codec.decode(unit) - bias for unit in torch.eye(codec.size, dtype=torch.float64)])


@seeded
def test_rows_are_orthonormal_across_blocks(codec: LinearCodec) -> None:
    rows = rows_of(codec)
    assert (rows @ rows.T - torch.eye(codec.size)).abs().max() < 1e-10


@seeded
def test_encoding_is_the_adjoint_of_decoding_around_the_mean(codec: LinearCodec) -> None:
    x = torch.randn(codec.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = LAYOUT.expand(STATISTICS.mean).double()
    assert torch.allclose(codec.encode(x), rows_of(codec) @ (x - mean), atol=1e-12)


@seeded
def test_decoding_what_was_encoded_is_a_projection(codec: LinearCodec) -> None:
    c = torch.randn(codec.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(codec.encode(codec.decode(c)), c, atol=1e-12)


@seeded
def test_a_code_is_never_longer_than_the_centered_vector(codec: LinearCodec) -> None:
    x = torch.randn(codec.dim, generator=torch.Generator().manual_seed(0))
    assert codec.encode(x).norm() <= (x - LAYOUT.expand(STATISTICS.mean)).norm() * (1 + 1e-6)


def test_a_full_code_loses_nothing() -> None:
    codec = linear(size=LAYOUT.size)
    x = torch.randn(LAYOUT.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(codec.decode(codec.encode(x)), x, atol=1e-12)


def test_the_spec_is_a_few_bytes_per_tensor() -> None:
    assert all(codec.spec().nbytes <= 28 * len(LAYOUT.tensors) for codec in SEEDED.values())


def shares(form: str, size: int) -> dict[int, int]:
    return {block.offset: block.size for block in FORMS[form](LAYOUT, STATISTICS, size)}


def test_forms_share_the_dimensions_as_documented() -> None:
    """LAYOUT: sizes 64, 64, 96, 96, 37 at offsets 0, 64, 128, 224, 320; deviations 1, 2, .5, 4, 0."""
    assert shares("global", 23) == {0: 23}
    assert shares("per-tensor", 23) == {0: 5, 64: 5, 128: 5, 224: 4, 320: 4}
    # 64·1 : 64·4 : 96·¼ : 96·16 = 64 : 256 : 24 : 1536, of 1880; times 23: .78, 3.13, .29, 18.79
    assert shares("variance-proportional", 23) == {0: 1, 64: 3, 224: 19}
    assert shares("optimum", 23) == {224: 23}
    assert shares("optimum", 170) == {0: 10, 64: 64, 224: 96}


def test_a_full_tensor_spills_over() -> None:
    assert shares("per-tensor", 200) == {0: 41, 64: 41, 128: 41, 224: 40, 320: 37}
    assert shares("variance-proportional", 180) == {0: 16, 64: 62, 128: 6, 224: 96}
    assert shares("per-tensor", LAYOUT.size) == {p.offset: p.size for p in LAYOUT.tensors}


def test_apportioning_always_adds_up_within_capacity() -> None:
    generator = torch.Generator().manual_seed(0)
    for total in range(1, 60):
        weights = torch.rand(7, dtype=torch.float64, generator=generator) ** 4
        capacities = torch.randint(1, 20, (7,), generator=generator)
        wanted = min(total, int(capacities.sum()))
        found = torch.tensor(apportion(weights, capacities, wanted))
        assert found.sum() == wanted
        assert (found >= 0).all()
        assert (found <= capacities).all()


def test_optimum_minimizes_the_expected_reconstruction_error() -> None:
    """Against every way to share 6 dimensions among small tensors; the energy captured is Σ k_j s_j²."""
    layout = Layout.of({"a": (3,), "b": (2,), "c": (4,), "d": (3,)})
    statistics = GradientStatistics(torch.zeros(4), torch.tensor([1.0, 3.0, 2.0, 2.5]))
    found = sum(
        block.size * statistics.std[[piece.offset for piece in layout.tensors].index(block.offset)] ** 2
        for block in FORMS["optimum"](layout, statistics, 6)
    )
    ways = [k for k in itertools.product(range(4), range(3), range(5), range(4)) if sum(k) == 6]
    assert found == max(sum(torch.tensor(k) * statistics.std**2) for k in ways)


@pytest.mark.parametrize("form", FORMS)
@statistical(beyond(5), "seeded")
def test_energy_captured_from_synthetic_gradients_is_what_theory_says(form: str) -> None:
    """Mean of ‖Q(x - m)‖² over 400 x ~ N(m, s) is Σ k_j s_j²: 5 standard errors, 6e-7.

    The subspace is fixed; for ``global`` its own draw adds a relative deviation of √(2/k) times the spread of
    s², so the expectation is taken from the implied matrix there.
    """
    codec = linear(form)
    mean, std = LAYOUT.expand(STATISTICS.mean), LAYOUT.expand(STATISTICS.std)
    expected = (rows_of(codec).square() * std.double().square()).sum().item()
    if form != "global":
        blocks = FORMS[form](LAYOUT, STATISTICS, codec.size)
        stds = {piece.offset: s.item() for piece, s in zip(LAYOUT.tensors, STATISTICS.std, strict=True)}
        assert expected == pytest.approx(sum(block.size * stds[block.offset] ** 2 for block in blocks))
    generator = torch.Generator().manual_seed(8)
    noise = torch.randn(400, LAYOUT.size, generator=generator)
    energies = torch.stack([codec.encode(mean + std * row).square().sum() for row in noise])
    assert abs(energies.mean() - expected) < 5 * energies.std() / sqrt(len(energies))


def test_optimum_captures_more_than_global_when_deviations_differ() -> None:
    """Expected energies per dimension: the largest s², 16, against Σ n_j s_j² / n = 5.3."""
    std = LAYOUT.expand(STATISTICS.std)
    noise = torch.randn(200, LAYOUT.size, generator=torch.Generator().manual_seed(8)) * std
    mean = LAYOUT.expand(STATISTICS.mean)
    captured = {
        form: sum(linear(form).encode(mean + row).square().sum().item() for row in noise)
        for form in ("global", "optimum")
    }
    assert captured["optimum"] > 2 * captured["global"]


def of_blocks(*blocks: Block) -> LinearEncoder:
    return LinearEncoder(LAYOUT, blocks=blocks, mean=torch.zeros(5), seed=0)


BAD: dict[str, Callable[[], object]] = {
    r"codec.form = 'best' is unknown; allowed: global, per-tensor": lambda: linear("best"),
    r"codec.size = 0 is out of range; allowed: 1 to 357": lambda: linear(size=0),
    r"codec.size = 358 is out of range; allowed: 1 to 357": lambda: linear(size=358),
    r"codec.size = 4 is too small for codec.form = 'per-tensor'; allowed: at least 5": lambda: linear(
        "per-tensor", size=4
    ),
    r"codec.size = 340 exceeds the 320 values": lambda: linear("variance-proportional", size=340),
    r"codec.seed = -1 is out of range": lambda: linear(seed=-1),
    r"epoch = -1 is out of range": lambda: linear().redraw(-1),
    r"statistics of 2 tensors, but the adapter has 5": lambda: LinearCodec.of_form(
        LAYOUT, 8, 0, statistics=GradientStatistics(torch.zeros(2), torch.ones(2))
    ),
    r"mean \(2,\), std \(3,\)": lambda: GradientStatistics(torch.zeros(2), torch.ones(3)),
    r"not finite": lambda: GradientStatistics(torch.tensor([float("nan")]), torch.ones(1)),
    r"negative standard deviation": lambda: GradientStatistics(torch.zeros(1), -torch.ones(1)),
    r"does not fit an adapter of 357 values": lambda: of_blocks(Block(300, 100, 4)),
    r"Block\(offset=5.* after offset 10": lambda: of_blocks(Block(0, 10, 4), Block(5, 10, 4)),
    r"size=11.*does not fit": lambda: of_blocks(Block(0, 10, 11)),
    r"at least one block": of_blocks,
    r"6 blocks of a linear codec, for an adapter of 5 tensors": lambda: of_blocks(
        *(Block(place, 1, 1) for place in range(6))
    ),
}


@pytest.mark.parametrize(("message", "call"), BAD.items(), ids=range(len(BAD)))
def test_bad_input_is_refused_saying_what_is_allowed(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


PEAK = """
import resource, sys, torch
from common.adapter import Layout
from common.codecs import LinearCodec
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small = LinearCodec.of_form(Layout.of({"a": (4096,)}), 64, 0)
small.decode(small.encode(torch.randn(4096)))
n, k = 2**22, 4096
codec = LinearCodec.of_form(Layout.of({"a": (n,)}), k, 0)
x = torch.randn(n)
before = peak()
code = codec.encode(x)
decoded = codec.decode(code)
print((peak() - before) / n, (code @ code / (x @ decoded)).item())
"""


def test_memory_is_a_few_dozen_bytes_per_value_whatever_the_code_size() -> None:
    """A dense matrix would take 4·k = 16,384 bytes per value, 64 GiB in all."""
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    bytes_per_value, symmetry = map(float, run.stdout.split())
    assert bytes_per_value < 80
    assert symmetry == pytest.approx(1, abs=1e-4)
