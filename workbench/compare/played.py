"""A large cohort played by a few of its clients: for experiments on models whose single gradient takes seconds.

In every push a few of the addressed clients, drawn anew, are asked; every other one answers what one of them answered,
as a client with the same data would. Each player stands for as many others as the next, up to one. The strategy sees
the whole cohort, so the noise, its denominator and the accounting are those of the stated number: nothing but the
sampling of clients changes, which is coarser than it would be. For the other clients' messages to be copies they must
carry no noise of their own: ``privacy.trust = "central"``, where the server adds all of it, or no noise. The sum of a
round has the same distribution in ``distributed`` (``common/privacy/mechanism.py``). Copied with a message is its
random rounding to the integer grid: less than .1 in norm, whatever the size, beside a code of norm 1.
"""

import copy
import random
from collections.abc import Iterable

from flwr.app import Message
from flwr.clientapp import ClientApp

from common.config import ConfigError, RunConfig
from workbench.simulation.in_process import InProcessGrid


def not_for_players(players: int, clients: int) -> str:
    """What must stand beside an epsilon of a cohort that is played; ``""`` where every client plays itself.

    One player's data stand for several clients', so it moves the sum by as many clip norms as have copied it.
    """
    if players >= clients:
        return ""
    return (
        f"NOT PRIVATE FOR THE PLAYERS: {players} of {clients} clients play, each for up to {-(-clients // players)}. "
        "Every epsilon here is that of a run in which all take part; it holds for nobody's rows in this one"
    )


class PlayedGrid(InProcessGrid):
    """An ``InProcessGrid`` whose cohorts are played by at most ``players`` of their clients.

    Raises ``ConfigError`` where clients would add noise to their messages.
    """

    def __init__(self, client_app: ClientApp, config: RunConfig, players: int) -> None:
        privacy = config.privacy
        if privacy.is_private and privacy.trust != "central":
            raise ConfigError(
                f'privacy.trust = "{privacy.trust}": a cohort played by a few clients needs "central", where the '
                "server adds all the noise; the sum is the same"
            )
        super().__init__(client_app, config.flat(), config.federation.num_clients)
        self._players = players
        self._draw = random.Random(config.seed)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Ask the players, answer for the others, and keep all answers."""
        order = list(messages)
        self._draw.shuffle(order)
        players = [(asked, self.answer(asked)) for asked in order[: self._players]]
        answers = [reply for _, reply in players]
        for number, asked in enumerate(order[self._players :]):
            self.name(asked)
            answers.append(_same_answer(answers[number % self._players], asked))
            self._keep_as(players[number % len(players)][0].metadata.dst_node_id, asked.metadata.dst_node_id)
        self._answers |= {reply.metadata.reply_to_message_id: reply for reply in answers if reply is not None}
        return [reply.metadata.reply_to_message_id for reply in answers if reply is not None]

    def _keep_as(self, player: int, other: int) -> None:
        """Who answers what another one did keeps between messages what that one keeps: sums, above all."""
        self.context(other).state = copy.deepcopy(self.context(player).state)


def _same_answer(reply: Message | None, asked: Message) -> Message | None:
    """The answer to ``asked`` of a client that holds what the one that gave ``reply`` holds."""
    if reply is None:
        return None
    return Message(reply.error, reply_to=asked) if reply.has_error() else Message(reply.content, reply_to=asked)
