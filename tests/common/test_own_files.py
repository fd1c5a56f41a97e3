"""Whether another user could have written a file that is trusted, or put it there."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from client_app.exchange_file import claim
from client_app.site_keys import read_peers, read_private
from client_app.site_ledger import create_ledger
from common import own_files
from common.own_files import why_not_own, writers


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file in a folder of its own, both this user's alone."""
    path = tmp_path / "place" / "ledger.jsonl"
    path.parent.mkdir(mode=0o700)
    create_ledger(path)
    return path


def test_what_is_this_users_alone_is_trusted(own: Path) -> None:
    assert why_not_own(own) == ""
    link = own.with_name("link")
    link.symlink_to(own)
    assert why_not_own(link) == "", "as secrets are mounted"


@pytest.mark.parametrize(("mode", "who"), [(0o777, "every user"), (0o770, "its group")])
def test_a_folder_in_which_others_may_put_another_file_is_refused(
    own: Path, mode: int, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full ledger was replaced by one with nothing spent, 0600 as the old one."""
    monkeypatch.setattr(own_files.grp, "getgrgid", lambda _: SimpleNamespace(gr_name="others", gr_mem=[]))
    own.parent.chmod(mode)
    assert f"{who} may put another in its place: chmod" in why_not_own(own)
    with pytest.raises(ValueError, match="may put another in its place"):
        read_peers(own)
    with pytest.raises(ValueError, match="may put another in its place"):
        read_private(own)
    own.parent.chmod(mode | 0o1000)
    assert why_not_own(own) == "", "only owners rename there"


def test_a_link_counts_by_where_it_lies_and_by_what_it_names(own: Path, tmp_path: Path) -> None:
    link = tmp_path / "open" / "ledger.jsonl"
    link.parent.mkdir()
    link.symlink_to(own)
    link.parent.chmod(0o777)
    assert f"chmod o-w {link.parent}" in why_not_own(link)
    link.parent.chmod(0o700)
    own.parent.chmod(0o777)
    assert f"chmod o-w {own.parent}" in why_not_own(link)


def test_a_file_that_others_may_write_or_own_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.chmod(0o606)
    assert "every user may write to it: chmod o-w" in why_not_own(own)
    own.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = "" if own.stat().st_uid == 0 else "belongs to another user"
    assert found in why_not_own(own)
    assert bool(why_not_own(own)) == bool(found), "root's is trusted"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_is_refused(own: Path) -> None:
    os.chown(own, 65534, -1)
    assert "belongs to another user" in why_not_own(own)
    own.parent.chmod(0o700)
    assert writers(own) is None


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is no file" in why_not_own(tmp_path / "pipe")


def test_the_file_of_exchanges_is_no_link(own: Path, tmp_path: Path) -> None:
    """It was made where somebody else's link led."""
    Path(f"{own}.exchanges").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        claim(str(own), b"key", 1, 0)
    assert not (tmp_path / "elsewhere").exists()
