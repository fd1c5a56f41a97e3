"""Whether an interrupted run can be continued, told from its files; imports nothing heavy."""

from pathlib import Path
from typing import Any

from server_app.results.json_lines import load_json

LATEST, ENDED, TENSORS, STATE = "latest", "ended", "tensors.safetensors", "state.json"
"""Files of a ``checkpoint`` folder: what names the last one, the mark of a run that is over, what each one holds."""
CLIENTS_ARE = "clients-are"
"""Key of what the clients are, simulated or deployed; checkpoints of earlier versions lack it."""
_NEEDED = (
    "round",
    "failed-in-a-row",
    "diverged",
    "base-loss",
    "best",
    "prior",
    "stage-one",
    "codec",
    "elapsed",
    "ledger-head",
    "clients",
)
_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
_REMEDY = "restore it from a copy, or start a new run (what ledger.jsonl has charged stays spent)"


def checkpoint_fault(folder: Path) -> str:
    """What is wrong with the last checkpoint in ``folder``, and what to do, or ``""``."""
    fault = _fault(folder)
    return f"{fault}; {_REMEDY}" if fault else ""


def read_state(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's ``state.json``. Raises ``ValueError`` for one that is cut off or damaged."""
    state = load_json(_regular(path).read_bytes())
    lacking = [name for name in _NEEDED if name not in state] if isinstance(state, dict) else list(_NEEDED)
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return dict(state)


def last_checkpoint(folder: Path) -> Path:
    """What ``latest`` in ``folder`` names. Raises ``OSError`` where there is none, ``ValueError`` for no text."""
    return folder / _regular(folder / LATEST).read_text(encoding="utf-8").strip()


def _fault(folder: Path) -> str:
    try:
        last = last_checkpoint(folder)
    except ValueError:
        return f"checkpoint/{LATEST} is damaged"
    if last == folder or not last.is_dir():
        return f'checkpoint/{LATEST} names "{last.name}", which is not there'
    for name, check in ((STATE, read_state), (TENSORS, _check_tensors)):
        try:
            check(last / name)
        except FileNotFoundError:
            return f"checkpoint/{last.name}/{name} is missing"
        except (ValueError, KeyError, TypeError) as error:
            return f"checkpoint/{last.name}/{name} is cut off or damaged ({error})"
    return ""


def _regular(path: Path) -> Path:
    """A path of no pipe or device, which would be waited for. Raises ``ValueError`` for one of those."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    return path


def _check_tensors(path: Path) -> None:
    """Raise ``ValueError`` unless a safetensors file is as long as its header says."""
    with _regular(path).open("rb") as handle:
        length = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
        size = path.stat().st_size
        if not 0 < length <= size - _LENGTH_BYTES:
            raise ValueError("its header is cut off")
        header = load_json(handle.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{size} bytes where {expected} are needed")
