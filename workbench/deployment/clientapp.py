"""Flower's ClientApp process, but that it loads an app from where it has unpacked it and from nowhere else.

A SuperNode holds a bundle against the signatures that its site wants. The folder that is then loaded Flower 1.41 makes
of the run's name and version, which the SuperLink tells: with ``..`` in them a bundle that the site had signed was
unpacked, and the code of another folder run, of a model that the operator had handed out. ``superexec`` starts this in
place of ``flwr-clientapp``, whose arguments it takes.
"""

from pathlib import Path

from flwr.clientapp import utils
from flwr.common.config import get_project_dir
from flwr.common.constant import APP_DIR
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp


def unpacked(fab_id: str, fab_version: str, fab_hash: str) -> Path:
    """Where the app of a run lies; ``ValueError`` for a name or a version that leads elsewhere."""
    folder = get_project_dir(fab_id, fab_version, fab_hash)
    if folder.parent != get_flwr_home() / APP_DIR:
        raise ValueError(f"app {fab_id!r} of version {fab_version!r} is none that was unpacked here")
    return folder


if __name__ == "__main__":
    for module in (utils, run_clientapp):
        module.get_project_dir = unpacked  # type: ignore[attr-defined]  # there is no other way in
    flwr_clientapp()
