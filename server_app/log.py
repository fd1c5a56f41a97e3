"""The structured log of a run: one JSON object a line in ``results/<run>/events.jsonl``, through Python's ``logging``.

It says what happened when; the figures of a round are in ``metrics.jsonl``, the charges in ``ledger.jsonl``. Like them
it belongs to the server: it names nodes that were asked, and amplification holds only while cohorts stay secret.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server_app.results import json_lines

_LOG = logging.getLogger("dr-encoder.server")
_LOG.setLevel(logging.INFO)
_LOG.addHandler(logging.NullHandler())  # outside a run nothing is written, not even by logging's last resort
_LONGEST_TEXT = 500  # characters: a reason is what a client wrote


def log_event(event: str, *, level: int = logging.INFO, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write one event of the run under way; ``fields`` are ``round`` (0: stage 1, base model), ``node`` and its own."""
    _LOG.log(level, event, extra={"fields": fields})


@contextmanager
def recording(path: Path, run: int, sites: Mapping[int, str] | None = None) -> Iterator[None]:
    """Write the events of this block to ``path``, behind what is there; ``run`` is Flower's id (0: no SuperLink).

    ``sites``: registered names by node id, as they are at an event: one that tells a ``node`` tells its ``site`` too
    where it has a name. An error that leaves the block is the last event, ``run_failed``, or ``run_stopped`` where
    somebody ends the process. A log that ends with none of these and ``run_ended`` is of a process that was killed.
    """
    json_lines.end_torn_line(path)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLine(run, {} if sites is None else sites))
    _LOG.addHandler(handler)
    try:
        yield
    except BaseException as error:
        if is_told_to_end(error):
            log_event("run_stopped", level=logging.WARNING, reason="told to end at once (flwr stop, SIGTERM or Ctrl-C)")
            raise
        log_event("run_failed", level=logging.ERROR, error=type(error).__name__, reason=str(error))
        raise
    finally:
        _LOG.removeHandler(handler)
        handler.close()


def is_told_to_end(error: BaseException) -> bool:
    """Whether somebody ends the process, which is no fault of the run: Flower does it by ``sys.exit(0)``."""
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and not error.code)


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events so far, oldest first; a line that a crash has torn is left out."""
    return json_lines.read(path)


class _JsonLine(logging.Formatter):
    """``time`` (UTC), ``level``, ``event``, ``run``, then the event's fields in their order, and ``site``."""

    def __init__(self, run: int, sites: Mapping[int, str]) -> None:
        super().__init__()
        self._run = run
        self._sites = sites

    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "run": self._run,
        }
        fields = {key: _short(value) for key, value in record.__dict__["fields"].items()}
        site = self._sites.get(fields.get("node", 0))
        return json.dumps(head | fields | ({"site": site} if site else {}))


def _short(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return f"{value[:_LONGEST_TEXT]}…" if isinstance(value, str) and len(value) > _LONGEST_TEXT else value
