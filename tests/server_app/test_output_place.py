"""Where results go: a folder in which nobody can put another in a run's place."""

import grp
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import own_files
from common.config import ConfigError
from server_app.results import output_place
from server_app.results.output_place import check_output, write_fault
from tests.support.tiny import Files, tiny_config

SWAPPED = [(0o777, "every user"), (0o703, "every user"), (0o1777, ""), (0o755, ""), (0o770, "its group"), (0o1770, "")]


@pytest.mark.parametrize(("mode", "refused"), SWAPPED)
def test_a_folder_in_which_anybody_may_swap_a_run_for_another_is_refused(
    files: Files, tmp_path: Path, mode: int, refused: str
) -> None:
    """Whoever renames a run's folder and makes one of that name reads what is written next: a round's cohort."""
    place = tmp_path / "results"
    place.mkdir()
    os.chown(place, -1, _shared_group())
    place.chmod(mode)
    for changes in ({}, {"resume": str(place / "run")}):
        config = tiny_config(files, place, changes)
        if refused:
            with pytest.raises(ConfigError, match=rf"{refused} may rename what lies in it; close it \(chmod [og]-w\)"):
                check_output(config.output, config.resume)
        else:
            check_output(config.output, config.resume)


def _shared_group() -> int:
    """A group that is not this user's alone; as root any will do."""
    own = pwd.getpwuid(os.geteuid())
    others = [group.gr_gid for group in grp.getgrall() if group.gr_name != own.pw_name]
    mine = others if os.geteuid() == 0 else [number for number in os.getgroups() if number in others]
    if not mine:
        pytest.skip("this user has no group but its own")
    return mine[0]


def test_a_group_of_one_user_is_no_group(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems give each user a group of its own, and make folders that it may write into."""
    place = tmp_path / "results"
    place.mkdir()
    os.chown(place, -1, _shared_group())
    place.chmod(0o775)
    user = pwd.getpwuid(os.geteuid())
    group = SimpleNamespace(gr_name=user.pw_name, gr_mem=[])
    mine = [SimpleNamespace(pw_name=user.pw_name, pw_gid=place.stat().st_gid)]
    monkeypatch.setattr(own_files.grp, "getgrgid", lambda _: group)
    monkeypatch.setattr(own_files.pwd, "getpwall", lambda: mine)
    check_output(tiny_config(files, place, {}).output)
    with monkeypatch.context() as patched:
        patched.setattr(own_files.os, "listxattr", lambda _: ["system.posix_acl_access"])
        with pytest.raises(ConfigError, match="its group may rename"):
            check_output(tiny_config(files, place, {}).output)
    with monkeypatch.context() as patched:
        other = SimpleNamespace(pw_name="another", pw_gid=place.stat().st_gid)
        patched.setattr(own_files.pwd, "getpwall", lambda: [*mine, other])
        with pytest.raises(ConfigError, match="its group may rename"):
            check_output(tiny_config(files, place, {}).output)
    group.gr_mem = ["somebody"]
    with pytest.raises(ConfigError, match="its group may rename"):
        check_output(tiny_config(files, place, {}).output)


def meanwhile(monkeypatch: pytest.MonkeyPatch, other: Callable[[Path], Any]) -> None:
    """Let another start do something at the place, once, just before this one writes there."""
    original, left = output_place.tempfile.TemporaryDirectory, [other]

    @contextmanager
    def writing(dir: Path) -> Iterator[None]:
        if left:
            left.pop()(dir)
        with original(dir=dir):
            yield

    monkeypatch.setattr(output_place.tempfile, "TemporaryDirectory", writing)


def test_a_folder_in_which_another_run_has_begun_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "new" / "results"
    meanwhile(monkeypatch, lambda folder: (folder / "run").mkdir())
    assert write_fault(place) == ""
    assert (place / "run").is_dir()


def test_a_folder_that_another_start_takes_away_again_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "new" / "results"
    meanwhile(monkeypatch, lambda folder: (folder.rmdir(), folder.parent.rmdir()))
    assert write_fault(place) == ""
    assert not (tmp_path / "new").exists(), "nothing is left behind"


def test_a_place_that_cannot_be_written_is_still_a_fault() -> None:
    assert write_fault(Path("/proc/results")).startswith("/proc/results: ")
