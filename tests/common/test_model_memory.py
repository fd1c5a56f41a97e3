"""What one client's rows leave in the model that all clients of a process share: nothing that another would see."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from client_app.held_out import held_out_scores
from client_app.local_update import gradient_stream, local_update
from common.config import LoraConfig, TrainConfig
from common.data import TokenizedExamples
from common.demo.model import load_tokenizer
from common.model.adapted import AdaptedModel, assemble
from common.model.memory import ModelMemory

ORIGINAL, WORDS = 16, 64
TRAIN = TrainConfig(batch_size=2)


@pytest.fixture(scope="module")
def stretching() -> AdaptedModel:
    """A model whose rotary embedding stretches to the longest text so far."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=ORIGINAL, rope_parameters=rope,
        )
    )  # fmt: skip
    return assemble(base, load_tokenizer(), LoraConfig(rank=2), 1, torch.device("cpu"))


def rows(length: int) -> TokenizedExamples:
    ids = torch.randint(0, WORDS, (2, length), generator=torch.Generator().manual_seed(length))
    return TokenizedExamples(ids, torch.ones_like(ids), ids.clone())


def test_what_a_client_sends_does_not_hang_on_another_ones_longest_row(stretching: AdaptedModel) -> None:
    def sent() -> list[object]:
        own = (stretching, stretching.initial, rows(ORIGINAL + 4), TRAIN)
        stream = torch.stack(list(gradient_stream(*own, 1)))
        return [local_update(*own, 1).tolist(), stream.tolist(), held_out_scores(*own)]

    alone = sent()
    local_update(stretching, stretching.initial, rows(3 * ORIGINAL), TRAIN, 1)
    assert sent() == alone


def test_buffers_and_plain_attributes_come_back_however_they_were_changed() -> None:
    norm = nn.BatchNorm1d(2)
    memory = ModelMemory(norm)
    norm(torch.ones(3, 2) + torch.arange(3)[:, None])
    norm.eps = 1.0
    vars(norm)["longest"] = 40
    norm.running_var = torch.zeros(2)
    memory.forget()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert (norm.running_mean.tolist(), norm.running_var.tolist(), norm.eps) == ([0, 0], [1, 1], 1e-5)
    assert not hasattr(norm, "longest")
    assert norm.training


def test_dropout_is_drawn_anew_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer on another GPU would go on where the client before has left off, which tells the sizes of its rows."""
    from client_app import local_update as module  # noqa: PLC0415

    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    module._seed_dropout(torch.device("cuda", 0), 7)
    assert seeded == [7]
