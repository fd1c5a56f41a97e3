"""Logits at labeled places: those of the whole, with the same gradient, whatever a model does to them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    PhiConfig,
    PreTrainedConfig,
)

from client_app.local_update import local_update
from common.config import LoraConfig, TrainConfig
from common.data import IGNORED, TokenizedExamples
from common.demo.model import load_tokenizer
from common.model.adapted import AdaptedModel, assemble
from common.model.label_logits import logits_at, output_layer
from tests.support.layouts import SIZES, config_of
from tests.support.tiny import vectors
from workbench.simulation.group_gradients import group_gradients

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": config_of("llama"),
    "gpt2": config_of("gpt2"),
    "qwen2": config_of("qwen2"),
    "gemma": GemmaConfig(**SIZES),
    "gemma2": Gemma2Config(**SIZES, final_logit_softcapping=0.5),
    "gemma3": Gemma3TextConfig(**SIZES),
    "granite": GraniteConfig(**SIZES, logits_scaling=7.0),
    "cohere": CohereConfig(**SIZES, logit_scale=0.3),
    "phi": PhiConfig(**SIZES),  # a bias on the output layer
}


def build(config: PreTrainedConfig, targets: str = "auto") -> AdaptedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        base = AutoModelForCausalLM.from_config(config)
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for parameter in base.parameters():
        parameter.data.mul_(1.5)  # logits far enough from zero for a cap to bend them
        if parameter.dim() == 1:
            parameter.data.add_(0.1)  # a bias that is not zero
    lora = LoraConfig(rank=2, alpha=4.0, target_modules=targets)
    return assemble(base, load_tokenizer(), lora, 1, torch.device("cpu"))


def examples() -> TokenizedExamples:
    """Rows of 12, 7 and 9 tokens with 2, 5 and 1 label tokens."""
    ids = torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(2))
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (length, count) in enumerate([(12, 2), (7, 5), (9, 1)]):
        mask[row, :length] = 1
        labels[row, length - count : length] = ids[row, length - count : length]
    return TokenizedExamples(ids * mask, mask, labels)


def own_gradient(adapted: AdaptedModel, point: Tensor, tokens: TokenizedExamples) -> Tensor:
    """By transformers' own loss on all logits."""
    adapted.load(point)
    adapted.training_mode(True)
    inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "labels": tokens.labels}
    adapted.model(**inputs).loss.backward()
    return adapted.gradient()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_step_has_the_gradient_of_the_models_own_loss(name: str) -> None:
    adapted, tokens = build(CONFIGS[name]), examples()
    point = adapted.initial + 0.1 * vectors(1, adapted.layout.size, 3)[0]
    entered: list[int] = []
    head = output_layer(adapted.model)
    assert head is not None
    expected = own_gradient(adapted, point, tokens)
    handle = head.register_forward_hook(lambda _, given, __: entered.append(given[0].shape[:-1].numel()))
    found = local_update(adapted, point, tokens, TrainConfig(batch_size=3), seed=1)
    handle.remove()
    assert entered == [2 + 5 + 1], "the output layer sees the labeled places alone"
    assert expected.norm() > 1e-3
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi"])
def test_gradients_of_groups_are_the_same(name: str) -> None:
    adapted, tokens = build(CONFIGS[name]), examples()
    point = adapted.initial + 0.1 * vectors(1, adapted.layout.size, 3)[0]
    found = group_gradients(adapted, point, tokens.input_ids[None], tokens.labels[None])[0]
    expected = own_gradient(adapted, point, tokens)
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("targets", ["q_proj,lm_head", "lm_head"])
def test_an_adapter_on_the_output_layer_has_its_gradient_too(targets: str) -> None:
    adapted, tokens = build(CONFIGS["llama"], targets), examples()
    point = adapted.initial + 0.1 * vectors(1, adapted.layout.size, 3)[0]
    expected = own_gradient(adapted, point, tokens)
    found = local_update(adapted, point, tokens, TrainConfig(batch_size=3), seed=1)
    assert (found - expected).norm() < 1e-6 * expected.norm()
    grouped = group_gradients(adapted, point, tokens.input_ids[None], tokens.labels[None])[0]
    assert (grouped - expected).norm() < 1e-6 * expected.norm()


class Odd(nn.Module):
    """A model that is not as most are: ``kind`` says how its logits come about."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.words = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9)

    def get_base_model(self) -> nn.Module:
        return self

    def get_output_embeddings(self) -> nn.Module | None:
        return None if self.kind == "no head" else self.head

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        hidden = self.words(input_ids)
        if self.kind == "flat":
            return SimpleNamespace(logits=self.head(hidden.flatten(0, 1)).view(*input_ids.shape, -1))
        if self.kind == "shape":  # reads the number of places after the output layer
            logits = self.head(hidden)
            return SimpleNamespace(logits=logits.mean(1, keepdim=True).expand(-1, 5, -1) + logits[:, :1])
        return SimpleNamespace(logits=self.head(hidden))


@pytest.mark.parametrize("kind", ["plain", "no head", "flat", "shape"])
def test_a_model_that_does_not_allow_it_gets_all_of_its_logits(kind: str) -> None:
    torch.manual_seed(0)
    model: Any = Odd(kind)
    ids = torch.randint(0, 9, (2, 5))
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([4, 0, 3])
    found = logits_at(model, ids, torch.ones_like(ids), rows, columns)
    torch.testing.assert_close(found, model(ids).logits[rows, columns])
    assert not model.head._forward_pre_hooks, "nothing is left behind"
