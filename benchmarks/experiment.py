"""A grid of runs in this process (no Ray), as a Markdown table: ``python -m benchmarks.experiment --help``.

Example: ``python -m benchmarks.experiment --grid codec.refresh-every=0,1 --seeds 3 --set data.task='"knowledge"'``.
The same handlers, strategies and messages run as under Flower; a test proves both equal.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

import torch

from common.config import Scalar
from server_app.results.units import show
from workbench.cli.command_line import main_with_plain_errors
from workbench.cli.overrides import parse_override, parse_overrides, parse_value
from workbench.compare.runs import run_report
from workbench.simulation.launcher import read_preset


def points(grid: list[str]) -> Iterator[dict[str, Scalar]]:
    """Every combination of ``key=value,value,...``."""
    named = [parse_override(entry, "--grid")[0] for entry in grid]
    values = [[parse_value(text) for text in entry.partition("=")[2].split(",")] for entry in grid]
    for combination in itertools.product(*values):
        yield dict(zip(named, combination, strict=True))


def row(point: dict[str, Scalar], reports: list[dict[str, Any]], seconds: float) -> str:
    """One line of the table."""
    finals = [report["outcome"]["final"] for report in reports]
    scores = [final["accuracy"] for final in finals]
    cells = [
        ", ".join(f"{key}={value}" for key, value in point.items()) or "as preset",
        f"{reports[0]['outcome']['base']['accuracy']:.3f}",
        f"{mean(scores):.3f} ({', '.join(f'{score:.3f}' for score in scores)})",
        f"{stdev(scores):.3f}" if len(scores) > 1 else "-",
        f"{mean(final.get('retention', float('nan')) for final in finals):.3f}",
        show(reports[0]["privacy"]["released_model"]["epsilon"]),
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the grid and print one row a point, as it is done, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--grid", action="append", default=[], metavar="key=v1,v2")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first-seed", type=int, default=1, help="1001: those that comparisons tune with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = read_preset(arguments.preset) | parse_overrides(arguments.set)
    rows = ["| point | base | accuracy, mean (each seed) | sd | retention | epsilon | s a run |"]
    rows.append("|---|---|---|---|---|---|---|")
    for point in points(arguments.grid):
        started = time.monotonic()
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        reports = [run_report(base | point | {"seed": seed}) for seed in seeds]
        rows.append(row(point, reports, (time.monotonic() - started) / len(reports)))
        print(rows[-1], flush=True)
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main_with_plain_errors(main)
