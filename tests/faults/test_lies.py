"""One site of three lies in every round, each time in another way: a real ClientApp process, not a forged message."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from common.privacy.mechanism import ReleaseTerms
from common.wire.records import SCHEMA
from server_app.log import read_events
from server_app.privacy.shares import noise_against
from tests.faults.conftest import Field
from tests.support import lies
from workbench.simulation.launcher import APP

pytestmark = pytest.mark.faults
LIAR = "west"
ROUND_TIMEOUT = 180.0  # seconds, of which the late reply costs its round all
LATE = "no reply in time|Message Unavailable"  # whichever clock is ahead, the server's or its SuperLink's
TOLD = [  # the lie of a round, the replies that count in it, what the server says of the liar
    ("", 3, ""),
    ("stale", 2, "reply belongs to round 1, expected 2"),
    ("shape", 2, "released code: .* bytes, expected"),
    ("dtype", 2, "released code: 2048 bytes, expected"),
    ("schema", 2, f"message has schema 99, this code speaks {SCHEMA}"),
    ("nan", 2, "exceeds what an honest client|is not out of"),
    ("tenfold", 2, "released code: .* bytes, expected"),
    ("raise", 2, "RuntimeError"),
    ("raise inside", 3, ""),
    ("twice", 3, ""),
    ("hidden", 3, ""),
    ("spread", 2, "exceeds what an honest client's ever is"),
    ("late", 2, LATE),
    ("", 3, ""),
]


def lying_app(folder: Path) -> Path:
    """A copy of the app in which ``lies`` stands between the ClientApp and Flower."""
    for package in ("client_app", "common", "server_app"):
        shutil.copytree(APP / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(APP / name, folder / name)
    shutil.copy(lies.__file__, folder / "client_app" / "lies.py")
    entry = (APP / "dr_encoder_client.py").read_text()
    wrapped = "from client_app.lies import lying\n\n_answer = lying(_answer)\napp = ClientApp()\n"
    assert entry.count("\napp = ClientApp()\n") == 1
    (folder / "dr_encoder_client.py").write_text(entry.replace("app = ClientApp()\n", wrapped))
    with (folder / "client_app" / "app.py").open("a") as handlers:
        handlers.write("\n\nfrom client_app.lies import failing\n\napp = make_app(failing(gradient_of))\n")
    return folder


def test_a_site_that_lies_in_every_way_costs_the_round_its_reply_at_most(field: Field, tmp_path: Path) -> None:
    site = field.sites[LIAR]
    file = Path(str(site.node_config["data-path"])).with_suffix(lies.LIES)
    config = field.config("lies", rounds=len(TOLD), **{"federation.round-timeout": ROUND_TIMEOUT})
    noise = noise_against(config.privacy.colluders, 1.0, len(field.sites))
    terms = ReleaseTerms(config.codec.size, config.privacy.clip_norm, noise, "distributed", len(field.sites), True)
    assert 10 < terms.largest_norm / terms.resolution < 30, (
        "hidden lies within what honest noise can be, spread does not"
    )
    told_in = {str(number): told for number, (told, _, _) in enumerate(TOLD, start=1)}
    file.write_text(
        json.dumps(
            {"tenfold": 10 * terms.resolution, "base": 2 * terms.largest_value + 1, "size": terms.size, **told_in}
        )
    )
    run = field.federation.submit(config, app=lying_app(tmp_path / "app"))
    state = field.federation.wait(run, 2400.0)
    log = field.federation.run_log(run)
    assert state["status"] == "finished:completed", log[-3000:]

    rows = [row for row in field.folder("lies").read_metrics() if row["round"]]
    events = read_events(field.folder("lies").events)
    failed: dict[int, dict[str, Any]] = {e["round"]: e for e in events if e["event"] == "node_failed"}
    for row, (told, _, _) in zip(rows, TOLD, strict=True):
        said = failed.get(row["round"], {}).get("reason", "-")
        print(f"OBSERVED lie {told or 'none'!r}: {row['replies']} of 3, {row['seconds']:.0f} s: {said}")
    assert [row["replies"] for row in rows] == [count for _, count, _ in TOLD]
    assert len({event["node"] for event in failed.values()}) == 1, "only the liar's replies are refused"
    for row, (told, count, reason) in zip(rows, TOLD, strict=True):
        assert (row["round"] in failed) == (count == 2), told
        if count == 2:
            line = next(line for line in log.splitlines() if f"round {row['round']:>3}  " in line)
            for place in (failed[row["round"]]["reason"], row["failure"], line):
                assert re.search(reason, place), told
    assert "Failed to store Message reply" in field.log("superlink"), "the second reply did leave the site"
    assert "has expired" in field.log("superlink"), "the late reply did leave the site"
    assert "a long example of this site" in field.log(f"{LIAR}-superexec"), "why it failed inside stays at the site"
    assert "a long example of this site" not in log
    answers = field.answers(run)
    assert [sum(count for (_, number), count in answers.items() if number == row["round"]) for row in rows] == [
        2 if told == "raise" else 3 for told, _, _ in TOLD
    ]
    field.check_books("lies", run)
