"""A site's own limits on what it releases, whatever the server asks for."""

import math
from dataclasses import dataclass

from client_app.node_config import (
    NodeConfig,
    PolicyRefusal,
    absolute_path,
    brings_own_data,
    check_keys,
    flag,
    number,
    whole,
)
from common.privacy.mechanism import ReleaseTerms
from common.privacy.price import SLACK_EPSILON
from common.wire.secure import SecureTask

OWN_DATA_MIN_NOISE = 0.1
OWN_DATA_MAX_RELEASES = 1_000
DEFAULT_DELTA = 1e-5


@dataclass(frozen=True)
class SitePolicy:
    """Limits from the SuperNode's ``--node-config``; a simulated client holds no site's data and sets none.

    Attributes:
        min_noise_multiplier: least noise on one message, relative to the clip norm, that the site accepts.
        max_clip_norm: largest clip norm that the site accepts.
        max_releases: most releases in the site's ledger; 0 = no limit.
        max_epsilon: largest epsilon of all messages in it against the server; 0 = no limit (``site_ledger``).
        policy_delta: delta of that epsilon.
        ledger_path: file of that ledger, which all runs share; "" (a simulated client only) = one for each run, in the
            client's Flower state, which Flower may lose.
        require_secure_aggregation: whether only masked answers are given, of which the server sees sums.
        min_peers: how many other clients the site counts on: that their messages are in every sum, and their noise
            unknown to the server. Its ledger counts their noise and its own, no more.
        allow_raw_gradients: whether a release without noise is allowed. Off for a site that brings its own data.

    """

    min_noise_multiplier: float = 0.0
    max_clip_norm: float = math.inf
    max_releases: int = 0
    max_epsilon: float = 0.0
    policy_delta: float = DEFAULT_DELTA
    ledger_path: str = ""
    allow_raw_gradients: bool = True
    require_secure_aggregation: bool = False
    min_peers: int = 1

    @classmethod
    def from_node_config(cls, node_config: NodeConfig) -> "SitePolicy":
        """Read the limits; a site with its own data (``data-path``) starts from strict ones.

        Raises ``PolicyRefusal`` for a key that is unknown, a value that is no limit, and for such a site without
        ``max-epsilon`` or ``ledger-path``.
        """
        check_keys(node_config)
        own_data = brings_own_data(node_config)
        least = number(node_config, "min-noise-multiplier", OWN_DATA_MIN_NOISE if own_data else 0.0)
        return cls(
            min_noise_multiplier=least,
            max_clip_norm=number(node_config, "max-clip-norm", math.inf),
            max_releases=whole(node_config, "max-releases", OWN_DATA_MAX_RELEASES if own_data else 0),
            max_epsilon=_epsilon(node_config),
            policy_delta=_delta(node_config),
            ledger_path=_ledger_path(node_config),
            allow_raw_gradients=flag(node_config, "allow-raw-gradients", default=not own_data and least == 0),
            require_secure_aggregation=flag(node_config, "require-secure-aggregation", default=False),
            min_peers=whole(node_config, "min-peers", 1, least=1),
        )

    def noise_of(self, terms: ReleaseTerms, secure: SecureTask | None = None) -> float:
        """Noise multiplier of what the server can see of a message: of itself, or where it is masked of the least sum.

        Such a sum is counted on to carry this site's share and those of ``min_peers`` others. Where a round may do
        without some clients, the server may say that it must do without this one, and so get one more sum, with as much
        noise of its own: a client is then in two sums, and 1/z² counts twice.
        """
        if secure is None:
            return terms.message_noise_multiplier
        noise = terms.noise_of_shares(self.min_peers + 1)
        return noise / math.sqrt(2) if secure.least < terms.shares else noise

    def check(self, terms: ReleaseTerms, *, raw: bool = False, secure: SecureTask | None = None) -> None:
        """Raise ``PolicyRefusal`` when the terms go beyond a limit; ``raw`` marks statistics sent in the clear."""
        if self.require_secure_aggregation and secure is None:
            raise PolicyRefusal(
                f'this site refuses: privacy.trust = "{terms.trust}", and its policy says require-secure-aggregation = '
                "true"
            )
        if secure is not None and secure.least <= self.min_peers:
            raise PolicyRefusal(
                f"this site refuses: sums of {secure.least} clients' messages, so of {secure.least - 1} others, below "
                f"its min-peers = {self.min_peers}"
            )
        noise = 0.0 if raw else self.noise_of(terms, secure)
        if noise == 0 and not self.allow_raw_gradients:
            raise PolicyRefusal(
                "this site refuses: its message would carry no noise of its own, and its policy "
                "says allow-raw-gradients = false"
            )
        if noise < self.min_noise_multiplier and not (noise == 0 and self.allow_raw_gradients):
            raise PolicyRefusal(
                f"this site refuses: noise multiplier of its message = {noise:.4g}, below its "
                f"min-noise-multiplier = {self.min_noise_multiplier}"
            )
        if terms.clip_norm > self.max_clip_norm:
            raise PolicyRefusal(
                f"this site refuses: clip norm = {terms.clip_norm:.4g}, above its max-clip-norm = {self.max_clip_norm}"
            )


def _epsilon(node_config: NodeConfig) -> float:
    if "max-epsilon" not in node_config and brings_own_data(node_config):
        raise PolicyRefusal(
            "this site refuses: its node config has data-path and no max-epsilon. Write the largest epsilon that all "
            "its messages together may cost it against the server, for example max-epsilon=8.0 (a run's report and "
            "`dr-encoder budget` print what a run costs one client); 0 = no limit, for data that are public anyway"
        )
    value = number(node_config, "max-epsilon", 0.0)
    if value > SLACK_EPSILON:
        raise PolicyRefusal(
            f"node config max-epsilon = {value}: nothing is claimed above {SLACK_EPSILON:g}; write at most that, or 0 "
            "for no limit; refusing until then"
        )
    return value


def _ledger_path(node_config: NodeConfig) -> str:
    """Flower takes a client's state over after its reply has gone, and may lose it: no place for what was spent."""
    path = absolute_path(node_config, "ledger-path")
    if not path and brings_own_data(node_config):
        raise PolicyRefusal(
            "this site refuses: its node config has data-path and no ledger-path. Make the file of its ledger once "
            "(python -m client_app.new_ledger FILE) and write its absolute name: what Flower keeps of a site is lost "
            "with a restart, or when a server makes it too large"
        )
    return path


def _delta(node_config: NodeConfig) -> float:
    value = number(node_config, "policy-delta", DEFAULT_DELTA)
    if not 0 < value < 1:
        raise PolicyRefusal(f"node config policy-delta = {value}: write a number between 0 and 1; refusing until then")
    return value
