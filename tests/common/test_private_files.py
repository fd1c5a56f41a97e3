from pathlib import Path

import pytest

from common.private_files import close_to_others


def test_a_folder_is_closed_while_somebody_replaces_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever resumed a run under way could meet a file of its checkpoint between being made and being renamed."""
    kept, listed = tmp_path / "kept", Path.rglob
    kept.write_text("x")
    kept.chmod(0o644)
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: [self / "gone", *listed(self, pattern)])
    close_to_others(tmp_path)
    assert kept.stat().st_mode & 0o777 == 0o600
