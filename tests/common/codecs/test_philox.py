"""The codec on another device than the CPU: the same stream, the same subspace, bounded memory."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.codecs import LinearCodec
from common.codecs.philox import philox_words
from common.codecs.transform import SEED_LIMIT, Draw, permutation_of, signed_permutation
from tests.support.codec_examples import LAYOUT

KEYS = [(0, 0, 0), (1, 2, 3), (2**63 - 1, 2**63 - 2, SEED_LIMIT + 5), (2**64 - 1, 2**64 - 1, 2**64 - 1)]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("count", [1, 4, 5, 1003])
def test_the_tensor_stream_is_numpys(key: tuple[int, int, int], count: int) -> None:
    expected = Draw(*key).words(count).view(np.int64)
    found = philox_words(count, key=key[:2], high=key[2], device=torch.device("cpu"))
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("size", [1, 2, 257, 65_537])
def test_a_device_makes_the_permutation_of_the_cpu(size: int) -> None:
    draw = Draw(11, 7, 2)
    words = philox_words(size, key=(11, 7), high=2, device=torch.device("cpu"))
    for ours, theirs in zip(permutation_of(words), signed_permutation(size, draw), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_encoding_and_decoding_stay_on_the_tensors_device() -> None:
    """On ``meta`` any value that came from elsewhere would be an error; bfloat16 comes in, float32 goes out."""
    codec = LinearCodec.of_form(LAYOUT, 8, 3)
    code = codec.encode(torch.zeros(LAYOUT.size, dtype=torch.bfloat16, device="meta"))
    assert (code.device.type, code.dtype, tuple(code.shape)) == ("meta", torch.float32, (8,))
    vector = codec.decode(code)
    assert (vector.device.type, vector.dtype, tuple(vector.shape)) == ("meta", torch.float32, (LAYOUT.size,))


class Largest(TorchDispatchMode):
    """The most values that any tensor has which an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return result


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_no_step_of_the_codec_holds_more_than_the_adapter(device: str) -> None:
    """Never k x n: with k = n/2 a matrix would be n²/2; four words of a Philox block may exceed n by three."""
    codec = LinearCodec.of_form(LAYOUT, LAYOUT.size // 2, 3)
    with Largest() as largest:
        codec.decode(codec.encode(torch.ones(LAYOUT.size, device=device)))
    assert LAYOUT.size <= largest.values <= LAYOUT.size + 3


def test_a_bfloat16_gradient_is_summed_in_float32() -> None:
    """A bucket of 357 signed ones: bfloat16 could not count beyond 256, nor hold most sums of them exactly."""
    codec = LinearCodec.of_form(LAYOUT, 1, 3)
    vector = torch.ones(LAYOUT.size)
    exact = codec.encode(vector.double())
    torch.testing.assert_close(codec.encode(vector.bfloat16()).double(), exact, rtol=1e-5, atol=1e-5)
