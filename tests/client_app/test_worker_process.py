"""The worker's process: what another one is started for, and with whom and when it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from client_app import resident
from client_app.worker_link import WorkerError
from tests.support.worker_runs import CLIENT, RUN, ask, client_command, context, gone, socket_file, wait_until


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_killed_between_two_messages_is_replaced() -> None:
    place = context()
    before = ask("one", place)
    os.kill(before["pid"], signal.SIGKILL)
    assert ask("two", place)["pid"] != before["pid"]


@pytest.mark.usefixtures("_stand_in")
def test_where_memory_is_short_the_worker_is_killed_and_never_who_waits_for_it() -> None:
    """A long row in the worker, and a large message in the process of one message, left a site silent."""
    worker = ask("one", context())["pid"]
    assert Path(f"/proc/{worker}/oom_score_adj").read_text(encoding="ascii") == "1000\n"
    assert Path("/proc/self/oom_score_adj").read_text(encoding="ascii") != "1000\n"


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_whose_accelerator_is_beyond_use_makes_room_for_another() -> None:
    """One run's encoder with a token that the model does not have would make every later answer, of any run, noise."""
    place = context()
    first = ask("device", place)
    assert ask("lost device", place)["pid"] == first["pid"]
    assert ask("two", place)["pid"] != first["pid"]
    assert place.state["count"]["n"] == 3


@pytest.mark.usefixtures("_stand_in")
def test_another_model_or_changed_data_means_another_worker_but_another_round_count_does_not(tmp_path: Path) -> None:
    data = tmp_path / "site.jsonl"
    data.write_text("one\n")
    place = context(**{"data-path": str(data)})
    first = ask("one", place)
    place.run_config = RUN | {"num-server-rounds": 9}
    assert ask("two", place)["pid"] == first["pid"]
    data.write_text("one\ntwo\n")
    second = ask("three", place)
    assert second["pid"] != first["pid"]
    assert gone(first["pid"]), "its memory is free before the next one loads"
    data.chmod(0o400)  # rows that could not be read are not read again else
    third = ask("three more", place)
    assert third["pid"] != second["pid"]
    place.run_config = RUN | {"model.name": "other"}
    assert ask("four", place)["pid"] != third["pid"]


