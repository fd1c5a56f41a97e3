"""A site that lies: ``test_lies.py`` puts this file into a copy of the app, around what the real ClientApp answers.

Only a site with a file of ``LIES`` beside its data tells any: JSON of round -> lie, and under ``tenfold`` ten times
the clip norm in grid steps, under ``base`` and ``size`` how codes are packed. It runs where Flower runs the app, in the
process of one message, so what it spoils goes the whole way: SuperNode, SuperLink, ServerApp.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message

from common.wire.bits import pack, unpack
from common.wire.records import round_of

Answer = Callable[[Message, Context], Message]
# What is told, the last honest reply, "fail inside": files beside the data.
LIES, SPOKEN, INSIDE = ".lies", ".spoken", ".inside"


def lying(answer: Answer) -> Answer:
    """The ClientApp's answer, made false in the rounds that the site's file names."""

    def lie(message: Message, context: Context) -> Message:
        path = Path(str(context.node_config["data-path"])).with_suffix(LIES)
        if not path.exists():
            return answer(message, context)
        known = json.loads(path.read_text(encoding="utf-8"))
        told = known.get(str(round_of(message)), "")
        if told == "raise":
            raise RuntimeError("out of patience")
        inside = Path(str(context.node_config["data-path"])).with_suffix(INSIDE)
        if told == "raise inside":
            inside.touch()
        try:
            reply = answer(message, context)
        finally:
            inside.unlink(missing_ok=True)
        if told == "late":
            time.sleep(float(context.run_config["federation.round-timeout"]) + 5.0)
        if told == "twice":
            _send_another_as_well(reply)
        _spoil(told, reply.content["release"], known, path.with_suffix(SPOKEN))
        return reply

    return lie


def failing(gradient_of: Callable[..., Any]) -> Callable[..., Any]:
    """The worker's computation on private data, which raises while the site's lie is "raise inside"."""

    def compute(asked: Any, examples: Any) -> Any:
        if Path(asked.site.data.path).with_suffix(INSIDE).exists():
            raise MemoryError("a long example of this site")
        return gradient_of(asked, examples)

    return compute


def _spoil(told: str, release: ConfigRecord, known: dict[str, Any], spoken: Path) -> None:
    """Change a reply's record in place; ``known`` tells the range and the number of its values."""
    honest, base, extra = bytes(release["code"]), known["base"], known["tenfold"]
    values = unpack(honest, known["size"], base) - base // 2
    if told == "stale":
        held = spoken.read_bytes()
        release.update({"head": held[:9], "code": held[9:]})
    elif told == "shape":
        release["code"] = honest + honest[:4]
    elif told == "dtype":
        release["code"] = values.astype(np.float64).tobytes()
    elif told == "schema":
        release["head"] = b"\x63" + bytes(release["head"])[1:]
    elif told == "nan":
        release["code"] = np.full(len(honest), np.nan, np.float32).tobytes()[: len(honest)]
    elif told == "tenfold":
        release["code"] = pack(_enlarge(values, extra, spread=False) + 20 * extra, 40 * extra + 1)
    elif told in {"hidden", "spread"}:
        larger = 3 * extra if told == "spread" else extra
        release["code"] = pack(_enlarge(values, larger, spread=True) + base // 2, base)
    else:
        spoken.write_bytes(bytes(release["head"]) + honest)


def _enlarge(values: np.ndarray, extra: int, *, spread: bool) -> np.ndarray:
    """The honest release and a code of norm ``extra``: in its largest value, or a little in each."""
    larger = values.astype(np.int64)
    if spread:
        larger += int(extra / len(values) ** 0.5)
    else:
        largest = int(np.abs(larger).argmax())
        larger[largest] += extra if larger[largest] > 0 else -extra
    return larger.astype(values.dtype)


def _send_another_as_well(reply: Message) -> None:
    """Have Flower's client process push a second, different reply to the same instruction after the first."""
    process: Any = sys.modules["flwr.supernode.runtime.run_clientapp"]
    push, other = process.push_message, copy.deepcopy(reply)
    other.content["release"]["code"] = bytes(len(other.content["release"]["code"]))

    def both(client: Any, message: Message, context: Context) -> None:
        push(client, message, context)
        push(client, other, context)

    process.push_message = both
