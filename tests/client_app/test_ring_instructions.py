"""What a site with its own data answers to any instruction at all, for neighboring data files: always the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from client_app import app as client_module
from client_app import site as site_module
from client_app.guard import TELLABLE
from client_app.site_ledger import create_ledger
from common.codecs import IdentityCodec, LinearCodec
from common.config import RunConfig, StageOneConfig
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.scale_code import ScaleCode
from common.wire.assignment import STAGE_ONE_SHARE, Task
from common.wire.digest import app_digest
from common.wire.records import EVALUATE, GRADIENTS, STATISTICS, TRAIN, pack_instruction
from tests.support.messages import NODE, instruction
from tests.support.mutations import mutated
from tests.support.tiny import TINY, write_jsonl

EXAMPLES = 60
TERMS = ReleaseTerms(64, 1.0, 3.0, "local", 4, normalize=True)
ROWS = [{"prompt": f"the sum of {n} and 3 is", "completion": f" {n + 3}"} for n in range(12)]
NEIGHBORS: dict[str, list[dict[str, Any]]] = {
    "one less": ROWS[:-1],
    "one row": ROWS[:1],
    "no rows": [],
    "a long one": [*ROWS[:-1], {"prompt": "the sum of 2 " * 900, "completion": " 5"}],
}


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("own")
    found = {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in {"all": ROWS, **NEIGHBORS}.items()}
    return found | {"no file": folder / "none.jsonl"}


def plain(adapted: AdaptedModel, kind: str, share: float) -> RecordDict:
    """An honest instruction of a kind."""
    sizes = {
        TRAIN: TERMS.size,
        EVALUATE: TERMS.size,
        STATISTICS: ScaleCode.of(adapted.layout, StageOneConfig()).size,
        GRADIENTS: 2 * adapted.layout.size,
    }
    in_rounds = kind in {TRAIN, EVALUATE}
    codec = LinearCodec.of_form(adapted.layout, 64, 1) if in_rounds else IdentityCodec(adapted.layout)
    more: dict[str, Any] = {} if in_rounds else {"steps": 2, "learning_rate": 0.5}
    if kind == EVALUATE:
        more["evaluation"] = replace(TERMS, size=2, normalize=False)
    task = Task(1, replace(TERMS, size=sizes[kind]), app_digest(), share=share, **more)
    return pack_instruction(adapted.initial, codec.spec(), task)


@pytest.mark.parametrize("kind", [TRAIN, STATISTICS, GRADIENTS, EVALUATE])
def test_no_field_of_an_instruction_makes_the_answer_or_the_ledger_tell_of_the_rows(
    adapted: AdaptedModel, own_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(site_module, "load_adapted_model", lambda *_: adapted)
    ledger, run = tmp_path / "spent.jsonl", RunConfig.parse(TINY | {"evaluation.private": 0.1}).flat()
    outcomes = {"release": 0, "error": 0, "lacks": 0}

    def seen(content: RecordDict, file: str) -> tuple[str, str, int, bytes]:
        """Kind, text and length of the answer, and what the site has written down."""
        ledger.unlink(missing_ok=True)
        create_ledger(ledger)
        node: dict[str, Any] = {"data-path": str(own_files[file]), "max-epsilon": 20.0, "ledger-path": str(ledger)}
        place = Context(run_id=7, node_id=NODE, node_config=node, state=RecordDict(), run_config=run)
        try:
            said = client_module.app(instruction(content, kind), place).content
            if "lacks" in said:
                return "lacks", str(said), 0, ledger.read_bytes()
            reply = said["release"]
        except TELLABLE as error:
            return "error", f"{type(error).__name__}: {error}", 0, ledger.read_bytes()
        said = f"{sorted(reply)} {reply['head']!r}"
        return "release", said, len(reply["code"]), ledger.read_bytes()  # type: ignore[arg-type]

    @seed(1)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        content=st.sampled_from([0.0, STAGE_ONE_SHARE]).flatmap(
            lambda share: mutated(lambda: plain(adapted, kind, share))
        ),
        other=st.sampled_from([*NEIGHBORS, "no file"]),
    )
    def every(content: RecordDict, other: str) -> None:
        with_all, with_others = seen(content, "all"), seen(content, other)
        assert with_all == with_others
        outcomes[with_all[0]] += 1

    every()
    assert min(outcomes["release"], outcomes["error"]) > EXAMPLES / 20, "both outcomes are met often"
