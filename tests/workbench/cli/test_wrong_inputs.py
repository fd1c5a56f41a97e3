"""A hundred and sixty wrong inputs: a line or two names what is wrong, before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

from tests.support.wrong_inputs import OTHERS, SETS


def test_every_wrong_input_is_a_line_or_two_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.wrong_inputs", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(SETS) + len(OTHERS) >= 160


def test_the_finder_of_faults_finds_them(tmp_path: Path) -> None:
    from tests.support.wrong_inputs import fault  # noqa: PLC0415 - beside the others that it is about

    assert "is not said" in fault(["run", "--set", "codec.kind=vae"], "something else", tmp_path)
    assert "exit 0" in fault(["keys"], "num-server-rounds", tmp_path)
