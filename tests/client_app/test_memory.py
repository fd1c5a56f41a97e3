"""What a site tells of a failure for want of memory, which its rows take."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from client_app import encoders, rows, start
from client_app import site as site_module
from client_app.rows import in_doubt, rows_allowed
from common.model.adapted import AdaptedModel
from tests.support.instructions import refusal, terms
from workbench.simulation.in_process import InProcessGrid


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in doubt yet, and no encoder is kept."""
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
@pytest.mark.parametrize("read", [False, True])
def test_a_failure_before_the_release_is_in_doubt_whether_rows_were_read_or_not(
    own_site: InProcessGrid,
    adapted: AdaptedModel,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: type[Exception],
    read: bool,
) -> None:
    """A member has read rows, who answers cover has not: another run told them apart by whose worker a failure ends."""
    agreed = terms(64, 1.0)
    assert not read or refusal(own_site, adapted, agreed) == ""
    assert "PolicyRefusal" in refusal(own_site, adapted, terms(64, 0.01))
    assert not in_doubt(), "the site's limits are told as ever"
    monkeypatch.setattr(encoders, "_kept", [])
    monkeypatch.setattr(*STEPS[step], wanting(error))
    with rows_allowed(False):
        assert refusal(own_site, adapted, agreed)
    assert not in_doubt(), "the attempt without rows tells"
    assert refusal(own_site, adapted, agreed)
    assert in_doubt()


def test_a_header_that_zlib_has_no_memory_for_is_in_doubt(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zlib says so in an error of its own, which else tells that the bytes are damaged."""

    class Wanting:
        decompress = staticmethod(wanting(zlib.error))

    monkeypatch.setattr(zlib, "decompressobj", Wanting)
    assert "WireError" in refusal(own_site, adapted, terms(64, 1.0))
    assert in_doubt()


def test_an_attempt_without_rows_refuses_what_any_refuses(
    own_site: InProcessGrid, adapted: AdaptedModel, tmp_path: Path
) -> None:
    """A worker that died over a long row was followed by a release where the ledger had refused; it told of the row."""
    ledger = Path(str(own_site.context(3).node_config["ledger-path"]))
    own_site.context(3).node_config["max-epsilon"] = 4.0

    def told(noise: float) -> list[str]:
        with rows_allowed(True, str(noise)):
            said = [refusal(own_site, adapted, terms(64, noise))]
        with rows_allowed(False, str(noise)):
            return [*said, refusal(own_site, adapted, terms(64, noise))]

    first, second = told(0.5)
    assert "this message alone would cost" in first
    assert second == first
    assert told(8.0) == ["", ""]
    assert json.loads(ledger.read_text(encoding="utf-8").splitlines()[-1])["releases"] == 1
    ledger.rename(tmp_path / "gone")
    first, second = told(8.0)
    assert "its ledger cannot be read" in first
    assert second == first
