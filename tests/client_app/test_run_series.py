"""Two runs in one series, whose state and configuration Flower shares: neither sees what the other has left.

Flower's Control API lets any submitter start a run in the series of somebody else's.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from client_app import app as client_module
from client_app import seat
from client_app.node_config import PolicyRefusal
from client_app.site_ledger import SiteLedger
from common.codecs import LinearCodec
from common.config import ConfigError
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import LACKS, WireError, pack_instruction
from server_app.app import check_configuration
from tests.support.messages import NODE, instruction
from tests.support.secure_client import TERMS, Client, told
from tests.support.tiny import TINY, ledger_in, spent_in, write_jsonl

FIRST, SECOND = 7, 2**64 - 8
ALONE = ReleaseTerms(64, 1.0, 3.0, "local", 4, normalize=True)


class Site:
    """A site with its own data in a series of runs: one state, and the configuration of whichever came last."""

    def __init__(self, adapted: AdaptedModel, data: Path) -> None:
        self.adapted, self.ledger, self.state = adapted, ledger_in(data.parent), RecordDict()
        self.node = {"data-path": str(data), "max-epsilon": 20.0, "ledger-path": self.ledger}

    def ask(self, run: int, configured: int | None = None, *, known: bool = False, sampled: bool = True) -> RecordDict:
        codec = LinearCodec.of_form(self.adapted.layout, 64, 1)
        task = Task(1, ALONE, app_digest(), sampled=sampled)
        content = pack_instruction(self.adapted.initial, codec.spec(), task, known=known)
        context: Any = Context(
            run_id=run if configured is None else configured, node_id=NODE, node_config=dict(self.node),
            state=self.state, run_config=dict(TINY),
        )  # fmt: skip
        return client_module.app(instruction(content, run=run), context).content

    @property
    def spent(self) -> SiteLedger:
        return spent_in(self.ledger)


@pytest.fixture
def site(adapted: AdaptedModel, tmp_path: Path) -> Site:
    rows = [{"prompt": f"the sum of {n} and 3 is", "completion": f" {n + 3}"} for n in range(4)]
    return Site(adapted, write_jsonl(tmp_path / "own.jsonl", rows))


@pytest.mark.parametrize("asked", [True, False], ids=["in the first run's cohort", "never asked"])
def test_another_run_cannot_find_out_whether_the_first_one_has_asked_a_site(site: Site, asked: bool) -> None:
    """By naming the first one's assignment, as cover, which is charged to nobody."""
    if asked:
        assert "release" in site.ask(FIRST)
    spent = site.spent
    assert set(site.ask(SECOND, known=True, sampled=False)) == {LACKS}
    assert site.spent == spent


def test_what_a_site_keeps_of_a_run_and_has_spent_stays_in_that_run(site: Site) -> None:
    site.ask(FIRST)
    assert "release" in site.ask(FIRST, known=True)
    assert "release" in site.ask(SECOND)
    assert "release" in site.ask(SECOND, known=True)
    assert site.spent.releases == 4, "of both, for one ledger counts all"


def test_an_instruction_is_never_answered_under_another_runs_configuration(site: Site) -> None:
    site.ask(FIRST)
    spent = site.spent
    with pytest.raises(PolicyRefusal, match="another run was started in this run's series"):
        site.ask(FIRST, configured=SECOND)
    assert site.spent == spent
    with pytest.raises(ConfigError, match="the configuration of run 8"):
        check_configuration(7, 8)
    check_configuration(7, 7)


def test_another_run_has_no_masked_answer_made_again_and_none_under_the_first_ones_secrets(
    own: Callable[..., Client],
) -> None:
    client = own()
    client.answers(told(1))
    before = client.context.state[seat.RECORD]
    client.context.run_id = SECOND
    for ask in (lambda: client.repairs(1, {0, 1, 2, 3}), lambda: client.answers(told(2), replace(TERMS))):
        with pytest.raises(WireError, match="has no pair secrets for this"):
            ask()
    assert before not in client.context.state.values()
