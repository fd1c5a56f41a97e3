"""Mutated messages on both sides: only typed errors, nothing half done, no memory for what was only announced."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from client_app import app as client_module
from client_app.guard import TELLABLE
from client_app.site_ledger import RECORD
from common.codecs import CONV, LinearCodec
from common.config import RunConfig
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms, check_release, release
from common.privacy.noise import RandomSource
from common.scale_code import ScaleCode
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import (
    STATISTICS,
    TRAIN,
    WireError,
    pack_instruction,
    pack_release,
    release_bytes,
    serialized_bytes,
    unpack_instruction,
)
from server_app.rounds.cohort import Instruction
from tests.support.messages import NODE, instruction, rewritten
from tests.support.mutations import mutated
from tests.support.tiny import Files, tiny_config

FEW, MANY = 500, 10_000
SPARE = 400 << 20  # bytes that a thousand hostile messages may cost; one that is believed costs more
COUNTS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.faults)]
TERMS = ReleaseTerms(64, 1.0, 1.0, "local", 4, normalize=True)
CLEAR = ReleaseTerms(64, 1.0, 0.0, "local", 4, normalize=True)


def run(count: int, strategy: st.SearchStrategy[Any], check: Any) -> None:
    """Check ``count`` examples of a strategy; the highest memory of this process may grow by ``SPARE``."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @seed(1)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def every(content: Any) -> None:
        check(content)

    every()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < SPARE


@pytest.fixture(scope="module")
def config(files: Files) -> RunConfig:
    return tiny_config(files, Path())


def valid(adapted: AdaptedModel, config: RunConfig, kind: str = TRAIN) -> RecordDict:
    size = ScaleCode.of(adapted.layout, config.stage_one).size if kind == STATISTICS else TERMS.size
    stage_one: dict[str, Any] = {"steps": 2, "learning_rate": 0.5} if kind == STATISTICS else {}
    task = Task(1, replace(TERMS, size=size), app_digest(), **stage_one)
    return pack_instruction(adapted.initial, LinearCodec.of_form(adapted.layout, 64, 1).spec(), task)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", [TRAIN, STATISTICS])
def test_a_client_meets_a_mutated_instruction_with_a_release_or_a_typed_error(
    adapted: AdaptedModel, config: RunConfig, monkeypatch: pytest.MonkeyPatch, count: int, kind: str
) -> None:
    """Training is left out; everything else is real, the encoder that the instruction describes included."""
    gradient = torch.linspace(-1, 1, adapted.layout.size)
    monkeypatch.setattr(client_module, "local_update", lambda *_: gradient)
    monkeypatch.setattr(client_module, "gradient_stream", lambda *_: iter([gradient, -gradient]))
    outcomes = {"released": 0, "refused": 0, "lacking": 0}

    def check(content: RecordDict) -> None:
        node = {"partition-id": 2, "num-partitions": 6, "max-epsilon": 15.0, "max-clip-norm": 10.0}
        place = Context(run_id=7, node_id=NODE, node_config=node, state=RecordDict(), run_config=config.flat())
        try:
            reply = client_module.app(instruction(content, kind), place)
        except TELLABLE:
            outcomes["refused"] += 1
            return
        if "lacks" in reply.content:
            outcomes["lacking"] += 1
            assert RECORD not in place.state, "nothing is charged"
            return
        outcomes["released"] += 1
        assert RECORD in place.state, "what was released was charged"
        assert serialized_bytes(reply.content) == release_bytes(unpack_instruction(content).task.terms)

    run(count, mutated(lambda: valid(adapted, config, kind)), check)
    assert min(outcomes["released"], outcomes["refused"]) > count / 50, "both outcomes are met often"


