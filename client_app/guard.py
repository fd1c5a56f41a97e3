"""What a failing client may say: an exception's text travels to the server, so it must not speak of private data."""

import functools
import logging
from collections.abc import Callable

from flwr.app import Context, Message

from client_app.policy import PolicyRefusal
from client_app.site import CodeMismatch
from common.wire import WireError

Handler = Callable[[Message, Context], Message]
TELLABLE = (WireError, PolicyRefusal, CodeMismatch)  # they speak of the instruction and the site's limits only


class ClientFailure(RuntimeError):
    """The client failed while it handled its own data; why is in its own log."""


def guarded(handler: Handler) -> Handler:
    """Hide why a handler failed on a site's own data (``data-path``); a simulated client holds none and tells all."""

    @functools.wraps(handler)
    def guarding(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except TELLABLE:
            raise
        except Exception:
            if not context.node_config.get("data-path"):
                raise
            logging.getLogger("flwr").exception("the client failed on its own data")
        raise ClientFailure("the client failed on its own data; why is in its own log")

    return guarding
