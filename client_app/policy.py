"""A site's own limits on what it releases, whatever the server asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.privacy.mechanism import SLACK_EPSILON, ReleaseTerms

OWN_DATA_MIN_NOISE = 0.1
OWN_DATA_MAX_RELEASES = 1_000
DEFAULT_DELTA = 1e-5


class PolicyRefusal(PermissionError):
    """The site refuses the terms; the message names the limit, its value and what was asked."""


@dataclass(frozen=True)
class SitePolicy:
    """Limits from the SuperNode's ``--node-config``; a simulated client holds no site's data and sets none.

    Attributes:
        min_noise_multiplier: least noise on one message, relative to the clip norm, that the site accepts.
        max_clip_norm: largest clip norm that the site accepts.
        max_releases: most releases in the site's ledger; 0 = no limit.
        max_epsilon: largest epsilon of all messages in it against the server; 0 = no limit (``site_ledger``).
        policy_delta: delta of that epsilon.
        ledger_path: file of that ledger, which all runs share; "" = one for each run, in the client's Flower state.
        allow_raw_gradients: whether a release without noise is allowed. Off for a site that brings its own data.

    """

    min_noise_multiplier: float = 0.0
    max_clip_norm: float = math.inf
    max_releases: int = 0
    max_epsilon: float = 0.0
    policy_delta: float = DEFAULT_DELTA
    ledger_path: str = ""
    allow_raw_gradients: bool = True

    @classmethod
    def from_node_config(cls, node_config: Mapping[str, object]) -> "SitePolicy":
        """Read the limits; a site with its own data (``data-path``) starts from strict ones."""
        own_data = bool(node_config.get("data-path"))
        least = _number(node_config, "min-noise-multiplier", OWN_DATA_MIN_NOISE if own_data else 0.0)
        return cls(
            min_noise_multiplier=least,
            max_clip_norm=_number(node_config, "max-clip-norm", math.inf),
            max_releases=_whole(node_config, "max-releases", OWN_DATA_MAX_RELEASES if own_data else 0),
            max_epsilon=_epsilon(node_config),
            policy_delta=_delta(node_config),
            ledger_path=_path(node_config),
            allow_raw_gradients=_flag(node_config, "allow-raw-gradients", default=not own_data and least == 0),
        )

    def check(self, terms: ReleaseTerms, *, raw: bool = False) -> None:
        """Raise ``PolicyRefusal`` when the terms go beyond a limit; ``raw`` marks statistics sent in the clear."""
        noise = 0.0 if raw else terms.message_noise_multiplier
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


def _number(node_config: Mapping[str, object], key: str, default: float) -> float:
    value = node_config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise PolicyRefusal(f"node config {key} = {value!r}: write a number of at least 0; refusing until then")
    return float(value)


def _whole(node_config: Mapping[str, object], key: str, default: int) -> int:
    value = _number(node_config, key, default)
    if not value.is_integer():  # half a release would become 0, which is no limit
        raise PolicyRefusal(f"node config {key} = {value!r}: write a whole number; refusing until then")
    return int(value)


def _epsilon(node_config: Mapping[str, object]) -> float:
    value = _number(node_config, "max-epsilon", 0.0)
    if value > SLACK_EPSILON:
        raise PolicyRefusal(
            f"node config max-epsilon = {value}: nothing is claimed above {SLACK_EPSILON:g}; write at most that, or 0 "
            "for no limit; refusing until then"
        )
    return value


def _delta(node_config: Mapping[str, object]) -> float:
    value = _number(node_config, "policy-delta", DEFAULT_DELTA)
    if not 0 < value < 1:
        raise PolicyRefusal(f"node config policy-delta = {value}: write a number between 0 and 1; refusing until then")
    return value


def _path(node_config: Mapping[str, object]) -> str:
    value = node_config.get("ledger-path", "")
    if not isinstance(value, str) or (value and not Path(value).is_absolute()):
        raise PolicyRefusal(f"node config ledger-path = {value!r}: write an absolute file name; refusing until then")
    return value


def _flag(node_config: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = node_config.get(key, default)
    if not isinstance(value, bool):
        raise PolicyRefusal(f"node config {key} = {value!r}: write true or false without quotes; refusing until then")
    return value
