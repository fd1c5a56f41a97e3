"""The private rows of ``make demo-llm``: visits of home-care practices as records, and the handover notes on them.

A record and its note say the same; what the model shall learn is how such a note is written: name first, abbreviations,
no sentence too many. Every practice has patients of its own, sees some kinds of work more than others and has a habit
of its own, so clients differ as clients do. All of it is made from ``pieces.toml``.
"""

import json
import random
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PRACTICES = 60
_VISITS = 40  # of a practice
_PATIENTS = 8
_HELD_OUT = 2  # practices that are no clients, whose visits are public
_PROMPT = (
    "Visit. patient: {title} {name} | time: {time} | done: {done} | seen: {seen} | pain: {pain} of 10 | next: {next}\n"
    "Handover note:"
)
_SHAPES = (
    " {name}, {when}: {done}, {seen}. Pain {pain}/10. Back {back}.",
    " {name}, {when}: {done}. {Seen}, pain {pain}/10. Back {back}.",
)


@cache
def pieces() -> dict[str, Any]:
    """What is in ``pieces.toml``."""
    return tomllib.loads(Path(__file__).with_name("pieces.toml").read_text(encoding="utf-8"))


def write_visits(folder: Path, practices: int = PRACTICES) -> tuple[Path, Path]:
    """Write ``visits.jsonl``, which clients hold (``group``: the practice), and ``held-out.jsonl`` of others."""
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / "visits.jsonl", folder / "held-out.jsonl"
    held = {row["prompt"] for row in _rows(range(practices))}
    _write(private, _rows(range(practices)))
    _write(public, (row for row in _rows(range(practices, practices + _HELD_OUT)) if row["prompt"] not in held))
    return private, public


def _write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _rows(practices: range) -> Iterator[dict[str, str]]:
    for practice in practices:
        rng = random.Random(f"practice {practice}")
        patients = [(rng.choice(("Mr", "Mrs")), name) for name in rng.sample(pieces()["names"].split(), _PATIENTS)]
        weights = [rng.choice((1, 1, 4)) for _ in pieces()["work"]]
        shape = rng.choice(_SHAPES)
        for _ in range(_VISITS):
            yield {**_visit(rng, patients, weights, shape), "group": f"practice {practice + 1}"}


def _visit(rng: random.Random, patients: list[tuple[str, str]], weights: list[int], shape: str) -> dict[str, str]:
    title, name = rng.choice(patients)
    (work,) = rng.choices(pieces()["work"], weights)
    time, when = rng.choice(list(pieces()["habits"]["visit"].items()))
    following, back = rng.choice(list(pieces()["habits"]["back"].items()))
    facts = {"name": name, "done": rng.choice(work["done"]), "seen": rng.choice(work["seen"])}
    facts["pain"] = str(rng.randint(0, 6))
    return {
        "prompt": _PROMPT.format(**facts, title=title, time=time, next=following),
        "completion": shape.format(**facts, Seen=facts["seen"].capitalize(), when=when, back=back),
    }
