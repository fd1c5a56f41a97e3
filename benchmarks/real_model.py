"""A real language model on real data, one row a command: ``python -m benchmarks.real_model run --help``.

The app's own strategies, codecs, mechanism and messages in one process; ``--players`` clients play the cohort, with
the noise of the cohort's number (``compare/played.py``). A row is one set of keys with one step and one seed, and one
line of ``OUT/rows.jsonl``; a row that is there is not run again. Example:

    python -m benchmarks.real_model run --model DIR --data DIR --out OUT --set strategy.name=lora --steps .05,.1,.2
    python -m benchmarks.real_model score --model DIR --data DIR --out OUT --label lora --steps .1             # losses
    python -m benchmarks.real_model score --model DIR --data DIR --out OUT --label lora --steps .1 --beams 1,5 # BLEU
    python -m benchmarks.real_model table --out OUT
"""

import argparse
import itertools
import json
import shlex
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_data import read_lines
from benchmarks.real_gradients import gradient_figures
from benchmarks.real_run import BASE, MEAN, Place, base_row, row_key, run_row, scored_losses, scored_texts
from benchmarks.real_table import table
from benchmarks.weighted_code import WEIGHTED
from common.config import Scalar
from server_app.strategies import STRATEGIES
from workbench.cli.overrides import parse_value


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, none where there is no file."""
    return read_lines(path) if path.exists() else []


def append(path: Path, record: dict[str, Any]) -> None:
    """One line more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_keys(entries: Sequence[str]) -> dict[str, Scalar]:
    """``key=value`` entries as keys of the run configuration."""
    return {key: parse_value(value) for key, _, value in (entry.partition("=") for entry in entries)}


def rows_of(arguments: argparse.Namespace) -> list[dict[str, Scalar]]:
    """Every combination of the row's keys, steps and seeds."""
    fixed = read_keys(arguments.set)
    steps = [float(step) for step in arguments.steps.split(",")]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    return [{**fixed, "server.learning-rate": step, "seed": seed} for seed, step in itertools.product(seeds, steps)]


def run(arguments: argparse.Namespace) -> None:
    """Run what is not there yet; a row that fails is told and noted, and the next one runs."""
    place = place_of(arguments)
    path = place.out / "rows.jsonl"
    for own in [read_keys(arguments.set)] if arguments.base else rows_of(arguments):
        if (BASE if arguments.base else row_key(own, place.players)) in {record["id"] for record in records(path)}:
            continue
        print(f"{arguments.label} {own}", flush=True)
        try:
            record = base_row(place, own) if arguments.base else run_row(place, own)
        except Exception as error:  # one row that fails must not end the others
            traceback.print_exc()
            append(place.out / "failed.jsonl", {"keys": own, "error": f"{type(error).__name__}: {error}"})
            continue
        append(path, {"label": arguments.label, **record})


def queue(arguments: argparse.Namespace) -> None:
    """Run the lines of a file, each the arguments of one command; lines that are added meanwhile run too."""
    done = 0
    while True:
        lines = [
            line for line in arguments.file.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"
        ]
        if done >= len(lines):
            return
        line, done = lines[done], done + 1
        print(f"> {line}", flush=True)
        main(shlex.split(line))


def score(arguments: argparse.Namespace) -> None:
    """What is reported and never chosen by, of finished rows: losses, or with ``--beams`` texts; a line a score."""
    place = place_of(arguments)
    path = place.out / "scores.jsonl"
    beams = [int(number) for number in arguments.beams.split(",") if number]
    wanted: list[dict[str, Any]] = [{"beams": number, "every": arguments.every} for number in beams] or [{"beams": 0}]
    for row in records(place.out / "rows.jsonl"):
        step = row["keys"].get("server.learning-rate")
        if row["label"] != arguments.label or (arguments.steps and step not in arguments.steps):
            continue
        name = row["id"] + (MEAN if arguments.mean else "")
        for what in wanted:
            known = records(path)
            if any({"id": name, **what}.items() <= score.items() for score in known):
                continue
            found = scored_texts(place, row["keys"], name, **what) if beams else scored_losses(place, row["keys"], name)
            print(row["label"], row["keys"], what, found, flush=True)
            append(path, {"id": name, **what, **found})


def gradients(arguments: argparse.Namespace) -> None:
    """Print what clients' gradients have in common at the adapters of finished rows; ``--set`` may change the batch."""
    place = place_of(arguments)
    changes = read_keys(arguments.set)
    for row in records(place.out / "rows.jsonl"):
        if row["label"] == arguments.label:
            print(row["keys"], changes, gradient_figures(place, row["keys"] | changes, row["id"]), flush=True)


def place_of(arguments: argparse.Namespace) -> Place:
    """Where things are."""
    return Place(arguments.model, arguments.data, arguments.out, getattr(arguments, "players", 0))


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = found.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", required=True, help="folder of the base model")
    common.add_argument("--data", type=Path, required=True, help="folder of e2e-train.jsonl, e2e-test.jsonl and so on")
    common.add_argument("--out", type=Path, required=True, help="folder of results")
    one = commands.add_parser("run", parents=[common], help="run rows")
    one.add_argument("--set", action="append", default=[], metavar="key=value", help="a key of the run configuration")
    one.add_argument("--steps", default="1.0", help="values of server.learning-rate")
    one.add_argument("--seeds", default="1")
    one.add_argument("--players", type=int, default=4, help="clients that play a cohort")
    one.add_argument("--label", default="", help="name of the row in the table")
    one.add_argument("--base", action="store_true", help="the base model instead, one row of an --out")
    one.set_defaults(call=run)
    many = commands.add_parser("queue", help="run the lines of a file, each the arguments of a command")
    many.add_argument("file", type=Path)
    many.set_defaults(call=queue)
    scores = commands.add_parser("score", parents=[common], help="test scores of finished rows")
    scores.add_argument("--label", required=True, help="of the rows of this name")
    scores.add_argument("--steps", default=[], type=lambda text: [float(step) for step in text.split(",")])
    scores.add_argument("--mean", action="store_true", help="of the mean adapter of the second half of the rounds")
    scores.add_argument("--beams", default="", help="BLEU and ROUGE of texts, so many beams; else losses")
    scores.add_argument("--every", type=int, default=6, help="texts of one test prompt in so many; 1 = all")
    scores.set_defaults(call=score)
    alike = commands.add_parser("gradients", parents=[common], help="what clients' gradients have in common")
    alike.add_argument("--label", required=True, help="at the adapters of the rows of this name")
    alike.add_argument("--set", action="append", default=[], metavar="key=value", help="other than in the row")
    alike.set_defaults(call=gradients)
    page = commands.add_parser("table", help="the rows that are there, as Markdown")
    page.add_argument("--out", type=Path, required=True)
    page.set_defaults(
        call=lambda chosen: print(table(records(chosen.out / "rows.jsonl"), records(chosen.out / "scores.jsonl")))
    )
    return found


@contextmanager
def experimental_strategies() -> Iterator[None]:
    """Let ``strategy.name`` be one that only experiments know."""
    added = WEIGHTED.keys() - set(STRATEGIES)  # none where a queue runs a line of its own
    STRATEGIES.update(WEIGHTED)
    try:
        yield
    finally:  # one by one: the others' entries hold more than their classes
        for name in added:
            del STRATEGIES[name]


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    torch.set_num_threads(1)
    chosen = parser().parse_args(words)
    with experimental_strategies():
        chosen.call(chosen)


if __name__ == "__main__":
    main()