@pytest.mark.usefixtures("_stand_in")
def test_a_model_folder_that_is_upgraded_in_place_means_another_worker(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("weights 1")
    place = context()
    place.run_config = RUN | {"model.name": str(weights.parent)}
    first = ask("one", place)
    (weights.parent / "checkpoint-1").mkdir()
    assert ask("two", place)["pid"] == first["pid"], "nothing is loaded from a sub-folder"
    weights.write_text("weights 2")
    assert ask("three", place)["pid"] != first["pid"]


@pytest.mark.usefixtures("_stand_in")
def test_so_does_a_model_file_that_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("weights 1")
    place = context()
    place.run_config = RUN | {"model.name": str(file)}
    first = ask("one", place)
    assert ask("two", place)["pid"] == first["pid"]
    file.write_text("weights 2")
    assert ask("three", place)["pid"] != first["pid"]


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_that_has_lost_its_socket_is_ended_before_another_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_EXIT_SECONDS", 0.5)
    first = ask("one", context())
    socket_file(tmp_path).unlink()
    assert ask("two", context())["pid"] != first["pid"]
    assert gone(first["pid"])


ORPHANING = """
import os, signal, subprocess
from client_app import resident
start = subprocess.Popen
class Killed(start):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
resident.subprocess.Popen = Killed
"""


@pytest.mark.usefixtures("_stand_in")
def test_a_number_left_by_an_earlier_worker_never_gets_another_process_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ClientApp dies as soon as it has started a worker; in the file there was the number of one long gone."""
    monkeypatch.setattr(resident, "_EXIT_SECONDS", 0.0)
    pid = ask("one", context())["pid"]
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    life = socket_file(tmp_path).parent / "worker"
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            life.write_text(str(bystander.pid))
            command = client_command(tmp_path, "one")
            command[1] = CLIENT.replace("print(", ORPHANING + "print(")
            assert subprocess.run([sys.executable, *command], check=False).returncode == -signal.SIGKILL
            socket_file(tmp_path).unlink()
            assert ask("two", context())["text"] == "two"
            assert bystander.poll() is None
        finally:
            bystander.kill()


HOLDER = """
import fcntl, os, sys, time
life = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(life, fcntl.LOCK_EX)
os.write(life, sys.argv[2].encode())
print("held", flush=True)
time.sleep(1.0)
if sys.argv[3] == "writes":
    os.pwrite(life, str(os.getpid()).encode(), 0)
time.sleep(600)
"""


@pytest.mark.parametrize("told", ["nothing", "a bystander", "itself, in the end"])
def test_a_worker_is_killed_only_when_it_has_said_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(resident, "_KILL_SECONDS", 0.5 if told != "itself, in the end" else 30.0)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with subprocess.Popen(["sleep", "600"]) as bystander:
        number = str(bystander.pid) if told == "a bystander" else ""
        writes = "writes" if told == "itself, in the end" else ""
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "worker"), number, writes]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout
                holder.stdout.readline()
                if writes:
                    resident.end_worker(folder, 0.0)
                    assert holder.wait(10) == -signal.SIGKILL
                else:
                    with pytest.raises(WorkerError, match="could not be ended"):
                        resident.end_worker(folder, 0.0)
                    assert holder.poll() is None
                assert bystander.poll() is None
            finally:
                holder.kill()
                bystander.kill()
                os.close(folder)


@pytest.mark.usefixtures("_stand_in")
def test_each_node_has_a_worker_of_its_own() -> None:
    one, other = context(), context()
    other.node_id = 12
    assert ask("one", one)["pid"] != ask("one", other)["pid"]


@pytest.mark.usefixtures("_stand_in")
def test_an_idle_worker_ends_and_takes_its_socket_along(tmp_path: Path) -> None:
    place = context(**{"worker-idle-seconds": 0.5})
    pid = ask("one", place)["pid"]
    path = socket_file(tmp_path)
    assert gone(pid)
    assert not path.exists()
    assert ask("two", place)["pid"] != pid


def wait_until_it_hangs(tmp_path: Path) -> int:
    """The process id of the one worker, which is in the middle of a message."""
    wait_until((tmp_path / "work" / "hanging").exists)
    return int((socket_file(tmp_path).parent / "worker").read_text())


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_does_not_compute_on_for_a_client_that_was_killed(tmp_path: Path) -> None:
    """It would keep the next one waiting for a result that nobody gets."""
    place = context()
    pid = ask("one", place)["pid"]
    with subprocess.Popen([sys.executable, *client_command(tmp_path, "hang")]) as client:
        assert wait_until_it_hangs(tmp_path) == pid
        client.kill()
        assert gone(pid, 5.0)
    assert ask("two", place)["pid"] != pid


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_in_the_middle_of_a_message_ends_with_superexec(tmp_path: Path) -> None:
    """Though the ClientApp that waits for it, which is frozen here, has not noticed yet."""
    parent = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, *sys.argv[1:]]); "
        "print(child.pid, flush=True); child.wait()"
    )
    command = [sys.executable, "-c", parent, *client_command(tmp_path, "hang")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as superexec:
        assert superexec.stdout
        client = psutil.Process(int(superexec.stdout.readline()))
        pid = wait_until_it_hangs(tmp_path)
        client.suspend()
        try:
            superexec.kill()
            superexec.wait()
            assert gone(pid, 5.0)
        finally:
            client.kill()


@pytest.mark.usefixtures("_stand_in")
def test_a_worker_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    """Here a grandchild: the child stands for Flower's superexec, its own child for the ClientApp."""
    parent = "import subprocess, sys, time; subprocess.run([sys.executable, *sys.argv[1:]]); time.sleep(60)"
    command = [sys.executable, "-c", parent, *client_command(tmp_path, "one")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as superexec:
        assert superexec.stdout
        pid = int(superexec.stdout.readline())
        assert psutil.pid_exists(pid)
        superexec.kill()
        superexec.wait()
        assert gone(pid)
    assert not list((tmp_path / "runtime").glob("dr-encoder-*/*/socket"))


@pytest.mark.parametrize("value", [-1.0, True, "soon", float("nan"), float("inf"), 1e18, 604801])
def test_a_bad_idle_time_is_refused(value: object) -> None:
    with pytest.raises(WorkerError, match="worker-idle-seconds"):
        ask("one", context(**{"worker-idle-seconds": value}))
