"""The resident worker with the real app behind it: the same release, and the site's limits hold across messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from client_app import resident
from client_app.app import app
from client_app.worker_link import WorkerError, open_folder
from common.codecs import LinearCodec
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.wire.assignment import Task
from common.wire.digest import app_digest
from common.wire.records import pack_instruction
from tests.support.messages import NODE, instruction
from tests.support.tiny import Files, tiny_config


@pytest.fixture(autouse=True)
def _own_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield
    resident.end_worker(open_folder(f"{NODE:x}-{app_digest()}"), 0.0)


def test_a_worker_releases_what_this_process_would_and_keeps_to_the_site_s_limit(
    adapted: AdaptedModel, files: Files, tmp_path: Path
) -> None:
    config = tiny_config(files, tmp_path, {"data.name": "demo"})
    terms = ReleaseTerms(64, 1.0, 0.0, "local", 4, normalize=True)  # no noise: a worker has its own
    content = pack_instruction(
        adapted.initial, LinearCodec.of_form(adapted.layout, 64, 1).spec(), Task(1, terms, app_digest())
    )

    def place() -> Context:
        node: dict[str, Any] = {"partition-id": 0, "num-partitions": 6, "max-releases": 2}
        return Context(run_id=7, node_id=NODE, node_config=node, state=RecordDict(), run_config=config.flat())

    there, here = place(), place()
    for _ in range(2):
        released = resident.answer(instruction(content, ttl=600.0), there).content
        assert released["release"] == app(instruction(content), here).content["release"]
    assert there.state == here.state
    with pytest.raises(WorkerError, match="LimitReached: this site refuses: its max-releases = 2 is reached"):
        resident.answer(instruction(content, ttl=600.0), there)
