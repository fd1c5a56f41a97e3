"""Sums of a server that lies: a site says what is wrong before it charges or reads, and neither hangs nor grows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict

from client_app import answer as answer_module
from client_app import start as start_module
from client_app.app import app
from client_app.site import Site
from common.codecs import LinearCodec
from common.codecs.base import Codec
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.trajectory import RoundSum, StepTerms, adapter_digest
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import LACKS, RELEASE, Start, Sums, WireError, pack_instruction
from common.wire.sums import Entry, pack_sum
from tests.support.messages import NODE, instruction
from tests.support.tiny import TINY, Files

STEP = StepTerms(unit=1e-3, denominator=4.0, factor=1.0, optimizer="sgd", learning_rate=0.1)
SIZE = 64


class Asked:
    """A client, and a server that sends it any start; the client notes when it charges."""

    def __init__(self, adapted: AdaptedModel, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        self.adapted, self.codec = adapted, LinearCodec.of_form(adapted.layout, SIZE, 1)
        run = {**TINY, "data.name": str(files.private)}
        self.context = Context(
            run_id=7, node_id=NODE, node_config={"partition-id": 0, "num-partitions": 6}, state=RecordDict(),
            run_config=run, series_id=0,
        )  # fmt: skip
        self.charged: list[int] = []
        monkeypatch.setattr(start_module, "_last", [])
        original = Site.charge

        def charge(site: Site, task: Task, *rest: Any, **options: Any) -> bool:
            self.charged.append(task.round)
            return original(site, task, *rest, **options)

        monkeypatch.setattr(answer_module.Site, "charge", charge)

    def answer(self, start: Start, number: int, terms: StepTerms = STEP, codec: Codec | None = None) -> Any:
        codec = codec or self.codec
        release = ReleaseTerms(codec.size, 1.0, 1.0, "local", 4, normalize=True)
        task = Task(number, release, app_digest(), step_terms=terms)
        return app(instruction(pack_instruction(start, codec.spec(), task)), self.context)

    def refusal(self, *rest: Any) -> str:
        """What is said of a start; nothing was charged by then."""
        with pytest.raises(WireError) as refused:
            self.answer(*rest)
        assert not self.charged
        return str(refused.value)

    def adapter_of(self, sums: list[RoundSum], terms: StepTerms = STEP) -> torch.Tensor:
        optimizer = terms.start(self.adapted.initial)
        terms.advance(optimizer, sums, lambda _: self.codec)
        return optimizer.adapter


@pytest.fixture
def asked(adapted: AdaptedModel, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    return Asked(adapted, files, monkeypatch)


def of(number: int, values: Any, step: int = 1) -> RoundSum:
    return RoundSum(number, step, np.asarray(values))


def sums(found: list[RoundSum], digest: bytes, base: int = 0) -> Sums:
    return Sums(base, tuple(pack_sum(one) for one in found), digest)


def test_sums_of_an_honest_server_are_answered(asked: Asked) -> None:
    honest = [of(1, np.arange(SIZE) - 30), of(2, np.arange(SIZE))]
    reply = asked.answer(sums(honest, adapter_digest(asked.adapter_of(honest))), 3)
    assert RELEASE in reply.content
    assert asked.charged == [3]


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_sums_that_make_no_finite_adapter_are_refused(asked: Asked, value: float) -> None:
    """The digest fits: the server has made the same adapter."""
    wrong = [RoundSum(number, 0, np.full(SIZE, value, dtype=np.float32)) for number in (1, 2)]
    loud = StepTerms(unit=1.0, denominator=1e-3, factor=1e3, optimizer="sgd", learning_rate=1e3)
    digest = adapter_digest(asked.adapter_of(wrong, loud))
    assert "NaN or infinities" in asked.refusal(sums(wrong, digest), 3, loud)


@pytest.mark.parametrize(
    ("entries", "base", "said"),
    [
        ([pack_sum(of(number, [0])) for number in range(1, 4098)], 0, "4097 sums at once, more than 4096"),
        ([Entry(1, bytes([0x82, 0x80, 1, 1, 1]) + bytes(1 << 14))], 0, "for 64 values"),
        ([pack_sum(of(2, np.zeros(SIZE, int)))], 2, "a sum of round 2 after those up to round 2"),
        ([pack_sum(of(9, np.zeros(SIZE, int)))], 0, "sums for round 9 that are of later ones"),
        ([pack_sum(of(1, np.zeros(SIZE - 10, int)))], 0, "other than 64 values"),
        ([Entry(1, b"\x03\x01\x01")], 0, "cut off"),
    ],
    ids=["too many", "too long", "known already", "of a later round", "of another size", "cut off"],
)
def test_what_no_honest_server_sends_is_refused_in_a_line(
    asked: Asked, entries: list[Entry], base: int, said: str
) -> None:
    found = asked.refusal(Sums(base, tuple(entries), bytes(8)), 9)
    assert said in found
    assert "\n" not in found


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_state_of_another_size_is_refused(asked: Asked, optimizer: str) -> None:
    terms = StepTerms(**{**STEP.__dict__, "optimizer": optimizer})
    assert "the adapter's state" in asked.refusal(torch.zeros(asked.adapted.layout.size + 5), 4, terms)


def test_a_base_that_was_never_sent_and_a_wrong_digest_are_lacks_and_charge_nothing(asked: Asked) -> None:
    honest = [of(1, np.arange(SIZE))]
    assert LACKS in asked.answer(sums(honest, bytes(8)), 2).content
    assert LACKS in asked.answer(sums([], bytes(8), base=5), 6).content
    assert not asked.charged


def test_a_failed_rebuild_leaves_nothing_for_the_next_one(asked: Asked) -> None:
    """The first of two sums is applied, the second is garbage; an honest instruction then finds no half a step."""
    honest = [of(1, np.arange(SIZE)), of(2, np.arange(SIZE)[::-1].copy())]
    garbage = Sums(0, (pack_sum(honest[0]), pack_sum(of(2, [1, 2, 3]))), bytes(8))
    assert "other than 64 values" in asked.refusal(garbage, 3)
    reply = asked.answer(sums(honest, adapter_digest(asked.adapter_of(honest))), 3)
    assert RELEASE in reply.content
