"""One round of ``dr-encoder run`` in this process, on rows of a person's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tests.support.tiny import write_jsonl
from workbench.cli import main as cli


def run_on(folder: Path, own: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]], **keys: Any) -> str:
    """What is printed by a run on ``own.jsonl`` and ``held.jsonl`` of ``folder``, a client a row; results in ``x``.

    ``keys`` are more of the run's (``data__max_length`` = ``data.max-length``).
    """
    given = {
        "data.name": write_jsonl(folder / "own.jsonl", list(own)),
        "data.evaluation": write_jsonl(folder / "held.jsonl", list(held_out)),
        "federation.num-clients": len(own), "data.partitioner": "iid", "num-server-rounds": 1,
        "strategy.name": "lora", "privacy.epsilon": "inf", "privacy.sampling-rate": 1.0,
        "output.dir": folder, "output.name": "x",
        **{key.replace("__", ".").replace("_", "-"): value for key, value in keys.items()},
    }  # fmt: skip
    options = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    run = CliRunner().invoke(cli.app, ["run", "--engine", "inline", *options])
    assert run.exit_code == 0, run.output
    return run.output
