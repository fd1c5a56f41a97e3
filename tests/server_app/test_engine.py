"""Which engine the server runs in, and that it computes nothing while Ray starts beside it."""

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from flwr.serverapp import Grid
from flwr.superlink.grid import HttpGrid, InMemoryGrid

from server_app.engine import clients_of, wait_for_engine
from workbench.simulation.in_process import InProcessGrid


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


@pytest.mark.parametrize(
    ("kind", "clients"), [(HttpGrid, "deployed"), (InMemoryGrid, "simulated"), (InProcessGrid, "simulated")]
)
def test_what_the_clients_are_is_told_by_the_grid_that_flower_gives(kind: type[Grid], clients: str) -> None:
    assert clients_of(object.__new__(kind)) == clients
