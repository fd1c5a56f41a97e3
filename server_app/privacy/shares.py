"""Shares of one noise: whose are counted on, and how much more the others add for those that are not."""

import math

from common.config import ConfigError, PrivacyConfig
from common.counts import count
from common.privacy.mechanism import MOST_SMOOTHING
from common.secure.directory import MOST_MEMBERS
from server_app.privacy.stage_one import StageOne


def colluders_counted(privacy: PrivacyConfig, clients: int) -> int:
    """How many clients' own noise shares are taken to be known to who looks at the model.

    None where the noise is not shared: in ``central`` no client has any of it, in ``local`` each one's is enough by
    itself. None either where there is one client: nobody else is there to look.
    """
    return privacy.colluders if privacy.trust in {"distributed", "secure"} and clients > 1 else 0


def shares_not_counted(privacy: PrivacyConfig, clients: int) -> int:
    """Noise shares without which a sum must carry its noise: the colluders', and in ``secure`` those of drop-outs."""
    missing = privacy.dropouts if privacy.trust == "secure" else 0
    return colluders_counted(privacy, clients) + missing


def noise_against(colluders: int, noise_multiplier: float, shares: int) -> float:
    """z·√(n/(n-c)), and a hair more: with n shares of it, what is left without the shares of c colluders is z.

    Clients that pool what they know with an outsider can subtract their own shares; the rest must still carry z²C² and
    the whole variance that pays for the discretisation (``MOST_SMOOTHING``), of which the colluders' shares had a part.
    Raises ``ConfigError`` unless c is below n.
    """
    if not (colluders and noise_multiplier):
        return noise_multiplier
    if colluders >= max(1, shares):
        raise ConfigError(
            f"privacy.colluders = {colluders}: must be below the {count(shares, 'noise share')} of a round (about the "
            "largest cohort), or nothing of the noise is left"
        )
    others = shares - colluders
    return noise_multiplier * math.sqrt(shares / (others - MOST_SMOOTHING * colluders))


def check_secure(privacy: PrivacyConfig, clients: int, stage: StageOne | None) -> None:
    """Refuse what secure aggregation cannot do; nothing in any other trust model."""
    if privacy.trust != "secure":
        return
    if stage is not None and not stage.private:
        raise ConfigError(
            'privacy.trust = "secure" with stage-one.private = false: what is masked are noisy integers; set '
            "stage-one.private = true"
        )
    if clients > MOST_MEMBERS:
        raise ConfigError(
            f'privacy.trust = "secure" with {clients:,} clients: everybody is masked with everybody, so at most '
            f"{MOST_MEMBERS:,} can take part; enroll fewer, or set another privacy.trust"
        )
    if clients - shares_not_counted(privacy, clients) < 1 or clients < 2:
        raise ConfigError(
            f'privacy.trust = "secure" with {count(clients, "client")}, privacy.dropouts = {privacy.dropouts} and '
            f"privacy.colluders = {privacy.colluders}: nobody is left whose noise counts; there must be at least two "
            "clients, and more than both together"
        )
