"""What torch keeps between processes: nobody else of the machine may have put it there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.private_caches import compiled_folder

ROOT = Path(__file__).parents[2]
PLANTED = "config_value=__import__('pathlib').Path({!r}).touch()\n"


@pytest.mark.parametrize(
    ("module", "runs"),
    [
        ("bitsandbytes", True),
        ("client_app.site_data", False),
        ("server_app.app", False),
        ("workbench.planning.memory", False),
    ],
)
def test_nothing_is_run_that_lies_under_a_name_that_anybody_can_foretell(
    tmp_path: Path, module: str, runs: bool
) -> None:
    """torch evaluates a file in ``torchinductor_<user>`` of the temporary folder when bitsandbytes is imported."""
    temporary, ran = tmp_path / "tmp", tmp_path / "ran"
    planted = temporary / "torchinductor_alice" / "bisect"
    (planted / "inductor").mkdir(parents=True)
    (planted / "bisect_status.txt").write_text("backend=inductor\nsubsystem=x\n", encoding="utf-8")
    (planted / "inductor" / "x_config.txt").write_text(PLANTED.format(str(ran)), encoding="utf-8")
    own = {"TMPDIR": str(temporary), "LOGNAME": "alice", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    subprocess.run([sys.executable, "-c", f"import {module}"], env={**kept, **own}, cwd=tmp_path, check=True)
    assert ran.exists() is runs


@pytest.mark.parametrize("hostile", ["somebody else's", "open to others", "a link"])
def test_a_folder_that_somebody_else_has_made_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = compiled_folder()
    assert first == str(tmp_path / f"dr-encoder-{os.geteuid()}" / "torch") == compiled_folder()
    folder = Path(first).parent
    if hostile == "somebody else's":
        other_user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other_user)
        folder.rename(folder.with_name(f"dr-encoder-{other_user}"))
    elif hostile == "open to others":
        folder.chmod(0o777)
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    other, another = Path(compiled_folder()), Path(compiled_folder())
    assert other != another
    assert other.stat().st_mode & 0o777 == 0o700
    assert not other.is_relative_to(tmp_path)
    other.rmdir()
    another.rmdir()
