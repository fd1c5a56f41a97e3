"""Flower messages outside a grid."""

from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

SERVER, NODE = 1, 11


def instruction(content: RecordDict, kind: str = "train", ttl: float = 60.0) -> Message:
    """A server's message as a SuperNode hands it to a ClientApp."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, SERVER
    message = Message(content=content, dst_node_id=NODE, message_type=kind, ttl=ttl, group_id="1")
    message.metadata.__dict__["_message_id"] = "asked"
    return message
