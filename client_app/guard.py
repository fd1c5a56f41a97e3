"""What a failing client may say: an exception's text travels to the server, so it must not speak of private data.

Before the charge nothing has seen the data, so what fails there tells nothing of them; still, only what speaks of the
instruction and of the site's limits is told. What fails after it is answered with noise (``client_app.answer``).
Rows of earlier answers take memory, though, so for want of it anything may fail: such a failure, and a refusal that was
made of one, is not told by the worker that it befell. That ends, as the system would end it (``client_app.worker``),
and another finds out without the rows.
"""

import functools
import logging
import zlib
from collections.abc import Callable

from flwr.app import Context, Message

from client_app.node_config import PolicyRefusal, brings_own_data
from client_app.rows import doubt
from client_app.run_state import enter_run
from client_app.site import CodeMismatch, ModelUnavailable
from common.wire.records import WireError

Handler = Callable[[Message, Context], Message]
TELLABLE = (WireError, PolicyRefusal, CodeMismatch, ModelUnavailable)
_FOR_WANT_OF_MEMORY = (MemoryError, OSError, RuntimeError, zlib.error)  # the last also of what is damaged
_OF_THE_MESSAGE = (*TELLABLE, RecursionError)  # the last: one that is nested too deep, whoever gets it


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
        except TELLABLE as refusal:
            if brings_own_data(context.node_config) and _wants_for_something(refusal):
                doubt()
            raise
        except Exception:
            if not brings_own_data(context.node_config):
                raise
            doubt()
            logging.getLogger("flwr").exception("the instruction could not be handled")
        raise ClientFailure("this site could not handle the instruction; why is in its own log")

    return guarding


def _wants_for_something(refusal: BaseException) -> bool:
    """Whether a refusal was made of what the system, torch or zlib raises where there is no memory left."""
    cause = refusal.__cause__ or refusal.__context__
    while cause is not None:
        if isinstance(cause, _FOR_WANT_OF_MEMORY) and not isinstance(cause, _OF_THE_MESSAGE):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
