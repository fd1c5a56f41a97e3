"""Flower's interface of a strategy, in terms of a round that is a value."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from server_app.rounds.round import ClosedRound, OpenRound
from server_app.rounds.state import RunState, pack_adapter, unpack_adapter


class FlowerStrategy(Strategy):
    """Unpacks what Flower hands over and calls ``configure`` and ``aggregate``; ``start`` calls these two itself."""

    state: RunState
    _opened: OpenRound | None = None  # Flower hands on nothing from ``configure_train`` to ``aggregate_train``

    @abstractmethod
    def configure(self, server_round: int, adapter: Tensor) -> OpenRound:
        """Decide who is asked what at an adapter (shape ``[n]``)."""

    @abstractmethod
    def aggregate(self, opened: OpenRound, replies: Sequence[Message]) -> ClosedRound:
        """Take the step that follows from the replies."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """``configure`` in Flower's terms."""
        self._opened = self.configure(server_round, unpack_adapter(arrays))
        return self._opened.messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """``aggregate`` in Flower's terms; ``(None, None)`` when the step is not taken."""
        if self._opened is None or self._opened.number != server_round:
            raise RuntimeError(f"aggregate_train for round {server_round} without its configure_train")
        closed = self.aggregate(self._opened, list(replies))
        return (pack_adapter(self.state.optimizer.adapter) if closed.steps else None), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """No client is asked to evaluate: a client's metric would be an unaccounted release."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate; evaluation is the server's, on public data."""
        return None
