"""Which attention a batch takes: plain in bfloat16 on a CPU while its scores fit, with the fused one's gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from client_app.local_update import local_update
from common.config import LoraConfig, TrainConfig
from common.data import TokenizedExamples
from common.demo.model import load_tokenizer
from common.model import attention
from common.model.adapted import AdaptedModel, assemble
from common.model.attention import FUSED, PLAIN
from tests.support.layouts import SIZES

LLAMA = LlamaConfig(**SIZES)


def build(config: PreTrainedConfig, dtype: torch.dtype, chosen: str | None = None) -> AdaptedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=chosen)
    return assemble(base.to(dtype), load_tokenizer(), LoraConfig(rank=2, alpha=4.0), 1, torch.device("cpu"))


def examples() -> TokenizedExamples:
    """Rows of 16, 9 and 5 tokens, the last three of each labeled."""
    ids = torch.randint(1, 300, (3, 16), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(16) < torch.tensor([[16], [9], [5]])).long()
    labels = torch.where((mask == 1) & (torch.arange(16) >= torch.tensor([[13], [6], [2]])), ids, -100)
    return TokenizedExamples(ids, mask, labels)


def gradient(model: AdaptedModel) -> Tensor:
    adapter = model.initial + 0.1  # B is not 0, so that A has a gradient too
    return local_update(model, adapter, examples(), TrainConfig(batch_size=3), 1)


def used(model: AdaptedModel) -> str:
    base: Any = model.model.get_base_model()
    return str(base.config._attn_implementation)


def test_plain_attention_has_the_gradient_of_the_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = build(LLAMA, torch.bfloat16)
    plain = gradient(quick)
    assert used(quick) == PLAIN
    monkeypatch.setattr(attention, "MOST", 0)
    fused = gradient(quick)
    assert used(quick) == FUSED
    exact = gradient(build(LLAMA, torch.float32))
    assert (plain - exact).norm() < 0.02 * exact.norm()
    assert (fused - exact).norm() < 0.02 * exact.norm()


def test_long_batches_keep_the_fused_kernel() -> None:
    model = build(LLAMA, torch.bfloat16)
    attention.choose_attention(model.model, 8, 100)
    assert used(model) == PLAIN
    attention.choose_attention(model.model, 8, 2048)
    assert used(model) == FUSED
    assert attention.score_bytes(LLAMA, 8, 2048) == 8 * 2 * 4 * 8 * 2048**2 > attention.MOST


@pytest.mark.parametrize(
    ("config", "dtype", "came", "kept"),
    [
        (LLAMA, torch.float32, None, FUSED),
        (LLAMA, torch.bfloat16, PLAIN, PLAIN),
    ],
    ids=["float32", "came-plain"],
)
def test_the_attention_of_others_is_left_alone(
    config: PreTrainedConfig, dtype: torch.dtype, came: str | None, kept: str
) -> None:
    model = build(config, dtype, came)
    for length in (8, 4096):
        attention.choose_attention(model.model, 8, length)
        assert used(model) == kept
