"""The order in which a client answers, for every kind of message: check, charge, then read rows, compute and release.

Up to the charge everything is a function of the instructions so far, of the run's configuration and of the site's own,
and may be refused, or answered with a word that the client lacks what an instruction left out. After it there is one
kind of answer: a release of the agreed length. At a site with its own data whatever goes wrong then (an unreadable
file, too little memory, a full ledger) makes it the zero code with the same noise, which is the zero-out neighbor of
what the guarantee speaks of.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from client_app.holdings import Holdings
from client_app.node_config import PolicyRefusal, brings_own_data
from client_app.rows import may_read_rows
from client_app.seat import Seat, keep_again
from client_app.secure import lands_heads, remember
from client_app.site import Part, Site
from client_app.start import started
from common.adapter import RankCut
from common.codecs.base import EncoderSpec
from common.config import TrainConfig
from common.data import TokenizedExamples
from common.model.adapted import AdaptedModel
from common.model.denormals import no_denormals
from common.privacy.mechanism import MOST_LEGS, ReleaseTerms, release
from common.privacy.noise import RandomSource
from common.secure.masks import masked
from common.wire.assignment import Task
from common.wire.records import (
    LacksAssignment,
    WireError,
    is_cover,
    pack_lack,
    pack_release,
    read_head,
    sent_assignment,
    unpack_instruction,
)
from common.wire.secure import NEEDS_KEYS, SecureTask, bits_of, pack_masked, secure_task


@dataclass(frozen=True)
class Asked:
    """One accepted instruction: who is asked for what, at which adapter, with which local training.

    ``adapter`` has the rank of ``adapted``, which may be below the run's; ``cut`` goes from one to the other.
    """

    site: Site
    task: Task
    train: TrainConfig
    adapted: AdaptedModel
    adapter: Tensor
    cut: RankCut
    spec: EncoderSpec

    @property
    def seed(self) -> int:
        """Seed of the batches and dropout of this answer."""
        return self.site.seed(self.task.round)


Compute = Callable[[TokenizedExamples, RandomSource], np.ndarray]
"""Private examples and the noise's randomness to the values that leave, shape as of ``mechanism.release``."""


NoiseSource = Callable[[Site, int], RandomSource]
"""A client and a round to the randomness of its noise there."""


Coin = Callable[[Site, int, float], bool]
"""A client, a round and a rate to whether its code is in that round's sum (``secure``)."""


def own_noise(site: Site, round_index: int) -> RandomSource:
    """What the site itself draws from."""
    return site.noise_source(round_index)


def own_coin(site: Site, round_index: int, rate: float) -> bool:
    """The client's own."""
    return lands_heads(site, round_index, rate)


@dataclass(frozen=True)
class Kind:
    """What sets one message type apart.

    Attributes:
        task: the task as this kind of message takes it.
        train: the local training that a task asks for, from the run's.
        plan: judges shapes without any row (``WireError``) and says how the release is made.
        part: of the client's examples, which it uses; those of stage 1 may be asked after in the clear where the site
            allows that.
        vectors: vectors of the adapter's size that the release may hold.
        noise: what its noise is drawn from; another source only in an experiment in one process.
        coin: what says whether its code is in; another only where all clients are in one process.

    """

    train: Callable[[Task, TrainConfig], TrainConfig]
    plan: Callable[[Asked], Compute]
    part: Part
    task: Callable[[Task], Task] = lambda task: task
    vectors: Callable[[Task], int] = lambda _: 1
    noise: NoiseSource = own_noise
    coin: Coin = own_coin


