"""``dr-encoder check-site``: what a run would ask of a site, tried beforehand and at the site alone.

The same code as in a run reads the limits, the data and the model; nothing is released, charged or sent. The server is
asked for one answer over TLS, for its certificate and its clock.
"""

import email.utils
import math
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from client_app.resident import QUANTUM_KEY
from common.config import ConfigError
from common.counts import count
from common.own_files import why_not_own
from workbench.deployment.supernode import read_node_config

if TYPE_CHECKING:
    from client_app.policy import SitePolicy

_FEWEST_DAYS = 14.0
_MOST_SECONDS = 3.0  # Flower 1.41 turns away what is signed 5 s ahead
_SECONDS_TO_ANSWER, _LONGEST_ANSWER = 10.0, 1 << 16  # of a server that is asked for one answer; bytes of its head
_PATIENCE = 15.0


class CheckFailed(RuntimeError):
    """One thing is not as it must be; the message says what would be right."""


@dataclass(frozen=True)
class Finding:
    """What one check found: its name, whether it passed, and in words what was found."""

    what: str
    passed: bool
    text: str


def check_site(node_config: str, run_config: Mapping[str, Any], superlink: str, authority: str) -> list[Finding]:
    """Every check in order; ``superlink`` ("": not asked) is host and port, ``authority`` its certificate file."""
    found: list[Finding] = []
    node: dict[str, Any] = {}

    def parse() -> str:
        node.update(read_node_config(node_config))
        return count(len(node), "key") if node else "empty: no data of this site's own, and no limits"

    _run(found, "node config", parse)
    if found[-1].passed:
        _run(found, "limits", lambda: _limits(node))
        if found[-1].passed:
            _run(found, "limits and run", lambda: _limits_and_run(node, run_config))
        _run(found, "data and model", lambda: _data_and_model(node, run_config))
    if superlink:
        _run(found, "server", lambda: f"{superlink} {_server(superlink, authority)}")
    return found


def _run(found: list[Finding], what: str, check: Callable[[], str]) -> None:
    try:
        found.append(Finding(what, True, check()))
    except (CheckFailed, ConfigError, PermissionError) as error:  # the last is a policy's refusal too
        found.append(Finding(what, False, str(error)))
    except Exception as error:  # a tool that looks for what is wrong must survive finding it
        found.append(Finding(what, False, f"{type(error).__name__}: {error}"))


