"""A round's clients computed together: one pass over the model for a cohort instead of one for each client.

Everything else of a client is the shipped path: its checks, charges, encoder, clip and noise. What differs is rounding.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import cast

import torch
from flwr.app import Message
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from client_app.answer import Asked
from client_app.app import app, gradient_of, make_app
from client_app.holdings import Holdings
from client_app.local_update import first_batch
from client_app.secure import lands_heads
from client_app.site import Site
from client_app.start import started
from common.adapter import RankCut
from common.config import ConfigError, RunConfig, Scalar
from common.data import IGNORED, TokenizedExamples
from common.model.adapted import AdaptedModel, load_adapted_model
from common.wire.assignment import Task
from common.wire.records import TRAIN, LacksAssignment, read_head, unpack_instruction
from common.wire.secure import secure_task
from workbench.simulation.group_gradients import are_linear, group_gradients
from workbench.simulation.in_process import InProcessGrid

_SMALL = 10_000_000  # parameters; the products of a larger one keep a core busy for each client by itself


def grid_for(config: RunConfig, clients: int) -> InProcessGrid:
    """The clients of a run in this process: computed together where that is the same and pays, else one by one."""
    if _one_batch(config) and _can_join(config):
        return CohortGrid(config.flat(), clients)
    return InProcessGrid(app, config.flat(), clients)


def _one_batch(config: RunConfig) -> bool:
    """Whether a client's update is the gradient of one batch at the received adapter."""
    train = config.train
    return (train.local_steps, train.local_epochs, train.gradient_accumulation) == (1, 0, 1)


def _can_join(config: RunConfig) -> bool:
    """Whether the gradients of several clients can be had in one pass, of a model so small that a pass is quicker."""
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    small = sum(parameter.numel() for parameter in adapted.model.parameters()) <= _SMALL
    return small and are_linear(adapted.layout) and not _drops_out(adapted)


def _drops_out(adapted: AdaptedModel) -> bool:
    """Whether a forward pass in training mode draws anything at random: the base model may, whatever LoRA does."""
    layers = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in adapted.model.modules())
    base = cast("PreTrainedModel", adapted.model.get_base_model())
    settings = base.config.to_dict().items()
    return layers or any(value for key, value in settings if "drop" in key and isinstance(value, int | float))


class CohortGrid(InProcessGrid):
    """An ``InProcessGrid`` that has the gradients of all train messages of a push before its clients ask for them.

    Only for what ``grid_for`` finds to be one batch of one step without dropout.
    """

    def __init__(self, run_config: dict[str, Scalar], num_clients: int) -> None:
        super().__init__(make_app(self._gradient, coin=self._coin), run_config, num_clients)
        self._found: dict[int, Tensor] = {}
        self._coins: dict[int, bool] = {}
        self._clients: dict[int, tuple[Site, TokenizedExamples]] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Compute the gradients together, then ask every client in turn as ever."""
        messages = list(messages)
        self._found = self._gradients([message for message in messages if message.metadata.message_type == TRAIN])
        names = super().push_messages(messages)
        self._found, self._coins = {}, {}
        return names

    def _coin(self, site: Site, round_index: int, rate: float) -> bool:
        """A client's coin, which has fallen already where its gradient was to be found."""
        known = self._coins.pop(site.partition, None)
        return lands_heads(site, round_index, rate) if known is None else known

    def _gradient(self, asked: Asked, examples: TokenizedExamples) -> Tensor:
        """What was computed for a client, or what it computes by itself."""
        known = self._found.pop(asked.site.partition, None)
        return gradient_of(asked, examples) if known is None else known

    def _gradients(self, messages: list[Message]) -> dict[int, Tensor]:
        """Each client's gradient by its partition; whom one pass cannot do is left to the shipped path."""
        if not messages:
            return {}
        found: dict[int, Tensor] = {}
        alike: dict[int, list[tuple[Site, TokenizedExamples]]] = {}
        task, adapter, rate = self._start(messages)
        if task is None or adapter is None:
            return {}
        for message in messages:
            with suppress(ConfigError):  # it has no examples, and will say so itself
                site, examples = self._client(message.metadata.dst_node_id, task.share)
                self._coins[site.partition] = lands_heads(site, task.round, rate)
                if not self._coins[site.partition]:
                    continue
                batch = first_batch(examples, site.config.train, site.seed(task.round))
                alike.setdefault(len(batch), []).append((site, batch))
        for group in alike.values():
            adapted = group[0][0].model()
            gradients = group_gradients(adapted, adapter, *_stacked([batch for _, batch in group]))
            found |= {site.partition: gradient for (site, _), gradient in zip(group, gradients, strict=True)}
        return found

    def _start(self, messages: list[Message]) -> tuple[Task | None, Tensor | None, float]:
        """What a round asks, its adapter (shape ``[n]``) and how often a client's own coin is to land heads.

        As its first client that lacks nothing has them.
        """
        for message in messages:
            context = self.context(message.metadata.dst_node_id)
            holdings = Holdings(context.state, simulated=True)
            with suppress(LacksAssignment):
                instruction = unpack_instruction(message.content, holdings.assignment)
                masked = secure_task(message.content, instruction.task.terms, raw=instruction.task.raw)
                site = Site.of(context)
                adapted, name = site.model(), read_head(message.content).assignment
                cut = RankCut(adapted.layout, adapted.layout)
                found = started(instruction, name, adapted, cut, site.config.seed, holdings)
                if found is not None:
                    return instruction.task, found.adapter, masked.rate if masked else 1.0
        return None, None, 1.0

    def _client(self, node: int, share: float) -> tuple[Site, TokenizedExamples]:
        """A client and its examples of the rounds, found once for a run."""
        if node not in self._clients:
            site = Site.of(self.context(node))
            self._clients[node] = (site, site.examples(site.model(), share, "rounds"))
        return self._clients[node]


def _stacked(batches: list[TokenizedExamples]) -> tuple[Tensor, Tensor]:
    """Tokens and labels of batches of one size, each ``[groups, sequences, length]``."""
    width = max(batch.input_ids.shape[1] for batch in batches)
    tokens = torch.stack([pad(batch.input_ids, (0, width - batch.input_ids.shape[1])) for batch in batches])
    labels = [pad(batch.labels, (0, width - batch.labels.shape[1]), value=IGNORED) for batch in batches]
    return tokens, torch.stack(labels)
