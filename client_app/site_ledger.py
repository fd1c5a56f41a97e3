"""What a site's own messages have cost it: charged before each release, in the client's state or in the site's file.

Flower keeps a client's state for one series of runs, in the SuperNode's memory, and takes it over after the reply has
left, if that takes no longer than five seconds: good enough for a simulated client. A file that the site names
(``ledger-path``), as one with its own data must, outlives the SuperNode and the run, and counts all runs together; no
server can have it lost. It must have been made
(``client_app.new_ledger``): a file that is gone is a refusal, never a fresh start. The site trusts no word of the
server's: a message counts by its own noise alone, as the server that reads it sees it, without amplification by
sampling, and a question that is asked again is charged again. Gaussian mechanisms compose exactly: mu² is the sum of
1/z² over the messages.
"""

import fcntl
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from flwr.app import ConfigRecord, RecordDict

from client_app.node_config import PolicyRefusal
from client_app.policy import SitePolicy
from common.own_files import why_not_own
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.mechanism import ReleaseTerms
from common.privacy.price import SLACK_EPSILON, noise_slack

RECORD, _MESSAGE = "site-ledger", "message"
_SCHEMA = 1
_FIELDS: dict[str, type] = {"schema": int, "releases": int, "squared-mu": float, "slack": float}
_NOTHING_SPENT = b'{"schema": 1, "releases": 0, "squared-mu": 0.0, "slack": 0.0}\n'  # how a new ledger begins


_log = logging.getLogger("flwr")


class LimitReached(PolicyRefusal):
    """There is no room left in the ledger for this message; the text names the limit, not what was spent."""


@dataclass(frozen=True)
class SiteLedger:
    """All messages of one client, against the server.

    Attributes:
        releases: messages charged.
        squared_mu: sum of 1/z² over them, z being the noise of one message in units of the clip norm; inf once a
            message has no noise.
        slack: delta set aside for discrete noise that is charged as Gaussian (``noise_slack``).

    """

    releases: int = 0
    squared_mu: float = 0.0
    slack: float = 0.0

    @classmethod
    def of(cls, values: object) -> "SiteLedger | None":
        """The ledger that ``values`` wrote; ``None`` for anything that it did not: other fields, types or ranges."""
        if not isinstance(values, Mapping) or {name: type(value) for name, value in values.items()} != _FIELDS:
            return None
        in_range = values["releases"] >= 1 and values["squared-mu"] > 0 and values["slack"] >= 0  # nan never is
        if values["schema"] != _SCHEMA or not in_range:
            return None
        return cls(values["releases"], values["squared-mu"], values["slack"])

    def values(self) -> dict[str, Any]:
        """The ledger as plain values, for ``of``."""
        return dict(zip(_FIELDS, (_SCHEMA, self.releases, self.squared_mu, self.slack), strict=True))

    def after(self, terms: ReleaseTerms, *, raw: bool = False, noise: float | None = None) -> "SiteLedger":
        """The ledger with one more message; ``raw``: sent in the clear, whatever the terms say.

        ``noise``: multiplier of what the server can see of it; ``None``: of the message by itself.
        """
        noise = 0.0 if raw else terms.message_noise_multiplier if noise is None else noise
        cost = 1 / noise**2 if noise else math.inf
        return SiteLedger(self.releases + 1, self.squared_mu + cost, self.slack + noise_slack(terms))

    def epsilon(self, delta: float) -> float:
        """Epsilon of all messages together at ``delta``; inf where nothing is claimed (``SLACK_EPSILON``)."""
        if self.slack >= delta:
            return math.inf
        value = gaussian_epsilon(math.sqrt(self.squared_mu), delta - self.slack)
        return value if value <= SLACK_EPSILON else math.inf


def charge_release(
    state: RecordDict,
    policy: SitePolicy,
    terms: ReleaseTerms,
    *,
    raw: bool = False,
    noise: float | None = None,
    spend: bool = True,
    message: str = "",
) -> None:
    """Charge one message to the site's ledger (see ``SiteLedger.after``); only when this has returned may it be made.

    Without ``spend`` it is refused as it would be, but not charged: cover traffic holds nothing of the data, and is to
    be answered or refused as if this client were in the cohort. A file gets a line all the same, which says what the
    last one said, so that it takes as long. So does a ``message`` of which a line of the file tells already: it is
    answered again, without the rows, because a worker died over it. Where that one died before it wrote the line, it is
    charged now, as it would have been with rows that let the worker live.

    The ledger is the file of ``ledger-path``, on disk when this returns, else a record in ``state``, which goes back to
    Flower with the reply. Without a limit a file is written all the same, for the limit that may come, and no record is
    kept. Raises ``PolicyRefusal`` and charges nothing when the message alone costs more than ``max-epsilon`` or when
    what was spent before cannot be read, and ``LimitReached`` when ``max-releases`` or ``max-epsilon`` leave no room
    for it.
    """
    if not (policy.max_releases or policy.max_epsilon or policy.ledger_path):
        return
    with_it = partial(SiteLedger.after, terms=terms, raw=raw, noise=noise)
    _check_alone(policy, with_it(SiteLedger()))
    if not policy.ledger_path:
        spent = SiteLedger() if state.get(RECORD) is None else SiteLedger.of(state[RECORD])
        after = charged(spent, policy, with_it)
        now = ConfigRecord((after if spend or spent is None else spent).values())  # as much work either way
        if spend:
            state[RECORD] = now
        return
    with _locked(policy.ledger_path) as file:
        lines = file.read().split(b"\n")
        spent, answered = _last(lines), _tells_of(message, lines)
        try:
            after = charged(spent, policy, with_it)
        except LimitReached:
            _append(file, _line(spent or SiteLedger(), message))  # takes as long, and tells nothing
            raise
        now_spent = after if spent is None or (spend and not answered) else spent
        _append(file, _line(now_spent, message))


