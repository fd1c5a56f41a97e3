"""Flower's ClientApp process, but that it loads the very bundle that its SuperNode has verified, and nothing else.

A SuperNode holds a bundle against the signatures that its site wants. The folder that is then loaded Flower 1.41 makes
of the run's name and version, which the SuperLink tells, and of eight digits of the bundle's hash; one that is there
already it takes as it is. With ``..`` in the name a bundle that the site had signed was unpacked, and the code of
another folder run, of a model that the operator had handed out. And eight digits can be met: who packs bundles gave a
new one those of an older, whose signature the site had withdrawn, and the older one would run. So each bundle is
unpacked into a folder that is named by its whole hash. ``superexec`` starts this in place of ``flwr-clientapp``, whose
arguments it takes.
"""

import hashlib
import logging
import tempfile
from pathlib import Path

from flwr.cli.install import install_from_fab
from flwr.clientapp import utils
from flwr.common.config import get_project_dir
from flwr.common.constant import APP_DIR
from flwr.supercore.utils import get_flwr_home
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

_BUNDLES, _NEW = "bundles", ".new-"


def unpack(content: bytes, install_dir: Path | None = None, skip_prompt: bool = True) -> Path:
    """Unpack a bundle where ``unpacked`` looks for it, all of it or nothing; the arguments are Flower's.

    Raises ``RuntimeError`` where it cannot: Flower sends its text to the server, so what the system says of folders of
    this machine stays in the site's own log.
    """
    try:
        return _unpacked(content, install_dir, skip_prompt)
    except Exception:
        logging.getLogger("flwr").exception("the app bundle cannot be unpacked")
    raise RuntimeError("the app bundle cannot be unpacked at this site; why is in the site's own log")


def _unpacked(content: bytes, install_dir: Path | None, skip_prompt: bool) -> Path:
    home = (install_dir or get_flwr_home()) / _BUNDLES
    home.mkdir(parents=True, exist_ok=True)
    folder = home / hashlib.sha256(content).hexdigest()
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=home, prefix=_NEW) as fresh:
            install_from_fab(content, Path(fresh, folder.name), skip_prompt)
            try:
                Path(fresh, folder.name).rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first
                    raise
    return install_from_fab(content, folder, skip_prompt)  # where it is; what is there is not unpacked again


def unpacked(fab_id: str, fab_version: str, fab_hash: str) -> Path:
    """Where the app of a run lies; ``ValueError`` for a name or a version that leads elsewhere.

    ``fab_hash``: of the bundle, as the SuperNode has computed it.
    """
    named = get_project_dir(fab_id, fab_version, fab_hash)
    if named.parent != get_flwr_home() / APP_DIR:
        raise ValueError(f"app {fab_id!r} of version {fab_version!r} is none that was unpacked here")
    return get_flwr_home() / _BUNDLES / fab_hash / APP_DIR / named.name


if __name__ == "__main__":
    run_clientapp.install_from_fab = unpack  # type: ignore[assignment, attr-defined]  # there is no other way in
    for module in (utils, run_clientapp):
        module.get_project_dir = unpacked  # type: ignore[attr-defined]
    flwr_clientapp()
