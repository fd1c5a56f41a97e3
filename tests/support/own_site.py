"""A site with its own data, its ledger, and all that anybody else can see of its answers.

Beside its ordinary file lie what one person or a broken disk can make of it.
"""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from client_app import app as client_module
from client_app.site_ledger import create_ledger
from common.codecs import IdentityCodec, LinearCodec
from common.config import StageOneConfig
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.scale_code import ScaleCode
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import EVALUATE, STATISTICS, TRAIN, pack_instruction
from tests.support.messages import NODE, instruction
from tests.support.tiny import TINY

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KEYS: dict[str, Any] = {
    f"{section}.{name}" if isinstance(value, dict) else section: default
    for section, value in PROJECT["tool"]["flwr"]["app"]["config"].items()
    for name, default in (value.items() if isinstance(value, dict) else [("", value)])
}
ROWS = [{"prompt": f"the sum of {n} and 3 is", "completion": f" {n + 3}", "diagnosis": "well"} for n in range(12)]
LENGTH = 119  # bytes of a code of 64 values under these terms
Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def last(**cells: Any) -> Change:
    """One person's row is another one."""
    return lambda rows: [*rows[:-1], {**rows[-1], **cells}]


TEXTS: dict[str, Change] = {
    "a null": last(completion=None),
    "a null prompt": last(prompt=None),
    "a null elsewhere": last(diagnosis=None),
    "a number": last(completion=5),
    "a list": last(completion=["5"]),
    "a record": last(prompt={"of": "a kind"}),
    "nothing to learn": last(completion=""),
    "blanks": last(completion="   ", prompt=" "),
    "a long text": last(prompt="the sum of 2 and 3 is " * 5_000),
    "other letters": last(prompt="𝔘ñí\u202e\x00", completion=" \ud800é"),
    "another column": last(hiv_note="positive"),
    "no column": lambda rows: [{"prompt": row["prompt"]} for row in rows],
    "one row": lambda rows: rows[:1],
    "no rows": lambda rows: [],
    "many rows": lambda rows: rows * 40,
}
BYTES = {
    "latin-1": '{"prompt": "caf\u00e9", "completion": " 5"}\n'.encode("latin-1"),
    "a torn line": b'{"prompt": "the sum',
    "nested": b'{"prompt": ' + b"[" * 20_000,
    "nul": b"\x00" * 64,
    "no JSON": b"\xff\xfe\x00",
}
ODD = ["a folder", "no file", "unreadable", *TEXTS, *BYTES]


def write_site_files(folder: Path) -> dict[str, Path]:
    """The site's file, ``ordinary``, and what it might be instead."""
    found = {"ordinary": folder / "ordinary.jsonl", "no file": folder / "none.jsonl", "a folder": folder / "f.jsonl"}
    found["a folder"].mkdir()
    for name, change in {"ordinary": list, **TEXTS}.items():
        found[name] = folder / f"{name.replace(' ', '-')}.jsonl"
        found[name].write_text("".join(json.dumps(row) + "\n" for row in change(ROWS)), encoding="utf-8")
    for name, content in {**BYTES, "unreadable": found["ordinary"].read_bytes()}.items():
        found[name] = folder / f"{name.replace(' ', '-')}.jsonl"
        found[name].write_bytes(content)
    found["unreadable"].chmod(0)
    return found


@dataclass(frozen=True)
class Seen:
    """All that anybody but the site can see of an answer, and what the site has written down."""

    kind: str
    text: str
    length: int
    ledger: bytes


@dataclass
class SiteUnderTest:
    """One site: ``ask`` is everything that a server can do to it."""

    adapted: AdaptedModel
    folder: Path
    node: dict[str, Any]
    asked: int = 0

    @property
    def ledger(self) -> Path:
        return self.folder / "spent.jsonl"

    def ask(
        self,
        path: Path | None = None,
        kind: str = TRAIN,
        terms: ReleaseTerms | None = None,
        share: float = 0.0,
        **run: Any,
    ) -> Seen:
        """One instruction under a run's configuration (``data__name`` = ``data.name``); a new ledger if it is gone."""
        layout = self.adapted.layout
        codec = IdentityCodec(layout) if kind == STATISTICS else LinearCodec.of_form(layout, 64, 1)
        size = ScaleCode.of(layout, StageOneConfig()).size if kind == STATISTICS else 64
        terms = terms or ReleaseTerms(size, 1.0, 3.0, "local", 4, normalize=True)
        more: dict[str, Any] = {"share": share} | ({"steps": 2, "learning_rate": 0.5} if kind == STATISTICS else {})
        if kind == EVALUATE:
            more["evaluation"], run = replace(terms, size=2, normalize=False), {"evaluation__private": 0.1, **run}
        content = pack_instruction(self.adapted.initial, codec.spec(), Task(1, terms, app_digest(), **more))
        node = self.node | ({"data-path": str(path)} if path else {})
        run = KEYS | TINY | {key.replace("__", ".").replace("_", "-"): value for key, value in run.items()}
        place = Context(run_id=7, node_id=NODE, node_config=node, state=RecordDict(), run_config=run)
        try:
            reply = client_module.app(instruction(content, kind), place).content["release"]
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            assert str(self.folder) not in text, "no path of the site is sent"
            assert "Traceback" not in text
            return Seen("error", text, 0, self.ledger.read_bytes())
        return Seen("release", f"{sorted(reply)} {reply['head']!r}", len(reply["code"]), self.ledger.read_bytes())  # type: ignore[arg-type, call-overload]

    def fresh(self) -> None:
        self.ledger.unlink(missing_ok=True)
        create_ledger(self.ledger)