def create_ledger(path: Path) -> None:
    """Make the file of a new ledger, with nothing spent, for its owner only; ``FileExistsError`` where one is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_NOTHING_SPENT)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the name is on disk, too
    finally:
        os.close(folder)


def _check_alone(policy: SitePolicy, alone: SiteLedger) -> None:
    """Refuse what not even an empty ledger has room for, which tells nothing of what is in it."""
    cost = alone.epsilon(policy.policy_delta)
    if policy.max_epsilon and cost > policy.max_epsilon:
        raise PolicyRefusal(
            f"this site refuses: this message alone would cost epsilon = {cost:.6g}, above its max-epsilon = "
            f"{policy.max_epsilon:.6g} (at policy-delta = {policy.policy_delta:g})"
        )


def charged(spent: SiteLedger | None, policy: SitePolicy, with_it: Callable[[SiteLedger], SiteLedger]) -> SiteLedger:
    """The ledger with one more message, which the policy allows; raises ``LimitReached`` where it does not."""
    if spent is None:
        raise _unknown("what is there is not a ledger that this code wrote")
    after = with_it(spent)
    cost = after.epsilon(policy.policy_delta)  # first, or how long this takes would tell which limit is reached
    if policy.max_releases and after.releases > policy.max_releases:
        raise LimitReached(f"this site refuses: its max-releases = {policy.max_releases} is reached")
    if policy.max_epsilon and cost > policy.max_epsilon:
        raise LimitReached(
            f"this site refuses: this message would go beyond its max-epsilon = {policy.max_epsilon:.6g} (at "
            f"policy-delta = {policy.policy_delta:g})"
        )
    return after


def _unknown(why: str) -> PolicyRefusal:
    """The refusal where the past is not known; why, and where, is for the site's own log."""
    _log.error("the site's ledger cannot be used: %s", why)
    return PolicyRefusal(
        "this site refuses: its ledger cannot be read, so what it has spent is unknown; why is in its own log"
    )


@contextmanager
def _locked(path: str) -> Iterator[BinaryIO]:
    """The site's file, for one process at a time. It is never made here: a ledger that vanished is not an empty one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        raise _unknown(
            f"ledger-path = {path} is not there. If the site has never answered, make it: python -m "
            f"client_app.new_ledger {path}; else bring the newest copy back, or count everything as spent"
        ) from None
    except OSError as error:
        raise _unknown(f"ledger-path = {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb+") as file:
        if why := why_not_own(Path(path)):
            raise _unknown(f"ledger-path = {why}")
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _last(lines: Sequence[bytes]) -> SiteLedger | None:
    """What the last whole line says. A torn one after it was never paid with: its message was not made."""
    *whole, torn = lines
    beginning = b'{"schema": '
    if not whole or not beginning.startswith(torn[: len(beginning)]):
        return None
    return read_line(whole[-1])


def read_ledger(path: Path) -> SiteLedger | None:
    """What the file of a ledger says was spent; ``None`` for one that this code never wrote."""
    return _last(path.read_bytes().split(b"\n"))


def read_line(line: bytes) -> SiteLedger | None:
    """What a line of a ledger says, of which message or of none; ``None`` for a line that this code never wrote."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the second: JSON that is nested deeper than Python's stack
        return None
    message = found.pop(_MESSAGE, None) if isinstance(found, dict) else None
    if not isinstance(message, str | None):
        return None
    nothing = _NOTHING_SPENT[:-1] if message is None else _line(SiteLedger(), message)
    return SiteLedger() if line == nothing else SiteLedger.of(found)


def _line(ledger: SiteLedger, message: str) -> bytes:
    return json.dumps({**ledger.values(), _MESSAGE: message}).encode()


def _tells_of(message: str, lines: Sequence[bytes]) -> bool:
    """Whether a whole line is that of a message, by the name of its own; none has the name ``""``."""
    ending = json.dumps({_MESSAGE: message}).encode().removeprefix(b"{")
    return bool(message) and any(line.endswith(ending) for line in lines[:-1])


def _append(file: BinaryIO, line: bytes) -> None:
    """One line more, in place of a torn one if there is one; on disk when this returns."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.write(line + b"\n")
    file.flush()
    os.fsync(file.fileno())
