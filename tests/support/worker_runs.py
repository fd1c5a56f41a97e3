"""Workers of a stand-in for the app, asked as Flower asks a ClientApp, and looked at from outside."""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from flwr.app import ConfigRecord, Context, RecordDict

from client_app import resident, worker_link
from tests.support.messages import instruction

ROOT = Path(__file__).parents[2]
RUN: dict[str, Any] = {"model.name": "demo", "seed": 1, "num-server-rounds": 3}
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from client_app import worker_link
from client_app.rows import doubt, may_read_rows

LOADED = str(time.time_ns())


class Refusal(ValueError):
    pass


def asserted(number):
    raise RuntimeError("CUDA error: device-side assert triggered")


def with_device(synchronize):
    known = {"is_initialized": lambda: True, "device_count": lambda: 2, "memory_allocated": lambda number: number}
    cuda = SimpleNamespace(**known, synchronize=synchronize)
    sys.modules["torch"] = SimpleNamespace(cuda=cuda)


def app(message, context):
    context.state["count"] = MetricRecord({"n": context.state["count"]["n"] + 1 if "count" in context.state else 1})
    order = message.content["order"]["text"]
    with Path("trace").open("a") as trace:
        trace.write(order + "\\n")
    if order.startswith("raise"):
        raise Refusal("not this one" + order.removeprefix("raise"))
    if order == "die" or (order == "die once" and not Path("died").exists()):
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "die over rows" and may_read_rows():
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "die late over rows" and may_read_rows():
        time.sleep(0.9)
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "want memory":
        raise MemoryError
    if order == "doubtful":
        doubt()
        raise Refusal("not this one")
    if order == "hang over rows" and may_read_rows():
        time.sleep(60)
    if order in ("device", "lost device"):
        with_device(asserted if order == "lost device" else {1: None}.__getitem__)
    if order == "hang":
        Path("hanging").touch()
        time.sleep(60)
    if order == "large":
        worker_link.MAX_FRAME, order = 1 << 16, "x" * (1 << 17)
    if order == "slow":
        time.sleep(4)
    reply = ConfigRecord({"pid": os.getpid(), "loaded": LOADED, "text": order, "cwd": os.getcwd()})
    return Message(RecordDict({"reply": reply}), reply_to=message)
"""


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # dying meanwhile, or dead and not yet buried
            if "client_app.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def context(**node: Any) -> Context:
    return Context(run_id=7, node_id=11, node_config={"partition-id": 0, **node}, state=RecordDict(), run_config=RUN)


def ask(text: str, place: Context, ttl: float = 60.0) -> dict[str, Any]:
    content = RecordDict({"order": ConfigRecord({"text": text})})
    reply = resident.answer(instruction(content, ttl=ttl), place)
    return dict(reply.content["reply"])


def socket_file(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "runtime").glob("dr-encoder-*/*/socket")
    return found


def dial(tmp_path: Path) -> socket.socket:
    """A connection to the one worker there is, by somebody who is no ClientApp."""
    folder = os.open(socket_file(tmp_path).parent, os.O_RDONLY | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(worker_link.socket_path(folder))
    os.close(folder)
    return connection


def soon() -> float:
    return time.monotonic() + 60


def gone(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


CLIENT = """
import json, sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]
from tests.support import worker_runs as t
from pathlib import Path
t.resident._ROOT = Path(sys.argv[1])
print(t.ask(sys.argv[3], t.context(**json.loads(sys.argv[4])))['pid'], flush=True)
"""


def client_command(tmp_path: Path, order: str, **node: Any) -> list[str]:
    """A ClientApp in a process of its own."""
    return ["-c", CLIENT, str(tmp_path / "app"), str(ROOT), order, json.dumps(node)]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = soon()
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
