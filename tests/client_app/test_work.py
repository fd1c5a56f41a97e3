"""What time tells of a site's rows: every kind of answer sends as many through the model, however many it has."""

import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from client_app import app as client_module
from client_app import held_out, local_update
from client_app.held_out import held_out_scores
from common.config import DataConfig, RunConfig, TrainConfig
from common.data import TokenizedExamples, partition, private_tokens, sources
from common.model.adapted import AdaptedModel
from common.model.label_logits import logits_at
from common.wire.assignment import STAGE_ONE_SHARE
from common.wire.records import EVALUATE, STATISTICS, TRAIN
from tests.support.own_site import SiteUnderTest, write_site_files
from tests.support.tiny import CLIENTS, Files, tiny_config

WORK = {"train__batch_size": 4, "train__local_steps": 3, "train__learning_rate": 0.1}


@pytest.mark.parametrize("kind", [TRAIN, STATISTICS, EVALUATE])
def test_an_answer_is_as_much_work_however_many_rows_a_site_has(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As long as they fill a batch; that this and their lengths may be told by time is in docs/privacy.md."""
    seen: list[int] = []

    def counting(model: torch.nn.Module, ids: Tensor, *rest: Tensor) -> Tensor:
        seen.append(len(ids))
        return logits_at(model, ids, *rest)  # type: ignore[arg-type]

    for module in (held_out, local_update):
        monkeypatch.setattr(module, "logits_at", counting)
    site = SiteUnderTest(adapted, tmp_path, {"max-epsilon": 0.0, "ledger-path": str(tmp_path / "spent.jsonl")})
    works = []
    for count in (30, 60, 400):
        path = tmp_path / f"{count}.jsonl"
        rows = [{"prompt": f"the sum of {number} and 3 is", "completion": f" {number + 3}"} for number in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        site.fresh()
        seen.clear()
        assert site.ask(path, kind, **WORK).kind == "release"
        works.append(list(seen))
    assert works[0]
    assert works == [works[0]] * 3


def test_after_the_first_answers_none_goes_through_all_of_a_site_s_rows(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cutting a part out of 100,000 rows took 90 ms of each answer, where a step takes 100.

    Whatever kinds of questions are asked by turns.
    """
    taken: list[int] = []
    select = TokenizedExamples.select

    def counting(examples: TokenizedExamples, rows: Tensor) -> TokenizedExamples:
        taken.append(len(rows))
        return select(examples, rows)

    monkeypatch.setattr(TokenizedExamples, "select", counting)
    site = SiteUnderTest(adapted, tmp_path, {"max-epsilon": 0.0, "ledger-path": str(tmp_path / "spent.jsonl")})
    site.fresh()
    path = tmp_path / "many.jsonl"
    rows = [{"prompt": f"the sum of {number} and 3 is", "completion": f" {number + 3}"} for number in range(300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for _ in range(2):
        taken.clear()
        for kind, share in product((TRAIN, STATISTICS, EVALUATE), (0.0, STAGE_ONE_SHARE)):
            assert site.ask(path, kind, share=share, evaluation__private=0.1, **WORK).kind == "release"
    assert taken
    assert max(taken) <= WORK["train__batch_size"]


@pytest.mark.parametrize("what", ["no rows", "no column", "no JSON", "a folder", "unreadable", "a panic"])
def test_rows_none_of_which_can_be_used_are_read_once(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Anew for each answer, time told how long the file is: a cache keeps no exception."""
    read: list[str] = []
    real = partition.load_site_examples

    def reading(path: str, data: DataConfig) -> Dataset:
        read.append(path)
        return real(path, data)

    monkeypatch.setattr(partition, "load_site_examples", reading)
    if what == "a panic":
        monkeypatch.setattr(partition, "encode", panicking)
    site = SiteUnderTest(adapted, tmp_path, {"max-epsilon": 0.0, "ledger-path": str(tmp_path / "spent.jsonl")})
    site.fresh()
    path = write_site_files(tmp_path).get(what, tmp_path / "ordinary.jsonl")
    for kind, share in product((TRAIN, STATISTICS, EVALUATE) * 2, (0.0, STAGE_ONE_SHARE)):
        assert site.ask(path, kind, share=share, evaluation__private=0.1, **WORK).kind == "release"
    assert read == [str(path)]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each local update draws from."""
    used: list[int] = []
    real = local_update._batches

    def drawing(count: int, *rest: Any) -> Iterator[list[Tensor]]:
        used.append(count)
        return real(count, *rest)

    monkeypatch.setattr(local_update, "_batches", drawing)
    return used


def test_rows_that_are_changed_or_withdrawn_in_a_folder_are_read_anew(
    adapted: AdaptedModel, tmp_path: Path, used: list[int]
) -> None:
    """Of a folder only its own times were looked at, so withdrawn rows stayed in use until the worker was idle."""
    site = SiteUnderTest(adapted, tmp_path, {"max-epsilon": 0.0, "ledger-path": str(tmp_path / "spent.jsonl")})
    site.fresh()
    folder = tmp_path / "rows"
    (folder / "north").mkdir(parents=True)
    (folder / "north" / "back").symlink_to(folder)
    rows = [json.dumps({"prompt": f"the sum of {n} and 3 is", "completion": f" {n + 3}"}) + "\n" for n in range(7)]
    one, two = folder / "train-1.jsonl", folder / "north" / "train-2.jsonl"
    one.write_text("".join(rows[:3]), encoding="utf-8")
    two.write_text("".join(rows[3:]), encoding="utf-8")
    fewer = "".join(rows[3:5])
    for change in (lambda: None, lambda: None, lambda: two.write_text(fewer, encoding="utf-8"), two.unlink):
        change()
        assert site.ask(folder, TRAIN, **WORK).kind == "release"
    assert used == [7, 7, 5, 3]


def panicking(*_: object, **__: object) -> None:
    """As a tokenizer in Rust does: no ``Exception``."""
    raise BaseException("called `Option::unwrap()` on a `None` value")


def test_rows_that_were_not_read_for_want_of_memory_are_read_for_the_next_answer(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: list[int]
) -> None:
    """Else a worker that was short of it once would answer nothing but noise for a week."""
    site = SiteUnderTest(adapted, tmp_path, {"max-epsilon": 0.0, "ledger-path": str(tmp_path / "spent.jsonl")})
    site.fresh()
    path = write_site_files(tmp_path)["ordinary"]
    with monkeypatch.context() as short:
        short.setattr(sources, "examples_of", failing_for_want_of_memory)
        assert site.ask(path, TRAIN, **WORK).kind == "release"
    assert used == []
    assert site.ask(path, TRAIN, **WORK).kind == "release"
    assert used == [12]


def failing_for_want_of_memory(*_: object) -> None:
    raise MemoryError


SMALL = torch.tensor(1e-30)


@pytest.mark.parametrize(
    ("kind", "work"), [(TRAIN, "local_update"), (STATISTICS, "gradient_stream"), (EVALUATE, "held_out_scores")]
)
def test_numbers_that_a_processor_is_slow_with_are_zero_while_rows_are_computed_with(
    adapted: AdaptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, work: str
) -> None:
    """Else an adapter made for it tells by time whether a row was there: ``common.model.denormals``."""
    seen: list[float] = []
    real = getattr(client_module, work)

    def looking(*arguments: object, **more: object) -> object:
        seen.append(float(SMALL * 1e-10))
        return real(*arguments, **more)

    monkeypatch.setattr(client_module, work, looking)
    site = SiteUnderTest(adapted, tmp_path, {"max-epsilon": 0.0, "ledger-path": str(tmp_path / "spent.jsonl")})
    site.fresh()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "the sum of 1 and 3 is", "completion": " 4"}\n' * 2, encoding="utf-8")
    assert site.ask(path, kind, **WORK).kind == "release"
    assert seen == [0.0]
    assert float(SMALL * 1e-10) > 0, "and as they were behind it"


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_rows_that_go_through_the_model_again_count_once(config: RunConfig, adapted: AdaptedModel, batch: int) -> None:
    train = TrainConfig.model_validate({"local-steps": 2, "batch-size": batch, "gradient-accumulation": 3})
    rows = private_tokens(config.data, adapted.tokenizer, 0, CLIENTS, config.seed)
    some = rows.select(torch.arange(min(len(rows), 18 * batch)))
    plain = held_out_scores(adapted, adapted.initial, some, train)
    assert held_out_scores(adapted, adapted.initial, some, train, even=True) == pytest.approx(plain, rel=1e-5)


def test_no_row_has_no_score(files: Files, adapted: AdaptedModel) -> None:
    rows = private_tokens(tiny_config(files, Path()).data, adapted.tokenizer, 0, CLIENTS, 1)
    none = rows.select(torch.arange(0))
    for even in (True, False):
        assert all(map(math.isnan, held_out_scores(adapted, adapted.initial, none, TrainConfig(), even=even)))
