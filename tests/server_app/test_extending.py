"""The strategy that docs/extending.md shows runs as it stands, in the files that the page names."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
COPIED = ("client_app", "common", "server_app", "benchmarks", "tests", "dr_encoder_client.py", "pyproject.toml")
PLACES = (
    "common/codecs/thinned.py",
    "server_app/strategies/thinned_lora.py",
    "common/codecs/__init__.py",
    "server_app/strategies/__init__.py",
)
"""Where the page's blocks belong, in their order; what exists gets them at its end."""


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_page_stays_short_and_names_its_files() -> None:
    assert len([line for block in blocks() for line in block.splitlines() if line.strip()]) < 40
    places = [PAGE.read_text().index(f"`{place}`") for place in PLACES]
    assert places == sorted(places)


def test_the_strategy_of_the_page_runs_in_a_copy_of_the_app(tmp_path: Path) -> None:
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for place, block in zip(PLACES, blocks(), strict=True):
        with (tmp_path / place).open("a") as file:
            file.write(block)
    checks = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/support/extending_checks.py"]
    done = subprocess.run(checks, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout
