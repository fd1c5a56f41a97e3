"""Names of models and data as they may be published: a path tells of a machine and its user, its last part does not."""

from pathlib import Path

from common.file_names import names_a_file


def is_local(name: str) -> bool:
    """Whether a ``model.name`` or ``data.name`` is a place on this machine, not a hub id or ``"demo"``."""
    return names_a_file(name) or Path(name).exists() or name.count("/") > 1


def public_name(name: str) -> str:
    """The name itself, or the last part of a path; ``"local"`` where that has no name (``..``)."""
    return (Path(name).name.strip(".") or "local") if is_local(name) else name
