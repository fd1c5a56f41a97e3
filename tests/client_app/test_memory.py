"""What a site tells of a failure for want of memory, which its rows take."""

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from client_app import encoders, rows, start
from client_app import site as site_module
from client_app.rows import in_doubt, keeps_rows, rows_allowed
from common.model.adapted import AdaptedModel
from tests.support.instructions import refusal, terms
from workbench.simulation.in_process import InProcessGrid


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was read yet, and no encoder is kept."""
    monkeypatch.setattr(rows, "_READ", Event())
    monkeypatch.setattr(rows, "_DOUBTED", Event())
    monkeypatch.setattr(encoders, "_kept", [])


def wanting(error: type[Exception]) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error("[enforce fail at alloc_cpu.cpp] not enough memory")

    return fail


STEPS = {
    "model": (site_module, "load_adapted_model"),
    "start": (start, "received_adapter"),
    "encoder": (encoders, "build_encoder"),
}


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, OSError])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_before_the_release_is_in_doubt_where_rows_are_kept_and_nowhere_else(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, step: str, error: type[Exception]
) -> None:
    agreed = terms(64, 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(*STEPS[step], wanting(error))
        assert refusal(own_site, adapted, agreed)
    assert not in_doubt(), "no row was read yet"
    assert refusal(own_site, adapted, agreed) == ""
    assert keeps_rows()
    assert "PolicyRefusal" in refusal(own_site, adapted, terms(64, 0.01))
    assert not in_doubt(), "the site's limits are told as ever"
    monkeypatch.setattr(encoders, "_kept", [])
    monkeypatch.setattr(*STEPS[step], wanting(error))
    with rows_allowed(False):
        assert refusal(own_site, adapted, agreed)
    assert not in_doubt(), "the attempt without rows tells"
    assert refusal(own_site, adapted, agreed)
    assert in_doubt()
