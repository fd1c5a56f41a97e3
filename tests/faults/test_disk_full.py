"""A disk that is full while a checkpoint is written, for real: results on a small file system of their own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from server_app.log import read_events
from tests.faults.conftest import Field, wait_for
from workbench.deployment import commands

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]  # a namespace in which anybody may mount
MOUNTS = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
pytestmark = [pytest.mark.faults, pytest.mark.skipif(MOUNTS.returncode != 0, reason=f"no mounts: {MOUNTS.stderr!r}")]
ROOM = 64 << 10  # bytes: lines of the logs fit, a checkpoint does not
RUN_SECONDS = 1200.0


def start_server_on_small_disk(field: Field, megabytes: int) -> Path:
    """Let ServerApps find a file system of this size where results go; returns where it is seen from outside."""
    federation, name = field.federation, "superlink-superexec"
    results = federation.folder / "results"
    results.mkdir(exist_ok=True)
    federation.processes.stop(name)
    command = commands.server_superexec(
        federation.address, federation.certificates.authority, federation._secret("superlink")
    )
    mount = f'mount -t tmpfs -o size={megabytes}m none "{results}" && exec "$@"'
    inside = [*UNSHARE, "sh", "-c", mount, "sh", *command]
    pid = federation.processes.start(name, inside, federation.environment(name), federation.folder / "home" / name)
    seen = Path(f"/proc/{pid}/root{results}")
    wait_for(seen.is_mount, 120, "no file system was mounted")
    return seen


def fill(folder: Path) -> Path:
    """Leave ``ROOM`` bytes on the file system of a folder; returns the file that takes the rest."""
    state = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(state.f_bavail * state.f_frsize - ROOM))
    return ballast


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room_again(field: Field) -> None:
    field.results = start_server_on_small_disk(field, 16)
    folder = field.folder("full")
    inside = field.federation.folder / "results" / "full"

    def told() -> list[tuple[str, int]]:
        return [(event["event"], event.get("round", -1)) for event in read_events(folder.events)]

    run = field.federation.submit(field.config("full", rounds=3))
    wait_for(lambda: told()[-2:] == [("checkpoint_saved", 1), ("round_started", 2)], 600, "no second round")
    ballast = fill(field.results)
    state = field.federation.wait(run, RUN_SECONDS)
    print(f"OBSERVED disk full: {state['status']}, {state['status-details']}; log ends {told()[-3:]}")
    assert state["status"] == "finished:failed"
    assert "No space left on device" in field.federation.run_log(run)
    last = read_events(folder.events)[-1]
    print(f"OBSERVED disk full: {last['error']}: {last['reason']}")
    assert last["event"] == "run_failed"
    assert "No space left on device" in last["reason"]
    assert (folder.checkpoint / "latest").read_text() == "round-000001"
    before = list(field.check_books("full", run).charges)

    ballast.unlink()
    again = field.federation.submit(field.config("full", rounds=3, resume=str(inside)))
    assert field.federation.wait(again, RUN_SECONDS)["status"] == "finished:completed", field.federation.run_log(again)
    ledger = field.check_books("full", run, again)
    assert list(ledger.charges)[: len(before)] == before
    assert [ledger.rounds_charged(number) for number in (1, 2)] == [1, 2], "what was run twice is paid for twice"
    report = json.loads((folder.path / "report.json").read_text())
    rows = [(row["round"], row["replies"]) for row in folder.read_metrics() if row["round"]]
    print(f"OBSERVED room again: {report['outcome']['stopped_because']}, rounds {rows}")
    assert rows[-1] == (report["run"]["rounds_run"], 3)
    assert (folder.path / "adapter" / "adapter_model.safetensors").exists()
