"""The server computes nothing while Ray starts beside it."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from server_app.engine import wait_for_engine


def engine(monkeypatch: pytest.MonkeyPatch, program: str, *answers: bool) -> Callable[[], list[bool]]:
    """Ray that gives these answers when asked whether it is there; what it has not been asked for yet."""
    left = list(answers)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: left.pop(0)))
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{program}", "--insecure"])
    return lambda: left


def test_a_simulation_waits_until_ray_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    left = engine(monkeypatch, "flwr-simulation", False, False, True, True)
    wait_for_engine()
    assert left() == [True]


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, "flwr-simulation", *[False] * 100)
    wait_for_engine(patience=0.3)


@pytest.mark.parametrize("program", ["flwr-serverapp", "pytest"])
def test_a_deployed_server_has_no_ray_to_wait_for(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    left = engine(monkeypatch, program, False)
    wait_for_engine()
    assert left() == [False]
