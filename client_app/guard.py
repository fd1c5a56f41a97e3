"""What a failing client may say: an exception's text travels to the server, so it must not speak of private data.

Before the charge nothing has seen the data, so what fails there tells nothing of them; still, only what speaks of the
instruction and of the site's limits is told. What fails after it is answered with noise (``client_app.answer``).
"""

import functools
import logging
from collections.abc import Callable

from flwr.app import Context, Message

from client_app.node_config import PolicyRefusal, brings_own_data
from client_app.run_state import enter_run
from client_app.site import CodeMismatch, ModelUnavailable
from common.wire.records import WireError

Handler = Callable[[Message, Context], Message]
TELLABLE = (WireError, PolicyRefusal, CodeMismatch, ModelUnavailable)


class ClientFailure(RuntimeError):
    """A site with its own data could not handle the instruction; why is in its own log."""


def guarded(handler: Handler) -> Handler:
    """A handler that finds its own run's state alone, and hides why it failed on a site with its own data.

    A simulated client (no ``data-path``) tells all.
    """

    @functools.wraps(handler)
    def guarding(message: Message, context: Context) -> Message:
        try:
            enter_run(message, context)
            return handler(message, context)
        except TELLABLE:
            raise
        except Exception:
            if not brings_own_data(context.node_config):
                raise
            logging.getLogger("flwr").exception("the instruction could not be handled")
        raise ClientFailure("this site could not handle the instruction; why is in its own log")

    return guarding
