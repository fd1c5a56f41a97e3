"""What a site's own messages have cost it in this run: kept in the client's state, charged before each release.

The site trusts no word of the server's: a message counts by its own noise alone, as the server that reads it sees it,
without amplification by sampling, and a question that is asked again is charged again. Gaussian mechanisms compose
exactly: mu² is the sum of 1/z² over the messages.
"""

import math
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from client_app.policy import PolicyRefusal, SitePolicy
from common.privacy.gaussian import gaussian_epsilon
from common.privacy.mechanism import SLACK_EPSILON, ReleaseTerms, noise_slack

RECORD = "site-ledger"
_SCHEMA = 1
_FIELDS: dict[str, type] = {"schema": int, "releases": int, "squared-mu": float, "slack": float}


@dataclass(frozen=True)
class SiteLedger:
    """All messages of one client in one run, against the server.

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
    def read(cls, state: RecordDict) -> "SiteLedger":
        """The ledger in a client's state, empty before the first release; ``PolicyRefusal`` if it is malformed."""
        record: Any = state.get(RECORD)
        if record is None:
            return cls()
        if not _is_ledger(record):
            raise PolicyRefusal(
                f'this site refuses: record "{RECORD}" in its state is not a ledger that this code wrote, so what it '
                "has spent in this run is unknown"
            )
        return cls(record["releases"], record["squared-mu"], record["slack"])

    def write(self, state: RecordDict) -> None:
        """Put the ledger into the state that Flower keeps for this client."""
        values = (_SCHEMA, self.releases, self.squared_mu, self.slack)
        state[RECORD] = ConfigRecord(dict(zip(_FIELDS, values, strict=True)))

    def after(self, terms: ReleaseTerms, *, bare: bool = False) -> "SiteLedger":
        """The ledger with one more message; ``bare``: without noise, or with noise that the server can redraw."""
        noise = 0.0 if bare else terms.message_noise_multiplier
        cost = 1 / noise**2 if noise else math.inf
        return SiteLedger(self.releases + 1, self.squared_mu + cost, self.slack + noise_slack(terms))

    def epsilon(self, delta: float) -> float:
        """Epsilon of all messages together at ``delta``; inf where nothing is claimed (``SLACK_EPSILON``)."""
        if self.slack >= delta:
            return math.inf
        value = gaussian_epsilon(math.sqrt(self.squared_mu), delta - self.slack)
        return value if value <= SLACK_EPSILON else math.inf


def charge_release(state: RecordDict, policy: SitePolicy, terms: ReleaseTerms, *, bare: bool = False) -> None:
    """Charge one message to the ledger in ``state``, which goes back to Flower with the reply; then it may be made.

    Raises ``PolicyRefusal`` and charges nothing when the message would go beyond ``max-releases`` or ``max-epsilon``.
    Without either limit no ledger is kept.
    """
    if not (policy.max_releases or policy.max_epsilon):
        return
    spent = SiteLedger.read(state)
    after = spent.after(terms, bare=bare)
    if policy.max_releases and after.releases > policy.max_releases:
        raise PolicyRefusal(
            f"this site refuses: it has made {spent.releases} releases, its max-releases is reached "
            f"(max-releases = {policy.max_releases})"
        )
    delta = policy.policy_delta
    if policy.max_epsilon and after.epsilon(delta) > policy.max_epsilon:
        alone = SiteLedger().after(terms, bare=bare).epsilon(delta)
        raise PolicyRefusal(
            f"this site refuses: this message would bring epsilon to {after.epsilon(delta):.6g}, above its max-epsilon "
            f"= {policy.max_epsilon:.6g} (at policy-delta = {delta:g}); it has spent {spent.epsilon(delta):.6g} in "
            f"{spent.releases} releases, this message alone costs {alone:.6g}"
        )
    after.write(state)


def _is_ledger(record: object) -> bool:
    """Whether a record is one that ``write`` made: these fields, of these types, in range."""
    if not isinstance(record, ConfigRecord) or {name: type(value) for name, value in record.items()} != _FIELDS:
        return False
    found: Any = record
    in_range = found["releases"] >= 1 and found["squared-mu"] > 0 and found["slack"] >= 0  # nan is never in range
    return bool(found["schema"] == _SCHEMA and in_range)
