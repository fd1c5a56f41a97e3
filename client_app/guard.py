"""What a failing client may say: an exception's text travels to the server, so it must not speak of private data.

That it failed may tell of the data as well (a long example that does not fit into memory), so where a site handles its
own data a failed computation is answered like any other: with noise, around nothing.
"""

import functools
import logging
import math
from collections.abc import Callable

import torch
from flwr.app import Context, Message
from torch import Tensor

from client_app.policy import PolicyRefusal
from client_app.site import CodeMismatch
from common.wire import WireError

Handler = Callable[[Message, Context], Message]
TELLABLE = (WireError, PolicyRefusal, CodeMismatch)  # they speak of the instruction and the site's limits only


class ClientFailure(RuntimeError):
    """The client failed while it handled its own data; why is in its own log."""


def or_nothing(compute: Callable[[], Tensor], size: int, context: Context) -> Tensor:
    """The vector that ``compute`` makes of private data; NaN (shape ``[size]``) where it fails on a site's own.

    ``release`` turns NaN into the zero code, the zero-out neighbour. A simulated client raises.
    """
    try:
        return compute()
    except Exception:
        if not _own_data(context):
            raise
        logging.getLogger("flwr").exception("failed on own data; the release is of nothing but noise")
    return torch.full((size,), math.nan)


def _own_data(context: Context) -> bool:
    return bool(context.node_config.get("data-path"))


def guarded(handler: Handler) -> Handler:
    """Hide why a handler failed on a site's own data (``data-path``); a simulated client holds none and tells all."""

    @functools.wraps(handler)
    def guarding(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except TELLABLE:
            raise
        except Exception:
            if not _own_data(context):
                raise
            logging.getLogger("flwr").exception("the client failed on its own data")
        raise ClientFailure("the client failed on its own data; why is in its own log")

    return guarding