def _limits(node: Mapping[str, Any]) -> str:
    from client_app.policy import SitePolicy  # noqa: PLC0415 - torch, which --help need not wait for

    policy = SitePolicy.from_node_config(node)
    spent = {"spent so far": _spent(policy)} if policy.ledger_path else {}
    shown = {
        "min-noise-multiplier": policy.min_noise_multiplier,
        "max-clip-norm": policy.max_clip_norm,
        "max-releases": policy.max_releases or "none",
        "max-epsilon": policy.max_epsilon or "none",
        QUANTUM_KEY: node.get(QUANTUM_KEY, 0) or "none: an answer takes as long as it takes",
        "allow-raw-gradients": str(policy.allow_raw_gradients).lower(),
        "ledger-path": policy.ledger_path or "none: the ledger ends with a run or a restart",
        **spent,
        "require-secure-aggregation": str(policy.require_secure_aggregation).lower(),
        **_secure(node, policy),
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _limits_and_run(node: Mapping[str, Any], run_config: Mapping[str, Any]) -> str:
    from client_app.policy import SitePolicy  # noqa: PLC0415 - as above
    from workbench.deployment.site_terms import compared  # noqa: PLC0415

    return compared(SitePolicy.from_node_config(node), run_config)


def _secure(node: Mapping[str, Any], policy: "SitePolicy") -> dict[str, object]:
    """What it counts on under secure aggregation, where it has keys for that or demands it."""
    from client_app.site_keys import SiteKeys  # noqa: PLC0415 - as above

    if not (policy.require_secure_aggregation or node.get("site-key") or node.get("peers")):
        return {}
    keys = SiteKeys.from_node_config(node)
    if keys.private and len(keys.peers) < policy.min_peers:
        raise CheckFailed(
            f"min-peers = {policy.min_peers}: of peers only {len(keys.peers)} are pinned, so no sum would ever do"
        )
    return {"min-peers": policy.min_peers, "peers pinned": len(keys.peers)}


def _spent(policy: "SitePolicy") -> str:
    """What its ledger says; one that cannot be read refuses everything, and of a full one nobody else is told."""
    from client_app.site_ledger import read_ledger  # noqa: PLC0415 - as above

    path = Path(policy.ledger_path)
    _check_ledger(path)
    spent = read_ledger(path)
    if spent is None:
        raise CheckFailed(
            f"ledger-path = {path}: this is no ledger that this code wrote, so what was spent is unknown and every "
            "message is refused; bring the newest copy back, or count everything as spent"
        )
    cost = spent.epsilon(policy.policy_delta) if spent.releases else 0.0
    told = f"{count(spent.releases, 'message')}, epsilon {cost:.3g} at policy-delta {policy.policy_delta:g}"
    if spent.releases >= (policy.max_releases or math.inf) or (policy.max_epsilon and cost >= policy.max_epsilon):
        raise CheckFailed(
            f"ledger-path = {path}: no room is left in it ({told}): this site answers nothing but noise. Raise "
            "max-epsilon or max-releases if you would sign for more"
        )
    return told


def _check_ledger(path: Path) -> None:
    """It must be there, and is opened for appending by the user that runs submitted code: try it as that user."""
    if not path.exists():
        raise CheckFailed(
            f"ledger-path = {path}: no ledger there; as the superexec's user make it once: python -m "
            f"client_app.new_ledger {path}"
        )
    if why := why_not_own(path):
        raise CheckFailed(f"ledger-path = {why}; it is refused until then")
    if not os.access(path, os.W_OK):
        raise CheckFailed(
            f"ledger-path = {path}: this user may not write to it; check as the superexec's user (sudo -u "
            "dr-encoder-app)"
        )


def _data_and_model(node: Mapping[str, Any], run_config: Mapping[str, Any]) -> str:
    """One local update, as a round would compute it, on the site's own examples; its result goes nowhere."""
    from flwr.app import Context, RecordDict  # noqa: PLC0415 - as above

    from client_app.local_update import local_update  # noqa: PLC0415
    from client_app.site import ModelUnavailable, Site  # noqa: PLC0415
    from common.data import load_examples  # noqa: PLC0415
    from common.model.precision import slow_arithmetic  # noqa: PLC0415

    context = Context(
        run_id=0, node_id=0, node_config=dict(node), state=RecordDict(), run_config=dict(run_config), series_id=0
    )
    site = Site.of(context)
    if site.data is not None:
        site.data.check(site.config, site.config.train)
        load_examples(site.data.path, site.data.settings(site.config.data))  # names the row that a run would leave out
    began = time.monotonic()
    try:
        adapted = site.model()
    except ModelUnavailable as unavailable:  # a run's server is not told why; the site is
        raise CheckFailed(str(unavailable.__cause__)) from None
    examples = site.examples(adapted, 0.0, "rounds")
    started = time.monotonic()
    gradient = local_update(adapted, adapted.initial, examples, site.config.train, site.seed(1))
    ended = time.monotonic()
    if not gradient.isfinite().all():
        raise CheckFailed("the local gradient is not finite: look at model.dtype and at the rows")
    quantum = float(node.get(QUANTUM_KEY, 0))
    _check_in_time(ended - began + (_start() if quantum else 0), quantum, site.config.federation.round_timeout)
    where = node.get("data-path") or "the run's own data"
    slow = slow_arithmetic(site.config.model)
    return (
        f"{count(len(examples), 'example')} from {where}, model {run_config['model.name']} on {adapted.device}, "
        f"loaded in {started - began:.1f} s, one local update in {ended - started:.1f} s"
        f"{slow and f'; {slow}'}"
    )


def _start() -> float:
    """Seconds that a worker takes to start: a process of its own that imports what it needs."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-P", "-c", "import client_app.app"], check=True)
    return time.monotonic() - began


def _check_in_time(seconds: float, quantum: float, wait: float) -> None:
    """A worker that is late over its first answer is stopped, and the next one begins anew: none would have rows."""
    if 0 < quantum < seconds:
        raise CheckFailed(
            f"{QUANTUM_KEY} = {quantum:g}: a first answer takes {seconds:.1f} s here, the start of a worker included, "
            "and how many of them it takes would tell of rows; write more than the longest answer takes, twice this say"
        )
    if quantum:
        seconds = quantum * math.ceil(seconds / quantum)
    if seconds > wait:
        padded = f" ({QUANTUM_KEY} = {quantum:g})" if quantum else ""
        raise CheckFailed(
            f"a first answer takes {seconds:.0f} s here{padded} and a round waits federation.round-timeout = {wait:g} "
            "s, so all answers would be noise, and charged; ask for a longer one, or give fewer rows"
        )


def _server(superlink: str, authority: str) -> str:
    where = urlsplit(f"//{superlink}")
    if not where.hostname or not where.port:
        raise CheckFailed(f"superlink = {superlink}: write host:port, as for flower-supernode")
    trust = ssl.create_default_context(cafile=authority or None)
    try:
        with (
            socket.create_connection((where.hostname, where.port), _PATIENCE) as plain,
            trust.wrap_socket(plain, server_hostname=where.hostname) as secure,
        ):
            days = _days_left(secure.getpeercert() or {})
            ahead = _seconds_ahead(secure, where.hostname)
    except OSError as error:  # ssl.SSLError is one
        raise CheckFailed(f"superlink = {superlink}: {error}") from None
    if days < _FEWEST_DAYS:
        raise CheckFailed(f"its certificate ends in {days:.1f} days; ask the operator for a new one in time")
    if abs(ahead) > _MOST_SECONDS:
        raise CheckFailed(
            f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's; Flower turns away "
            "what is 5 s ahead or 5 min old, without a word: set up NTP on both"
        )
    return f"answers over TLS, certificate valid for {days:.0f} days, clocks within {_MOST_SECONDS:.0f} s"


def _days_left(certificate: Mapping[str, Any]) -> float:
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400


def _seconds_ahead(secure: ssl.SSLSocket, host: str) -> float:
    """How far this clock is ahead, by the ``Date`` of any answer, which has whole seconds."""
    secure.sendall(f"HEAD /v1/fleet/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer, deadline = b"", time.monotonic() + _SECONDS_TO_ANSWER
    while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_ANSWER and time.monotonic() < deadline:
        piece = secure.recv(4096)
        if not piece:
            break
        answer += piece
    lines = answer.decode("latin-1").splitlines()
    dates = [line.partition(":")[2] for line in lines if line.lower().startswith("date:")]
    if not dates:
        raise CheckFailed("it answers without a date: is it the SuperLink, or the proxy before it?")
    return (datetime.now(UTC) - email.utils.parsedate_to_datetime(dates[0].strip())).total_seconds()
