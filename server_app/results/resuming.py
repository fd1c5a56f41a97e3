"""Whether the run in a folder can be continued, and what one that cannot has spent. Nothing heavy at the top."""

import json
import shlex
from pathlib import Path
from typing import Any, Literal

from common.config import ConfigError, RunConfig, Scalar, flatten, known_keys, unknown_keys
from common.config.toml_files import read_tables
from server_app.results.checkpoint_files import CLIENTS_ARE, ENDED, STATE, checkpoint_fault, last_checkpoint, read_state
from server_app.results.strange_files import TRACKERS, strange_file
from server_app.results.units import show, show_delta

Clients = Literal["simulated", "deployed"]
"""What the clients of a run are: processes on this machine that share one data set, or sites with their own."""

_FREE = {
    *("resume", "output.dir", "output.name", "output.tracker"),
    *("federation.connect-timeout", "federation.wait-timeout", "federation.round-timeout"),
    *("federation.max-in-flight", "federation.max-failed-rounds"),
}
"""Keys that say nothing of the guarantee, nor of what is computed: how long a resumed run waits may be mended."""


def why_not_resumable(folder: Path) -> str:
    """Why the run in ``folder`` cannot be continued, with what it has spent; ``""`` where it can.

    There is no checkpoint before stage 1 has ended. What a folder from elsewhere links to would be written over.
    """
    if why := strange_file(folder, others=TRACKERS):
        return why
    if not (folder / "checkpoint" / "latest").exists():
        return f"it stopped before its first checkpoint; {_spent(folder)}; start it anew"
    if (folder / "checkpoint" / ENDED).exists():
        return "this run has ended; start a new run"
    return _other_version(folder) or checkpoint_fault(folder / "checkpoint")


def how_to_resume(folder: Path) -> str:
    """The command that continues the run in ``folder``; where nobody knows what its clients are, that of each kind."""
    simulated = f"dr-encoder run --resume {shlex.quote(str(folder))}"
    place = folder.resolve()
    keys = f"output.dir = {_quoted(place.parent)} and output.name = {_quoted(place.name)}"
    deployed = (
        "python -m workbench.deployment.submit CONNECTION --config FILE --resume-existing, where FILE has the keys "
        f"that the run was started with, {keys}"
    )
    known = _known_clients(folder)
    return {"simulated": simulated, "deployed": deployed}.get(
        known, f"{simulated}; if its sites are deployed: {deployed}"
    )


def _quoted(value: object) -> str:
    """A text as TOML has it."""
    return json.dumps(str(value), ensure_ascii=False)


def why_other_clients(folder: Path, own: Clients) -> str:
    """Why the run in ``folder`` is not continued with ``own`` clients, and how it is; ``""`` where nothing is against.

    Rounds of clients of the other kind would spend its budget and end it.
    """
    known = _known_clients(folder)
    if known in {"", own}:
        return ""
    return f"its clients are {known}, not {own}; continue it with: {how_to_resume(folder)}"


def unknown_clients(folder: Path, own: Clients) -> str:
    """A warning where the run in ``folder``, of an earlier version, does not say what its clients are; else ``""``."""
    if _known_clients(folder):
        return ""
    return f"an earlier version did not record whether this run's clients were {own}; stop it if they were not"


def planned_clients(folder: Path) -> int:
    """How many clients the run in ``folder``, which can be resumed, was planned for."""
    return int(_state(folder)["clients"])


def taken(folder: Path) -> ConfigError:
    """That a run's name is another's; how that one is continued is told where it can be."""
    more = "" if why_not_resumable(folder) else f", or continue that run with: {how_to_resume(folder)}"
    return ConfigError(f'output.name = "{folder.name}": {folder} exists already; choose another name{more}')


def check_same_run(config: RunConfig) -> None:
    """A run is resumed under the configuration that it was planned with, or its epsilon would mean nothing."""
    folder = Path(config.resume)
    if why := _other_version(folder):
        raise ConfigError(f'resume = "{folder}": {why}')
    saved = RunConfig.parse(_saved(folder) | _planned(folder)).flat()
    free = set(_FREE)
    if not config.federation.num_clients:
        free.add("federation.num-clients")  # the number that is connected is checked against the plan's
    changed = [key for key, value in config.flat().items() if key not in free and saved[key] != value]
    if changed:
        lines = "; ".join(f"{key} was {saved[key]!r}, is {config.flat()[key]!r}" for key in changed)
        raise ConfigError(f'resume = "{config.resume}": the configuration differs from that run\'s: {lines}')


def _other_version(folder: Path) -> str:
    """Where a run was saved with keys that are no more, that it was: what they did, nobody knows here. Else ``""``."""
    try:
        strange = unknown_keys(_saved(folder))
    except ConfigError:  # told by who reads it in earnest
        return ""
    if not strange:
        return ""
    return (
        f"its config.toml has {', '.join(strange)}, which this version does not know; continue it with the version "
        "that began it, or start a new run (what ledger.jsonl has charged stays spent)"
    )


def _saved(folder: Path) -> dict[str, Scalar]:
    return flatten(read_config(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """``config.toml`` of a run's folder as it stands. Raises ``ConfigError`` where that is no file of TOML."""
    path = folder / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    return read_tables(path)


def _planned(folder: Path) -> dict[str, Scalar]:
    """What the last checkpoint says of the configuration; config.toml is a file that somebody can edit.

    But for the number of clients: a deployed run writes into config.toml how many it found.
    """
    planned = known_keys(_state(folder).get("configuration", {}))
    planned.pop("federation.num-clients", None)
    return planned


def _known_clients(folder: Path) -> str:
    """What the last checkpoint says that the clients are; ``""`` where it is of a version that did not say."""
    return str(_state(folder).get(CLIENTS_ARE, ""))


def _state(folder: Path) -> dict[str, Any]:
    """What the last checkpoint says; nothing where it is damaged, or none yet: told by who reads it in earnest."""
    try:
        return read_state(last_checkpoint(folder / "checkpoint") / STATE)
    except (OSError, ValueError):
        return {}


def _spent(folder: Path) -> str:
    """What the ledger of a run without a checkpoint holds: charged is spent, whether anybody has answered or not.

    Of such a run that is stage 1.
    """
    path = folder / "ledger.jsonl"
    if not path.exists() or not path.stat().st_size:
        return "nothing had been charged"
    from common.privacy.accounting import default_delta, epsilon  # noqa: PLC0415 - scipy, which who can resume need not wait for
    from server_app.privacy.ledger import Ledger, LedgerError  # noqa: PLC0415
    from server_app.privacy.plan import MOST_SET_ASIDE, provable  # noqa: PLC0415

    try:
        saved, charges = _saved(folder), Ledger(path, read_only=True).charges
        config = RunConfig.parse(known_keys(saved))
    except (OSError, ValueError, LedgerError) as error:
        return f"what it has spent cannot be read ({error})"
    delta = config.privacy.delta or default_delta(config.federation.num_clients)
    cost = show(provable(epsilon(charges, (1 - MOST_SET_ASIDE) * delta)))
    labels = ", ".join(dict.fromkeys(charge.label for charge in charges))
    limit = "" if cost == "inf" else "at most "  # how much of delta its plan had set aside is not saved
    return (
        f"its ledger has charged {labels}: {limit}epsilon {cost} at delta {show_delta(delta)} is spent on these clients"
    )
