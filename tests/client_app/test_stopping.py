"""A client process that is told to end, as Flower starts it: the message is answered with an error, and only once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = """
import signal, socket, sys, threading, time
import flwr.supernode.runtime.run_clientapp as flower
from flwr.supercore.exit import register_signal_handlers
from flwr.supercore.telemetry import EventType

register_signal_handlers(event_type=EventType.FLWR_CLIENTAPP_RUN_LEAVE, exit_message="Task stopped.")
import client_app.resident

def answer(message, context):
    print("computing", flush=True)
    if message == "nothing":
        return "release"
    if message == "lost superexec":
        threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    here, there = socket.socketpair()
    here.recv(1)  # of a worker that computes: nothing comes, and no signal to another thread ends it

client_app.resident.answer = answer
import dr_encoder_client
try:
    print("answered", dr_encoder_client._answer(sys.argv[1], None), flush=True)
except Exception as error:
    print("answered", type(error).__name__, error, flush=True)
print(sys.stdin.readline().strip(), flush=True)
"""


def client(work: str) -> subprocess.Popen[str]:
    """A process as ``flwr-clientapp`` is once it has loaded this app, with such a computation."""
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, work],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_in_mid_message_becomes_an_error_that_flower_answers_with(number: signal.Signals) -> None:
    with client("long") as process:
        assert line(process) == "computing"
        process.send_signal(number)
        assert line(process).startswith("answered Stopped the client process was stopped")
        process.send_signal(number)  # systemd, an impatient operator: the error must still be handed over
        out, errors = process.communicate("handed over\n", timeout=60)
    assert (process.returncode, out) == (0, "handed over\n"), errors


def test_a_superexec_that_is_gone_is_noticed_though_the_worker_says_nothing() -> None:
    """Flower looks for it in a thread, and raises the signal there."""
    with client("lost superexec") as process:
        assert line(process) == "computing"
        assert line(process).startswith("answered Stopped the client process was stopped")
        process.communicate("", timeout=60)


def test_a_signal_behind_the_answer_does_not_keep_it_from_being_handed_over() -> None:
    with client("nothing") as process:
        assert line(process) == "computing"
        assert line(process) == "answered release"
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate("handed over\n", timeout=60)
    assert (process.returncode, out) == (0, "handed over\n"), errors
