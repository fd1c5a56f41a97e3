"""A site whose ledger is full works as one with room: how long it takes tells nobody what others have asked."""

import json
from pathlib import Path

import pytest

from client_app import answer as answering
from common.model.adapted import AdaptedModel
from common.wire.records import EVALUATE, STATISTICS, TRAIN
from tests.support.own_site import ROWS, SiteUnderTest
from tests.support.tiny import write_jsonl


@pytest.mark.parametrize("kind", [TRAIN, STATISTICS, EVALUATE])
def test_a_full_ledger_shows_neither_in_the_work_nor_in_a_line_of_the_file(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Else whoever may submit finds out for nothing, by questions of more and less noise, how much room there is."""
    node = {"max-epsilon": 20.0, "max-releases": 2, "ledger-path": str(tmp_path / "spent.jsonl")}
    site = SiteUnderTest(adapted, tmp_path, node)
    site.fresh()
    worked: list[str] = []
    released = answering._released
    monkeypatch.setattr(answering, "_released", lambda *args: worked.append("rows") or released(*args))
    data = write_jsonl(tmp_path / "own.jsonl", ROWS)
    for number in range(1, 5):
        assert site.ask(data, kind).kind == "release"
        assert len(worked) == number
        lines = site.ledger.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 + number
        assert json.loads(lines[-1])["releases"] == min(number, 2)