def answer(message: Message, context: Context, kind: Kind) -> Message:
    """A release, or that something is lacking, or an exception that says what is refused.

    See the module for what may depend on what.
    """
    holdings = Holdings(context.state, simulated=not brings_own_data(context.node_config))
    head = read_head(message.content)
    try:
        instruction = unpack_instruction(message.content, holdings.assignment, sampled=not is_cover(message))
    except LacksAssignment:
        return Message(pack_lack(head.round), reply_to=message)
    task = kind.task(instruction.task)
    if task.raw and kind.part != "stage one":
        raise WireError("a gradient is never asked for in the clear: only stage 1 may be raw")
    secure = secure_task(message.content, task.terms, raw=task.raw)
    site = Site.of(context)
    train = kind.train(task, site.config.train)
    site.check(task, train, secure)
    seat = _entered(context, task, secure) if secure else None
    adapted = site.model()
    cut = site.cut(adapted)
    _check_size(task.terms.size, kind.vectors(task), cut.full.size)
    start = started(instruction, head.assignment, adapted, cut, site.config.seed, holdings)
    if start is None:
        return Message(pack_lack(head.round), reply_to=message)
    asked = Asked(site, task, train, adapted, cut.cut(start.adapter), cut, instruction.encoder)
    compute = kind.plan(asked)
    keeps = holdings.keep(head.assignment, sent_assignment(message.content), start.trail, max(0, task.round - 1))
    if secure is not None and seat is not None:
        return Message(_masked(asked, compute, kind, context, secure, seat, keeps), reply_to=message)
    counts = site.charge(task, context.state, spend=task.sampled)  # the last that may refuse: now comes a release
    values = _values(asked, compute, kind, counts=counts, works=task.sampled)
    return Message(pack_release(values, task.round, task.terms, keeps), reply_to=message)


def _entered(context: Context, task: Task, secure: SecureTask) -> Seat:
    seat = Seat.of(context.state)
    if seat is None:
        raise WireError(f"this client {NEEDS_KEYS} run")
    return seat.entered(task, secure)


def _masked(
    asked: Asked, compute: Compute, kind: Kind, context: Context, secure: SecureTask, seat: Seat, keeps: int
) -> RecordDict:
    """A masked answer: of the client's code where its own coin says so, else of zeros, with its noise either way.

    A site with its own data computes the code in both cases, also where its ledger is full: time tells nothing.
    """
    site, task = asked.site, asked.task
    heads = kind.coin(site, task.round, secure.rate)
    remember(site, seat, secure.exchange, 0)
    is_in = site.charge(task, context.state, secure, spend=heads)  # the last that may refuse
    seat.keep(context.state, in_memory=not site.policy.ledger_path)  # before anything is made: never twice
    values = _values(asked, compute, kind, counts=is_in, works=True)
    if secure.least < seat.members:  # else no exchange is done again
        keep_again(context.state, secure.exchange, values[1])
    bits = bits_of(task.terms)
    return pack_masked(masked(values[0].astype(np.int64), seat.masks(), bits), secure.exchange, bits, keeps)


def _check_size(size: int, vectors: int, adapter: int) -> None:
    if size > vectors * adapter:
        times = f"{vectors} times " if vectors > 1 else ""
        raise PolicyRefusal(f"this site refuses: size = {size}, above {times}its adapter's size = {vectors * adapter}")


def _values(asked: Asked, compute: Compute, kind: Kind, *, counts: bool, works: bool) -> np.ndarray:
    """What leaves: made of the rows where that ``counts`` (it is charged), else of zeros.

    A site with its own data does the same work both ways where a member ``works`` at all, or time would tell its coin,
    or that its ledger is full, hence what others have asked; a simulated client does only what is needed.
    """
    site, own = asked.site, asked.site.data is not None
    works = works and own and may_read_rows()
    found = _released(asked, compute, kind) if counts or works else None
    nothing = _nothing(asked.task, kind.noise(site, asked.task.round)) if own or found is None else found
    return found if counts and found is not None else nothing


def _released(asked: Asked, compute: Compute, kind: Kind) -> np.ndarray:
    """What ``compute`` makes of the rows; at a site with its own data the zero code where that fails."""
    site, task = asked.site, asked.task
    try:
        examples = site.examples(asked.adapted, task.share, kind.part)
        with no_denormals():
            values = compute(examples, kind.noise(site, task.round))
        if site.data is None or _is_sendable(values, task.terms):
            return values
        raise ValueError("the values are not those of a release")
    except BaseException:  # a panic of a tokenizer, which is written in Rust, is no ``Exception``
        if site.data is None:
            raise
        logging.getLogger("flwr").exception("failed on own data; the release is of nothing but noise")
    return _nothing(task, kind.noise(site, task.round))


def _is_sendable(values: np.ndarray, terms: ReleaseTerms) -> bool:
    shape = (MOST_LEGS, terms.size) if terms.trust == "secure" else (terms.size,)
    return values.shape == shape and values.dtype == terms.dtype and bool(np.isfinite(values).all())


def _nothing(task: Task, source: RandomSource) -> np.ndarray:
    """The zero code of the task, on its way as any other; in the clear, zeros."""
    zeros = torch.zeros(task.terms.size)
    return zeros.numpy() if task.raw else release(zeros, task.terms, source)
