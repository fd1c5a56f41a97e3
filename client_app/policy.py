"""A site's own limits on what it releases, whatever the server asks for."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.privacy.mechanism import ReleaseTerms


class PolicyRefusal(PermissionError):
    """The site refuses the terms; the message names the limit, its value and what was asked."""


@dataclass(frozen=True)
class SitePolicy:
    """Limits from the SuperNode's ``--node-config``; a simulated client holds no site's data and sets none.

    Attributes:
        min_noise_multiplier: least noise on one message, relative to the clip norm, that the site accepts.
        max_clip_norm: largest clip norm that the site accepts.
        allow_raw_gradients: whether a release without noise is allowed. Off for a site that brings its own data.

    """

    min_noise_multiplier: float = 0.0
    max_clip_norm: float = float("inf")
    allow_raw_gradients: bool = True

    @classmethod
    def from_node_config(cls, node_config: Mapping[str, object]) -> "SitePolicy":
        """Read ``min-noise-multiplier``, ``max-clip-norm`` and ``allow-raw-gradients``."""
        own_data = bool(node_config.get("data-path"))
        return cls(
            min_noise_multiplier=float(str(node_config.get("min-noise-multiplier", 0.0))),
            max_clip_norm=float(str(node_config.get("max-clip-norm", "inf"))),
            allow_raw_gradients=_flag(node_config, "allow-raw-gradients", default=not own_data),
        )

    def check(self, terms: ReleaseTerms, *, raw: bool = False) -> None:
        """Raise ``PolicyRefusal`` when the terms go beyond a limit; ``raw`` marks statistics sent in the clear."""
        if (raw or terms.message_noise_multiplier == 0) and not self.allow_raw_gradients:
            raise PolicyRefusal(
                "this site refuses: its message would carry no noise of its own, and its policy "
                "says allow-raw-gradients = false"
            )
        if not raw and terms.message_noise_multiplier < self.min_noise_multiplier:
            raise PolicyRefusal(
                f"this site refuses: noise multiplier of its message = {terms.message_noise_multiplier:.4g}, below its "
                f"min-noise-multiplier = {self.min_noise_multiplier}"
            )
        if terms.clip_norm > self.max_clip_norm:
            raise PolicyRefusal(
                f"this site refuses: clip norm = {terms.clip_norm:.4g}, above its max-clip-norm = {self.max_clip_norm}"
            )


def _flag(node_config: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = node_config.get(key, default)
    if not isinstance(value, bool):
        raise PolicyRefusal(f"node config {key} = {value!r}: write true or false without quotes; refusing until then")
    return value
