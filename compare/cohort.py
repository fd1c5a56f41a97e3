"""A round's clients computed together: one pass over the model for a cohort instead of one for each client.

Everything else of a client is the shipped path: its checks, charges, encoder, clip and noise. What differs is rounding.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast
from unittest.mock import patch

import torch
from flwr.app import Message
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from client_app import app as shipped
from client_app.local_update import first_batch, local_update
from client_app.site import Site
from common.config import RunConfig, TrainConfig
from common.data import IGNORED, TokenisedExamples
from common.group_gradients import group_gradients
from common.models import AdaptedModel
from common.wire import TRAIN, received_adapter, unpack_instruction
from server_app.in_process import InProcessGrid


def can_be_joined(config: RunConfig) -> bool:
    """Whether a client's update is the gradient of one batch at the received adapter, and nothing random enters."""
    train = config.train
    return (train.local_steps, train.local_epochs, train.gradient_accumulation) == (1, 0, 1) and not config.lora.dropout


class CohortGrid(InProcessGrid):
    """An ``InProcessGrid`` that has the gradients of all train messages of a push before its clients ask for them."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Compute the gradients together, then ask every client in turn as ever."""
        messages = list(messages)
        with _given(_gradients([message for message in messages if message.metadata.message_type == TRAIN], self)):
            return super().push_messages(messages)

    def site(self, message: Message) -> Site:
        """The client that a message is for."""
        return Site.of(self._contexts[message.metadata.dst_node_id])


def _gradients(messages: list[Message], grid: CohortGrid) -> dict[int, Tensor]:
    """Each client's gradient by the seed of its step; whom it cannot do is left to the shipped path."""
    asked = [(message, grid.site(message)) for message in messages]
    asked = [(message, site) for message, site in asked if len(site.split()[1])]
    if not asked or _drops_out(asked[0][1].adapted):
        return {}
    message, site = asked[0]
    sent, _, task = unpack_instruction(message.content)
    seeds = [site.seed(task.round) for _, site in asked]
    batches = [
        first_batch(site.split()[1], site.config.train, seed) for (_, site), seed in zip(asked, seeds, strict=True)
    ]
    found: dict[int, Tensor] = {}
    adapter = received_adapter(sent, site.adapted.layout)
    for size in {len(batch) for batch in batches}:
        alike = [index for index, batch in enumerate(batches) if len(batch) == size]
        tokens, spans = _stacked([batches[index] for index in alike])
        gradients = group_gradients(site.adapted, adapter, tokens, spans)
        found |= {seeds[index]: gradient for index, gradient in zip(alike, gradients, strict=True)}
    return found


def _drops_out(adapted: AdaptedModel) -> bool:
    """Whether a forward pass in training mode draws anything at random: the base model may, whatever LoRA does."""
    layers = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in adapted.model.modules())
    base = cast("PreTrainedModel", adapted.model.get_base_model())
    settings = base.config.to_dict().items()
    return layers or any(value for key, value in settings if "drop" in key and isinstance(value, int | float))


def _stacked(batches: list[TokenisedExamples]) -> tuple[Tensor, Tensor]:
    """Batches of one size as ``[groups, sequences, length]``, and where each label begins and ends."""
    width = max(batch.input_ids.shape[1] for batch in batches)
    tokens = torch.stack([pad(batch.input_ids, (0, width - batch.input_ids.shape[1])) for batch in batches])
    labelled = torch.stack([pad(batch.labels != IGNORED, (0, width - batch.labels.shape[1])) for batch in batches])
    begins = labelled.int().argmax(-1)
    return tokens, torch.stack((begins, begins + labelled.sum(-1)), -1)


@contextmanager
def _given(gradients: dict[int, Tensor]) -> Iterator[None]:
    """Let the client's handler find its gradient here; one that is not here is computed by it as ever."""

    def found(
        adapted: AdaptedModel, adapter: Tensor, examples: TokenisedExamples, train: TrainConfig, seed: int
    ) -> Tensor:
        known = gradients.pop(seed, None)
        return local_update(adapted, adapter, examples, train, seed) if known is None else known

    with patch.object(shipped, "local_update", found):
        yield
