"""A Flower ``Grid`` that runs the ClientApp in this process: for tests, experiments and tuning, without Ray.

Messages are serialized and parsed on both ways, as on a real grid, so what is measured and refused is the same.
"""

import itertools
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.common.serde_utils import metadata_from_proto, metadata_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.config import Scalar

_PARSED = 7  # contents that are kept: members of a cohort lack different rounds
_CLIENT_ERROR = 0  # Flower's "unknown" error code


class InProcessGrid(Grid):
    """``num_clients`` clients of one app, asked one after the other."""

    def __init__(self, client_app: ClientApp, run_config: dict[str, Scalar], num_clients: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # what a SuperLink would assign
        self._app = client_app
        self._counter = itertools.count(1)
        self._answers: dict[str, Message] = {}
        self._parsed: list[tuple[RecordDict, RecordDict]] = []
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": num_clients},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node in range(1, num_clients + 1)
        }

    def set_run(self, run: Run) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Run:
        """Not known outside a SuperLink."""
        raise LookupError("an in-process grid belongs to no SuperLink run")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message as the caller's own constructor makes it."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def context(self, node: int) -> Context:
        """What a client knows of itself and keeps between messages; raises ``KeyError`` for a node that is not here."""
        return self._contexts[node]

    def get_node_ids(self) -> list[int]:
        """Ids 1 to ``num_clients``."""
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The same as node descriptions."""
        return [NodeInfo(node_id=node) for node in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Ask every addressed client in turn and keep the answers; a message that nobody answers gets no id."""
        answers = [reply for reply in map(self.answer, messages) if reply is not None]
        self._answers |= {reply.metadata.reply_to_message_id: reply for reply in answers}
        return [reply.metadata.reply_to_message_id for reply in answers]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The answers to these messages, each once."""
        return [self._answers.pop(name) for name in list(message_ids) if name in self._answers]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Ask and gather at once; there is nothing to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def answer(self, message: Message) -> Message | None:
        """The client's reply; an exception in the app becomes an error reply, as on a real grid."""
        self.name(message)
        metadata = message.metadata
        own = metadata_from_proto(metadata_to_proto(metadata))
        asked = make_message(own, content=self._received(message.content))
        try:
            reply = self._app(message=asked, context=self.context(metadata.dst_node_id))
        except Exception as error:
            reply = Message(Error(_CLIENT_ERROR, f"{type(error).__name__}: {error}"), reply_to=asked)
        return message_from_proto(message_to_proto(reply))

    def name(self, message: Message) -> None:
        """Give an instruction its id, as a SuperLink does when it is sent."""
        metadata: Any = message.metadata
        metadata.__dict__["_message_id"] = f"{next(self._counter):064x}"  # as long as Flower's own

    def _received(self, content: RecordDict) -> RecordDict:
        """Content as a client gets it; what many of a cohort are sent, megabytes for some codecs, is parsed once."""
        for sent, received in self._parsed:
            if sent is content:
                return received
        received = recorddict_from_proto(recorddict_to_proto(content))
        self._parsed = [*self._parsed[-_PARSED:], (content, received)]
        return received
