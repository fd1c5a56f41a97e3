"""Bytes of one client over a whole run, both ways, expected over the cohorts.

What a client is sent depends on when it was asked before, so bytes differ from round to round and from client to
client. What is told is their expectation: the chance of being asked and the sizes of messages are public, while what
really went over the wire would tell the secret cohorts. Bytes are of serialized records (``serialized_bytes``).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, repeat

import torch
from flwr.app import RecordDict

from common.codecs.base import EncoderSpec
from common.codecs.identity import IdentityCodec
from common.config import RunConfig
from common.optimizer import snapshot_size
from common.wire.assignment import Task, pack_assignment
from common.wire.records import Start, Sums, pack_assigned, serialized_bytes
from common.wire.sums import Entry, typical_size
from server_app.privacy.plan import PrivacyPlan
from server_app.rounds.secure import bytes_of_answer, masked_instruction, set_up_bytes
from server_app.strategies.recipe import PlannedEncoder, Recipe
from server_app.strategies.tasks import round_task, stage_one_task

_NOTHING = -1  # in place of a round: the client keeps no assignment either
_LONG_AGO = -2  # so long that it is sent an adapter
_UNLIKELY = 1e-12  # a chance that is counted as that, which moves a total by less than that much of an adapter a round


@dataclass(frozen=True)
class MessageSizes:
    """Bytes of one run's messages.

    Attributes:
        reply: of a reply in a round.
        instruction: of one to a client that keeps the assignment and lacks no sum; without its start.
        whole: what an adapter, or its proxy, adds to an instruction.
        assignment: what an assignment adds.
        sums: what each round's sum adds, in their order, from the first round on; ``None``: the start is sent whole.
        scores: of a reply to a private evaluation.
        framing: what so many bytes of sums add beside themselves, to a client that keeps the assignment or does not.

    """

    reply: int
    instruction: int
    whole: int
    assignment: int
    sums: Sequence[int] | None = None
    scores: int = 0
    framing: Callable[[int, bool], int] = lambda _size, _known: 0

    @classmethod
    def of(
        cls,
        task: Task,
        encoder: PlannedEncoder,
        start: Start,
        *,
        sums: Sequence[int] | None = None,
        masked: Callable[[RecordDict], RecordDict] = lambda content: content,
    ) -> "MessageSizes":
        """Of the messages that these make; ``masked``: what secure aggregation makes of an instruction."""
        packed = pack_assignment(encoder.spec, task)

        def weight(start: Start, *, known: bool = True) -> int:
            return serialized_bytes(masked(pack_assigned(start, packed, task, known=known)))

        bare = weight(_sums_of(0))
        whole = weight(start) - bare
        assignment = weight(start, known=False) - bare - whole
        most = min(sum(sums or ()), whole)
        known = _framing(lambda size: weight(_sums_of(size)) - bare - size, most)
        new = _framing(lambda size: weight(_sums_of(size), known=False) - bare - assignment - size, most)
        return cls(
            bytes_of_answer(task.terms),
            bare,
            whole,
            assignment + encoder.other_bytes,
            sums,
            bytes_of_answer(task.evaluation) if task.evaluation else 0,
            lambda size, held: known(size) if held else new(size),
        )


def _sums_of(size: int) -> Sums:
    """As many bytes of sums, whatever they are."""
    return Sums(0, (Entry(1, bytes(size)),), bytes(8))


def _framing(added: Callable[[int], int], most: int) -> Callable[[int], int]:
    """``added`` for up to ``most`` bytes, looked up: it grows by a byte where protobuf writes a length in one more."""
    least = added(0)
    steps = [bisect_left(range(most), more, key=added) for more in range(least + 1, added(most) + 1)]
    return lambda size: least + bisect_right(steps, size)


@dataclass(frozen=True)
class RunBytes:
    """Of one client in a whole run: rounds that it is asked in, bytes up and down, all expected."""

    rounds_asked: float
    up: float
    down: float

    @property
    def both(self) -> float:
        """Up and down."""
        return self.up + self.down

    def per_round(self, of_run: float) -> float:
        """Bytes for each round that the client is asked in."""
        return of_run / self.rounds_asked if self.rounds_asked else 0.0

    def figures(self) -> dict[str, float]:
        """As the report and the plan have them."""
        return {**asdict(self), "both": self.both, "both_per_round_asked": self.per_round(self.both)}


def expected_bytes(
    sizes: MessageSizes,
    rounds: int,
    rate: float,
    *,
    before: tuple[float, float] = (0.0, 0.0),
    evaluated: Sequence[int] = (),
) -> RunBytes:
    """Of a client that each of ``rounds`` rounds asks with probability ``rate``; ``before``: bytes before round 1.

    ``evaluated``: rounds after which everybody is asked for private scores, 0 among them for the base model.

    What it lacks depends on when it was asked last, so the chances of that are carried from question to question
    (``Downlink``).
    """
    asked, due = rate * rounds, set(evaluated)
    up, down, totals = asked * sizes.reply + before[0], before[1], [0, *accumulate(sizes.sums or ())]
    chances: dict[int, float] = {_NOTHING: 1.0}  # of the last round whose sum the client keeps
    for number in range(rounds + 1):
        for sums, chance in ([(number - 1, rate)] if number else []) + ([(number, 1.0)] if number in due else []):
            left: dict[int, float] = {}
            for last, held in chances.items():
                known, start, still = last != _NOTHING, sizes.whole, last
                if sizes.sums is not None and last != _LONG_AGO:
                    lacking = totals[sums] - totals[max(0, last)]
                    if lacking <= sizes.whole:
                        start = lacking + sizes.framing(lacking, known)
                if known and (start == sizes.whole or held < _UNLIKELY):
                    still = _LONG_AGO
                down += held * chance * (sizes.instruction + start + (0 if known else sizes.assignment))
                if chance < 1:
                    left[still] = left.get(still, 0.0) + held * (1 - chance)
            chances = left | {sums: left.get(sums, 0.0) + chance}
    return RunBytes(asked, up + len(due) * sizes.scores, down)


def run_bytes(
    config: RunConfig,
    recipe: Recipe,
    plan: PrivacyPlan,
    rounds: int,
    *,
    encoder: EncoderSpec | None = None,
    released: Sequence[Entry] | None = None,
) -> RunBytes:
    """Of a run of ``rounds`` rounds, stage 1 and key set-up included, whoever is asked.

    ``encoder``, ``released``: the encoder and the sums that there were; before a run, what the recipe says of them.
    """
    secure = plan.trust == "secure"

    def masked(content: RecordDict) -> RecordDict:
        return masked_instruction(content, config.privacy, plan.clients) if secure else content

    task = round_task(config.server, recipe, plan, max(1, rounds // 2), sums=recipe.seeded)
    sums: Sequence[int] | None = None
    if task.step_terms is not None and released is None:
        sums = list(repeat(typical_size(task.terms.size, noisy=bool(task.terms.noise_multiplier)), rounds))
    elif task.step_terms is not None:
        found = {entry.round: len(entry.data) for entry in released or ()}
        sums = [found.get(number, 0) for number in range(1, rounds + 1)]
    sizes = MessageSizes.of(
        task,
        PlannedEncoder(encoder) if encoder else recipe.encoder,
        torch.zeros(snapshot_size(config.server.optimizer, recipe.layout.size)) if sums else recipe.broadcast,
        sums=sums,
        masked=masked,
    )
    cover = config.federation.cover or secure
    rate = 1.0 if cover else config.privacy.sampling_rate
    before = [*map(float, set_up_bytes(plan.clients))] if secure else [0.0, 0.0]
    if recipe.stage_one:
        stage = MessageSizes.of(
            stage_one_task(plan, recipe.stage_one),
            PlannedEncoder(IdentityCodec(recipe.layout).spec()),
            Sums(0, (), bytes(8)),
            masked=masked,
        )
        asked = 1.0 if cover else recipe.stage_one.sampling_rate
        before[0] += asked * stage.reply
        before[1] += asked * (stage.instruction + stage.assignment)
    evaluated = config.evaluation.evaluated(rounds) if plan.evaluation else ()
    return expected_bytes(sizes, rounds, rate, before=(before[0], before[1]), evaluated=evaluated)


def plain_lora_bytes(config: RunConfig, recipe: Recipe, plan: PrivacyPlan, rounds: int) -> RunBytes:
    """Of plain LoRA under the same noise and as often asked: the adapter down, its whole gradient up, no stage 1."""
    lora = replace(Recipe.of(recipe.layout, IdentityCodec(recipe.layout)), refresh_every=recipe.refresh_every)
    return run_bytes(config, lora, _in_32_bits(plan, lora.code_size), rounds)


def _in_32_bits(plan: PrivacyPlan, size: int) -> PrivacyPlan:
    """``plan``, with the most noise in halves that a message of ``size`` values holds: a value has 32 bits at most."""
    for _ in range(64):
        try:
            plan.round_terms(size)
        except ValueError:
            plan = replace(plan, round=replace(plan.round, noise_multiplier=plan.round.noise_multiplier / 2))
        else:
            break
    return plan
