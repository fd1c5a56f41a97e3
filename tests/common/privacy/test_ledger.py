import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.privacy.accounting import Charge, epsilon
from server_app.privacy.ledger import GENESIS, Ledger, LedgerError
from workbench.cli.command_line import plain_errors

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.jsonl"


def filled(path: Path, count: int = 3) -> Ledger:
    ledger = Ledger(path)
    for index in range(count):
        ledger.charge(Charge(1.0 + index, 0.1, 1, "code"), round_index=index, note="é")
    return ledger


def test_charges_survive_reopening_in_order(path: Path) -> None:
    ledger = filled(path)
    again = Ledger(path)
    assert again.charges == ledger.charges == tuple(Charge(1.0 + i, 0.1, 1, "code") for i in range(3))
    assert again.head == ledger.head != GENESIS


def test_a_round_charged_twice_counts_twice(path: Path) -> None:
    ledger = filled(path)
    assert [ledger.rounds_charged(index) for index in (1, 9)] == [1, 0]
    ledger.charge(Charge(2.0), round_index=1)
    assert Ledger(path).rounds_charged(1) == 2


@pytest.mark.parametrize("keep", [1, 20, -2])
def test_an_unreadable_torn_line_is_cut_off_and_the_ledger_goes_on(path: Path, keep: int) -> None:
    filled(path)
    whole = path.read_bytes()
    last = whole.splitlines()[-1]
    path.write_bytes(whole + last[:keep])
    ledger = Ledger(path)
    assert len(ledger.charges) == 3
    ledger.charge(Charge(7.0), round_index=3)
    assert Ledger(path).charges[-1] == Charge(7.0)


def test_a_line_that_lacks_only_its_newline_counts_as_spent(path: Path) -> None:
    filled(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(Ledger(path).charges) == 3
    assert path.read_bytes().endswith(b"\n")
    filled_again = Ledger(path)
    filled_again.charge(Charge(5.0), round_index=4)
    assert len(Ledger(path).charges) == 4


def change_value(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"noise_multiplier": 2.0', b'"noise_multiplier": 9.0'), lines[2]]


def rehash_value(lines: list[bytes]) -> list[bytes]:
    entry = json.loads(lines[1])
    entry["charge"]["noise_multiplier"] = 9.0
    return [lines[0], json.dumps(entry).encode(), lines[2]]


@pytest.mark.parametrize(
    "tamper",
    [
        change_value,
        rehash_value,
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [lines[0], lines[0], lines[1], lines[2]],
        lambda lines: [lines[0], b"", lines[1], lines[2]],
        lambda lines: [lines[0], b"{}", lines[2]],
        lambda lines: [lines[0], b"[" * 100_000, lines[2]],
    ],
)
def test_any_change_inside_the_file_is_noticed(path: Path, tamper: Callable[[list[bytes]], list[bytes]]) -> None:
    filled(path)
    before = path.read_bytes()
    path.write_bytes(b"\n".join(tamper(before.splitlines())) + b"\n")
    assert path.read_bytes() != before
    with pytest.raises(LedgerError, match="line"):
        Ledger(path)


def test_a_person_is_told_of_a_changed_ledger_in_a_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(path)
    path.write_bytes(path.read_bytes().replace(b'"round": 1', b'"round": 7', 1))
    with pytest.raises(SystemExit), plain_errors():
        Ledger(path)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].endswith("the chain is broken; the file was changed after it was written")


def test_lines_cut_off_the_end_show_in_a_head_that_was_noted(path: Path) -> None:
    ledger = filled(path)
    noted = ledger.head
    assert Ledger(path).contains(noted)
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:2]) + b"\n")
    assert not Ledger(path).contains(noted)
    with pytest.raises(LedgerError, match="shrunk"):
        ledger.charge(Charge(1.0), round_index=5)


def test_several_writers_keep_one_chain(path: Path) -> None:
    ledgers = [Ledger(path) for _ in range(4)]

    def write(ledger: Ledger) -> None:
        for index in range(10):
            ledger.charge(Charge(1.0), round_index=index)

    threads = [threading.Thread(target=write, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    merged = Ledger(path)
    assert len(merged.charges) == 40
    assert all(merged.rounds_charged(index) == 4 for index in range(10))


WRITER = """
import sys
from common.privacy.accounting import Charge
from server_app.privacy.ledger import Ledger
ledger = Ledger(sys.argv[1])
for index in range(10**6):
    ledger.charge(Charge(1.5, 0.1), round_index=index, note="x" * 300)
    print(index, flush=True)  # stands for the release
"""


def test_a_killed_process_never_released_more_than_the_ledger_holds(path: Path) -> None:
    for _ in range(3):
        before = len(Ledger(path).charges)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(25):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        released = 25 + len(process.stdout.read().split(b"\n")) - 1
        process.wait()
        spent = len(Ledger(path).charges) - before
        assert released <= spent <= released + 1


def test_a_failed_write_spends_nothing_and_leaves_a_usable_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(path)

    def half(descriptor: int, data: bytes) -> None:
        import os  # noqa: PLC0415

        os.write(descriptor, data[: len(data) // 2])
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("server_app.privacy.ledger._write_all", half)
        with pytest.raises(OSError, match="disk full"):
            ledger.charge(Charge(4.0), round_index=4)
    assert len(ledger.charges) == 3
    ledger.charge(Charge(5.0), round_index=5)
    assert Ledger(path).charges[-1] == Charge(5.0)


def test_epsilon_never_falls_as_the_ledger_grows(path: Path) -> None:
    ledger, spent = Ledger(path), 0.0
    for index in range(4):
        ledger.charge(Charge(2.0), round_index=index)
        now = epsilon(Ledger(path).charges, 1e-5)
        assert now > spent
        spent = now


def test_a_pipe_is_no_ledger(tmp_path: Path) -> None:
    """It was written into until nobody read it any more."""
    os.mkfifo(tmp_path / "ledger.jsonl")
    with pytest.raises(LedgerError, match="is no file"):
        Ledger(tmp_path / "ledger.jsonl")


@pytest.mark.parametrize("end", [b"", b"the only copy of a token", b'{"index": 3'])
def test_who_only_reads_a_ledger_leaves_it_as_it_is(path: Path, end: bytes) -> None:
    """A line without an end was cut off, be it of what it may."""
    written = filled(path)
    path.write_bytes(content := path.read_bytes() + end)
    path.chmod(0o400)
    read = Ledger(path, read_only=True)
    assert read.charges == written.charges
    assert path.read_bytes() == content
    with pytest.raises(OSError, match="Bad file descriptor"):
        read.charge(Charge(1.0), round_index=3)
    assert path.read_bytes() == content


def test_who_only_reads_counts_a_line_that_lacks_its_newline_and_makes_no_file(path: Path) -> None:
    written = filled(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert Ledger(path, read_only=True).charges == written.charges
    with pytest.raises(FileNotFoundError):
        Ledger(path.with_name("other.jsonl"), read_only=True)
    assert not path.with_name("other.jsonl").exists()
    os.mkfifo(path.with_name("pipe"))
    with pytest.raises(LedgerError, match="is no file"):
        Ledger(path.with_name("pipe"), read_only=True)