@pytest.mark.parametrize("count", COUNTS)
def test_a_server_meets_mutated_replies_with_valid_releases_or_a_reason(count: int) -> None:
    code = torch.linspace(-1, 1, 64)
    outcomes = {"accepted": 0, "refused": 0}

    def check(contents: list[RecordDict]) -> None:
        question = Instruction(3, TERMS, cohort=[1, 2, 3])
        replies = []
        for node, content in enumerate(contents, start=2):  # 2, 3, then 4, which was not asked
            reply = Message(content, reply_to=instruction(RecordDict()))
            reply.metadata.__dict__["_src_node_id"] = node
            replies.append(reply)
        sorted_out = question.sort(replies)
        assert set(sorted_out.releases) | set(sorted_out.failures) == {1, 2, 3}
        assert not set(sorted_out.releases) & set(sorted_out.failures)
        assert all(reason.isprintable() and len(reason) < 400 for reason in sorted_out.failures.values())
        for values in sorted_out.releases.values():
            check_release(values, TERMS)
        outcomes["accepted"] += len(sorted_out.releases)
        outcomes["refused"] += len(sorted_out.failures)

    make = lambda: pack_release(release(code, TERMS, RandomSource.insecure(1)), 3, TERMS)  # noqa: E731
    run(count, st.lists(mutated(make) | st.builds(make), min_size=1, max_size=3), check)
    assert min(outcomes.values()) > count / 50


def reply_of(node: int, content: RecordDict | Error) -> Message:
    reply = Message(content, reply_to=instruction(RecordDict()))
    reply.metadata.__dict__["_src_node_id"] = node
    return reply


def test_replies_that_are_doubled_stale_misshapen_or_too_large_never_reach_the_sum() -> None:
    honest = pack_release(np.ones(64, TERMS.dtype), 3, TERMS)
    spoiled = {
        1: pack_release(np.ones(64, TERMS.dtype), 2, TERMS),
        2: pack_release(np.ones(65, TERMS.dtype), 3, TERMS),
        3: pack_release(np.ones(64, np.float32), 3, CLEAR),
        4: pack_release(np.full(64, np.nan, np.float32), 3, CLEAR),
        5: pack_release(np.full(64, 10 * TERMS.largest_value, np.int32), 3, TERMS),
        6: pack_release(np.ones(64, TERMS.dtype), 3, TERMS),
    }
    spoiled[6]["release"]["head"] = b"\x09" + bytes(8)  # type: ignore[index]
    question = Instruction(3, TERMS, cohort=list(range(1, 9)))
    replies = [reply_of(node, content) for node, content in spoiled.items()]
    replies += [reply_of(7, honest), reply_of(7, honest), reply_of(9, honest)]
    found = question.sort(replies)
    assert set(found.releases) == {7}
    assert set(found.failures) == {1, 2, 3, 4, 5, 6, 8}
    assert "belongs to round 2" in found.failures[1]
    assert "schema 9" in found.failures[6]
    assert "no reply in time" in found.failures[8]


@pytest.mark.parametrize(
    "words", ["1\n[dr-encoder] round   9  accuracy  99.9%\x1b[2J", "\x1b]0;title\x07", "A" * 1_000_000]
)
def test_a_sites_own_words_are_one_short_printable_line(words: str) -> None:
    """In a field of its reply, or as the reason of an error: they are printed and kept for people to read."""
    spoiled = pack_release(np.ones(64, TERMS.dtype), 3, TERMS)
    spoiled["release"]["head"] = words  # type: ignore[index]
    failures = Instruction(3, TERMS, cohort=[1, 2]).sort([reply_of(1, spoiled), reply_of(2, Error(0, words))]).failures
    assert failures.keys() == {1, 2}
    for reason in failures.values():
        assert reason.isprintable()
        assert len(reason) < 400
    assert "its head is" in failures[1]


@pytest.mark.parametrize("surplus", ["record", "field"])
def test_a_reply_that_holds_more_than_a_release_is_refused(surplus: str) -> None:
    """What is not expected would count as its bytes, which a report publishes."""
    reply = pack_release(np.ones(64, TERMS.dtype), 3, TERMS)
    if surplus == "record":
        reply["more"] = ConfigRecord({"x": b"0" * 1000})
    else:
        reply["release"]["more"] = "x"  # type: ignore[index]
    found = Instruction(3, TERMS, cohort=[1]).sort([reply_of(1, reply)])
    assert "more than a release: more" in found.failures[1]
    assert found.bytes_up == 0


def test_an_encoder_that_cannot_be_built_is_told_as_such(adapted: AdaptedModel, config: RunConfig) -> None:
    content = rewritten(valid(adapted, config), lambda header: header.update(kind=CONV.kind))
    node = {"partition-id": 0, "num-partitions": 6, "max-epsilon": 15.0}
    place = Context(run_id=7, node_id=NODE, node_config=node, state=RecordDict(), run_config=config.flat())
    with pytest.raises(WireError, match="encoder"):
        client_module.app(instruction(content), place)
