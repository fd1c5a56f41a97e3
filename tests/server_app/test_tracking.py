"""Progress of long work: who is told, when, and how."""

import io
import time
from contextlib import redirect_stderr

import pytest

from server_app.results.tracking import Step, phase, reporting, tracked, watched


def test_every_item_comes_and_every_step_is_told() -> None:
    steps: list[Step] = []
    with reporting(steps.append), phase("base model"):
        assert list(tracked(["a", "b"], "rows")) == ["a", "b"]
    assert [(step.what, step.done, step.total) for step in steps] == [("base model, rows", n, 2) for n in (1, 2)]
    assert list(tracked(["c"], "rows")) == ["c"], "and nobody need listen"
    assert len(steps) == 2


def test_a_step_tells_the_time_left() -> None:
    assert str(Step("rows", 1_000, 4_000, 20.0)) == "rows: 1,000 of 4,000, about 1:00 left"


def test_long_work_is_told_by_lines() -> None:
    said: list[str] = []
    with watched("the run", said.append, first=0.05, every=0.05):
        time.sleep(0.12)
        for _ in tracked(range(3), "rows"):
            time.sleep(0.12)
    assert said[0] == "the run: 0:00 so far"
    assert any(line.startswith("rows: 1 of 3, about 0:00 left") for line in said)


def test_hidden_chatter_of_a_library_does_not_hide_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("the run", first=0.05, every=0.05), redirect_stderr(io.StringIO()) as hidden:
        time.sleep(0.2)
    assert "the run: 0:00 so far" in capsys.readouterr().err
    assert hidden.getvalue() == ""


def test_short_work_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("the run"):
        list(tracked(range(3), "rows"))
    assert capsys.readouterr() == ("", "")


def test_what_fails_within_still_fails_and_leaves_no_teller() -> None:
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), watched("the run", said.append, first=0.05, every=0.05):
        _ = 1 / 0
    time.sleep(0.1)
    assert said == []


def test_a_teller_whom_nobody_reads_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def say(line: str) -> None:
        tried.append(line)
        raise BrokenPipeError

    monkeypatch.setattr("threading.excepthook", lambda args: pytest.fail(f"a traceback of {args.exc_type}"))
    with watched("the run", say, first=0.05, every=0.05):
        time.sleep(0.2)
    assert tried == ["the run: 0:00 so far"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with watched("the run"):
        for _ in tracked(range(3), "rows"):
            time.sleep(0.2)
    assert "rows" in capsys.readouterr().err
