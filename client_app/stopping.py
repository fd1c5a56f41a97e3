"""A ClientApp that is stopped in mid-message answers, with an error, before it ends.

Flower 1.41 ends such a process without a reply, and its SuperNode then waits for that reply for ever: it is "online"
and takes no message any more (``_push_messages`` in ``flwr/supernode/start_client_internal.py``). An exception, though,
Flower answers with an error and an orderly end. So a signal becomes one, from the moment on that this app is loaded;
what comes before, about a second, only a restart of the SuperNode cures (docs/reliability.md).
"""

import functools
import signal
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from types import FrameType

from flwr.app import Context, Message

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)  # those that Flower ends at; a lost superexec is a SIGINT
_LOOK_SECONDS = 0.2
Answer = Callable[[Message, Context], Message]


class Stopped(RuntimeError):
    """The process was told to end. The text is the same whatever it was doing, so it tells nothing of data."""


def stoppable(answer: Answer) -> Answer:
    """``answer`` for a process of one message: from now on the first signal to end is raised as ``Stopped``.

    To be called in the main thread. Later signals are dropped, and so are those that come when the answer is there:
    Flower ends the process by itself once it has handed the answer over. ``answer`` runs in a thread of its own: Flower
    notices in a thread that its superexec is gone, and such a signal waits until the main thread does something.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)

    @functools.wraps(answer)
    def answered(message: Message, context: Context) -> Message:
        given: Future[Message] = Future()
        thread = Thread(target=_give, args=(given, answer, message, context), daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_LOOK_SECONDS)
        finally:
            _go_on_to_the_end()
        return given.result()

    return answered


def _give(given: "Future[Message]", answer: Answer, message: Message, context: Context) -> None:
    try:
        given.set_result(answer(message, context))
    except BaseException as error:
        given.set_exception(error)  # raised in the main thread


def _stop(_number: int, _frame: FrameType | None) -> None:
    _go_on_to_the_end()
    raise Stopped("the client process was stopped, with its superexec or by itself; nothing was released")


def _go_on_to_the_end() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
