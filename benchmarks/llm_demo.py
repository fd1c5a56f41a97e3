"""``make demo-llm`` with a cohort that few of its clients play: to choose its keys in minutes each.

The rows, the preset and the messages are the demo's; the noise and its accounting are those of the whole cohort
(``workbench/compare/played.py``). ``--set`` as of the demo; ``--practices``: clients of a larger or smaller one.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from client_app.app import app
from common.config import RunConfig, Scalar
from server_app.results.console import ConsoleLog
from server_app.run import run_federation
from workbench.cli.command_line import main_with_plain_errors
from workbench.cli.overrides import parse_overrides
from workbench.compare.played import PlayedGrid, not_for_players
from workbench.llm_demo.demo import PRESET, as_text, packaged_model
from workbench.llm_demo.visits import PRACTICES, write_visits
from workbench.simulation.launcher import read_preset


def played(folder: Path, model: str, practices: int, players: int, overrides: Sequence[str]) -> str:
    """Run it and return the samples before and after; its progress is printed."""
    private, public = write_visits(folder, practices)
    keys: dict[str, Scalar] = {
        "model.name": model,
        "data.name": str(private),
        "data.evaluation": str(public),
        "output.dir": str(folder),
        "output.name": "run",
        "federation.num-clients": practices,
        "federation.max-in-flight": 0,  # a push is the whole cohort, of which some play
        "privacy.trust": "central",
    }
    config = RunConfig.parse(read_preset(str(PRESET)) | keys | parse_overrides(list(overrides)))
    say = ConsoleLog(mark="")
    say.warning(not_for_players(players, practices))
    results = run_federation(PlayedGrid(app, config, players), config, say=say)
    say.warning(not_for_players(players, practices))
    report = json.loads((results.path / "report.json").read_text(encoding="utf-8"))
    return as_text(report["samples"])


def main(words: Sequence[str] | None = None) -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--practices", type=int, default=PRACTICES, help="clients")
    parser.add_argument("--players", type=int, default=6, help="clients that play a cohort")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="a key of the run")
    chosen = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        print(played(Path(scratch), packaged_model(), chosen.practices, chosen.players, chosen.set))


if __name__ == "__main__":
    main_with_plain_errors(main)
