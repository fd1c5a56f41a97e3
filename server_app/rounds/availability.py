"""Who is online: waited for before a round is charged, and told when somebody is there but answers nothing.

An outage must cost time, not budget: a round that nobody can answer is charged all the same. What is waited for is a
number of *enrolled* nodes, whoever will be sampled, so waiting tells nothing of a cohort or of anybody's data. After a
failed round comes a pause, twice as long each time, since what failed it may not show in who is online.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from common.config import FederationConfig
from common.counts import count
from server_app.log import log_event
from server_app.results.units import clock
from server_app.rounds.cohort import FederationError, start_more

_POLL_SECONDS = 2.0
_TELL_SECONDS = 60.0  # between two lines about the same outage
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0  # seconds after the first failed round, and at most
_WORTH_TELLING = 2  # rounds in a row without an answer: one may be a restart
_MOST_NAMES = 5
Tell = Callable[[str], None]


class StopAsked(Exception):
    """Somebody has asked that the run stops: nothing more is charged, and it can be resumed."""


def site_names(grid: Grid) -> dict[int, str]:
    """The names under which nodes were registered (``flwr supernode register --name``); a node without one is absent.

    A name that several nodes have gets the node's id behind it.
    """
    named = {node.node_id: node.name for node in grid.get_nodes() if node.name}
    names = list(named.values())
    return {node: name if names.count(name) == 1 else f"{name} ({node})" for node, name in named.items()}


@dataclass
class Attendance:
    """The enrolled nodes of one run: who is there, who is silent, who has answered when.

    ``tell`` gets a line for people when waiting begins, goes on or ends, and when a node is silent.

    Attributes:
        nodes: ids of the enrolled nodes; none while those of a resumed run are still ``awaited``.
        names: the registered name of each node that has one.
        federation: how many must be there, and for how long they are waited for.
        least: enrolled nodes without which a round cannot be done, whatever ``federation`` says.
        online: enrolled nodes that were online when last looked at.
        away: those that were not.
        waiting: whether the run waits for nodes now.
        unanswered: rounds in a row that a node was asked in and gave no answer of its own.
        last_answer: Unix time of each node's last answer to anything, an error included.
        stop_asked: whether somebody wants the run to stop.
        awaited: how many nodes a resumed run was planned for, until they are enrolled; else 0.

    """

    nodes: Sequence[int]
    names: dict[int, str]
    federation: FederationConfig
    least: int = 1
    online: int = 0
    away: frozenset[int] = frozenset()
    waiting: bool = False
    unanswered: dict[int, int] = field(default_factory=dict)
    last_answer: dict[int, float] = field(default_factory=dict)
    stop_asked: Callable[[], bool] = field(default=lambda: False)
    awaited: int = 0

    @property
    def enrolled(self) -> int:
        """How many nodes are enrolled, or are to be."""
        return self.awaited or len(self.nodes)

    @property
    def needed(self) -> int:
        """Enrolled nodes to be online before a round is charged: ``min-reply-rate`` of them, ``least`` at least.

        All while they are ``awaited``.
        """
        return self.awaited or max(self.least, math.ceil(self.federation.min_reply_rate * len(self.nodes)))

    def name_of(self, node: int) -> str:
        """How people know a node: its registered name, else its id."""
        return self.names.get(node, f"node {node}")

    def gather(self, grid: Grid, server_round: int, tell: Tell) -> None:
        """Enrol all nodes that are connected, as soon as those that are ``awaited`` are.

        Raises ``FederationError`` when fewer have come after ``federation.connect-timeout`` seconds, ``StopAsked`` as
        soon as the run is to stop.
        """
        connected: list[int] = []

        def look() -> None:
            connected[:] = sorted(grid.get_node_ids())
            self.online = len(connected)

        self._until_enough(look, self.federation.connect_timeout, server_round, tell, self._not_connected)
        self.nodes, self.awaited = connected, 0
        self.names.update(site_names(grid))

    def wait(self, grid: Grid, server_round: int, tell: Tell, failed_in_a_row: int = 0) -> None:
        """Return when the next round (0: stage 1) may be charged: after the pause, once enough nodes are online.

        Raises ``FederationError`` when fewer have been there for ``federation.wait-timeout`` seconds, ``StopAsked`` as
        soon as the run is to stop.
        """
        self._stop_if_asked()
        if failed_in_a_row:
            self._pause(server_round, tell, failed_in_a_row)
        self._until_enough(
            lambda: self._look(grid),
            self.federation.wait_timeout,
            server_round,
            tell,
            lambda: self._given_up(server_round),
        )

    def note(self, grid: Grid, server_round: int, tell: Tell, cohort: Iterable[int], silent: Iterable[int]) -> None:
        """Remember who of a round's cohort answered; tell of nodes that are online and have long answered nothing."""
        quiet = set(silent)
        for node in cohort:
            if node in quiet:
                self.unanswered[node] = self.unanswered.get(node, 0) + 1
            else:
                self.unanswered.pop(node, None)
        stuck = [node for node in sorted(quiet) if self.unanswered[node] >= _WORTH_TELLING]
        if not stuck:
            return
        self._look(grid)
        for node in stuck:
            if node not in self.away:
                self._tell_silent(server_round, tell, node)

    def heard(self, nodes: Iterable[int]) -> None:
        """These have answered just now, to whatever they were asked; who is not enrolled is passed over."""
        self.last_answer.update(dict.fromkeys(set(nodes) & set(self.nodes), time.time()))

    def _look(self, grid: Grid) -> None:
        self.away = frozenset(self.nodes) - set(grid.get_node_ids())
        self.online = len(self.nodes) - len(self.away)

    def _until_enough(
        self, look: Callable[[], None], limit: float, server_round: int, tell: Tell, why_not: Callable[[], str]
    ) -> None:
        """Return once as many nodes as are needed are online by what ``look`` finds; tell of it while they are not.

        Raises ``FederationError`` with ``why_not`` after ``limit`` seconds.
        """
        started = told = time.monotonic()
        look()
        if self.online >= self.needed:
            return
        self.waiting = True
        self._tell_waiting(server_round, tell, 0.0)
        try:
            while self.online < self.needed:
                now = time.monotonic()
                if now - started >= limit:
                    raise FederationError(why_not())
                if now - told >= _TELL_SECONDS:
                    told = now
                    self._tell_waiting(server_round, tell, now - started)
                self._sleep(min(_POLL_SECONDS, limit))
                look()
        finally:
            self.waiting = False
        waited = time.monotonic() - started
        log_event("nodes_are_back", round=server_round, online=self.online, waited=round(waited, 1))
        tell(f"{self._present()} again after {clock(waited)}: the run goes on")

    def _pause(self, server_round: int, tell: Tell, failed_in_a_row: int) -> None:
        seconds = min(_FIRST_PAUSE * 2.0 ** (failed_in_a_row - 1), _LONGEST_PAUSE, self.federation.wait_timeout)
        log_event("backing_off", round=server_round, seconds=seconds, failed_in_a_row=failed_in_a_row)
        tell(f"{count(failed_in_a_row, 'failed round')} in a row: the next one in {clock(seconds)}")
        self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        while seconds > 0:
            time.sleep(min(seconds, _POLL_SECONDS))
            seconds -= _POLL_SECONDS
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stop_asked():
            raise StopAsked

    def _present(self) -> str:
        return f"{self.online} of {count(self.enrolled, 'enrolled node')} online"

    def _tell_waiting(self, server_round: int, tell: Tell, waited: float) -> None:
        log_event(
            "waiting_for_nodes", level=logging.WARNING, round=server_round,
            online=self.online, needed=self.needed, waited=round(waited, 1),
        )  # fmt: skip
        so_far = f" for {clock(waited)}" if waited else ""
        tell(f"WAITING{so_far}: {self._present()}, {self.needed} are needed{self._who_is_away()}. Nothing is charged")

    def _who_is_away(self) -> str:
        """Names of enrolled nodes that are not online; none are known before they are enrolled."""
        missing = sorted(self.away)
        names = ", ".join(self.name_of(node) for node in missing[:_MOST_NAMES])
        more = f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
        return f"; missing: {names}{more}" if missing else ""

    def _tell_silent(self, server_round: int, tell: Tell, node: int) -> None:
        rounds = self.unanswered[node]
        log_event("node_silent", level=logging.WARNING, round=server_round, node=node, rounds=rounds)
        if rounds & (rounds - 1) == 0:  # 2, 4, 8, ...: the event tells of every one
            tell(
                f"WARNING: {self.name_of(node)} is online, {count(rounds, 'round')} without an answer: it "
                "takes longer than federation.round-timeout, or its SuperNode hangs: restart that (docs/reliability.md)"
            )

    def _not_connected(self) -> str:
        return (
            f"the run was planned for {count(self.awaited, 'client')}, {self.online} of them connected within "
            f"{self.federation.connect_timeout:.0f} s (federation.connect-timeout); nothing was charged. "
            f"{start_more(self.awaited)}, then resume it again"
        )

    def _given_up(self, server_round: int) -> str:
        go_on = "The run can be resumed." if server_round else "Start it anew."
        return (
            f"only {self._present()} for {self.federation.wait_timeout:.0f} s (federation.wait-timeout), "
            f"{self.needed} are needed (federation.min-reply-rate); "
            f"{f'round {server_round}' if server_round else 'stage 1'} was not charged. {go_on}"
        )
