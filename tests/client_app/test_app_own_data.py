"""A site with its own data: what it releases, how often, and what it tells of a failure."""

import logging
import math
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from client_app import answer as answer_module
from client_app import app as client_module
from client_app import site as site_module
from client_app.guard import guarded
from common.codecs import IdentityCodec, LinearCodec
from common.config import RunConfig, StageOneConfig
from common.model.adapted import AdaptedModel
from common.privacy.mechanism import ReleaseTerms
from common.scale_code import ScaleCode
from common.wire.records import STATISTICS, TRAIN
from tests.support.instructions import answer, ask, plain_code, refusal, terms
from workbench.simulation.in_process import InProcessGrid


def test_a_site_with_its_own_data_releases_noised_codes_of_them_only(
    own_site: InProcessGrid, adapted: AdaptedModel
) -> None:
    assert refusal(own_site, adapted, terms(64, 1.0)) == ""
    assert "PolicyRefusal" in refusal(own_site, adapted, terms(64, 0.0))
    said = refusal(own_site, adapted, terms(64, 1.0), kind=STATISTICS, raw=True)
    assert "PolicyRefusal" in said
    assert "allow-raw-gradients" in said
    assert "PolicyRefusal" in refusal(own_site, adapted, terms(64, 1.0, "central"))
    assert "min-noise-multiplier = 0.1" in refusal(own_site, adapted, terms(64, 0.09))


def test_a_site_makes_no_more_releases_of_its_data_in_a_run_than_it_allows(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused instructions are not counted; statistics are. Beyond the limit it answers as ever, without its data."""
    own_site.context(3).node_config["max-releases"] = 3
    worked = []
    original = client_module.local_update
    monkeypatch.setattr(client_module, "local_update", lambda *given: worked.append(1) or original(*given))
    first = of_statistics(adapted)
    assert not ask(own_site, adapted.initial, IdentityCodec(adapted.layout), first, STATISTICS, round=0).has_error()
    assert "PolicyRefusal" in refusal(own_site, adapted, terms(64, 0.0))
    assert [refusal(own_site, adapted, terms(64, 1.0), round=number) for number in (1, 2, 3)] == ["", "", ""]
    assert len(worked) == 3, "as long as ever, too"


def of_statistics(adapted: AdaptedModel) -> ReleaseTerms:
    code = ScaleCode.of(adapted.layout, StageOneConfig())
    return ReleaseTerms(code.size, code.bound, 1.0, "local", 1, normalize=False)


@pytest.fixture
def zeros_sent(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The codes that went out for want of a better one."""
    sent: list[Tensor] = []
    original = answer_module.release

    def spy(code: Tensor, *others: Any) -> Any:
        sent.append(code)
        return original(code, *others)

    monkeypatch.setattr(answer_module, "release", spy)
    return sent


BROKEN_FILES = ['{"prompt": "the secret', '{"diagnosis": "a secret"}\n', ""]


@pytest.mark.parametrize("kind", [TRAIN, STATISTICS])
@pytest.mark.parametrize("text", BROKEN_FILES, ids=["torn", "other columns", "empty"])
def test_a_file_that_cannot_be_used_is_answered_with_noise_and_why_stays_there(
    own_site: InProcessGrid,
    adapted: AdaptedModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    zeros_sent: list[Tensor],
    text: str,
    kind: str,
) -> None:
    broken = tmp_path / "private.jsonl"
    broken.write_text(text)
    own_site.context(3).node_config["data-path"] = str(broken)
    codec = LinearCodec.of_form(adapted.layout, 64, 1) if kind == TRAIN else IdentityCodec(adapted.layout)
    agreed = terms(64, 1.0) if kind == TRAIN else of_statistics(adapted)
    with caplog.at_level(logging.ERROR, logger="flwr"):
        logging.getLogger("flwr").addHandler(caplog.handler)
        try:
            assert not ask(own_site, adapted.initial, codec, agreed, kind, round=0).has_error()
        finally:
            logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "Traceback" in caplog.text
    assert zeros_sent
    assert not zeros_sent[0].any()


@pytest.mark.parametrize(("kind", "step"), [(TRAIN, "local_update"), (STATISTICS, "gradient_statistics")])
@pytest.mark.parametrize("error", [MemoryError, RuntimeError, RecursionError, ValueError])
def test_a_failure_in_training_on_a_sites_own_data_is_answered_with_noise(
    own_site: InProcessGrid,
    adapted: AdaptedModel,
    monkeypatch: pytest.MonkeyPatch,
    zeros_sent: list[Tensor],
    kind: str,
    step: str,
    error: type[Exception],
) -> None:
    """That it failed may tell of the data: whether it did cannot be seen, and what goes out is the zero code."""

    def fail(*_: object) -> None:
        raise error("row 17 is long, which is a secret")

    codec = LinearCodec.of_form(adapted.layout, 64, 1) if kind == TRAIN else IdentityCodec(adapted.layout)
    agreed = terms(64, 1.0) if kind == TRAIN else of_statistics(adapted)
    monkeypatch.setattr(client_module, step, fail)
    assert not ask(own_site, adapted.initial, codec, agreed, kind, round=0).has_error()
    assert not any(code.any() for code in zeros_sent)


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_without_noise_a_failure_on_a_sites_own_data_is_zeros(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, value: float | None
) -> None:
    def fail(*_: object) -> Tensor:
        if value is None:
            raise ValueError("row 17 holds a secret")
        return torch.full((adapted.layout.size,), value)

    own_site.context(3).node_config |= {"allow-raw-gradients": True, "min-noise-multiplier": 0.0}
    monkeypatch.setattr(client_module, "local_update", fail)
    agreed = terms(64, 0.0)
    codec = LinearCodec.of_form(adapted.layout, 64, 1)
    assert not answer(ask(own_site, adapted.initial, codec, agreed), agreed).any()


def test_nothing_of_the_true_error_hangs_on_the_one_that_is_sent() -> None:
    """Flower may send a traceback, which prints the causes as well."""

    @guarded
    def handler(message: Message, context: Context) -> Message:
        raise ValueError("a secret")

    context = Context(run_id=1, node_id=1, node_config={"data-path": "own"}, state=RecordDict(), run_config={})
    with pytest.raises(RuntimeError) as failure:
        handler(None, context)  # type: ignore[arg-type]
    assert "secret" not in "".join(traceback.format_exception(failure.value))


def test_a_tokenizer_that_panics_over_a_row_is_answered_with_noise(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libraries written in Rust raise then is no ``Exception``, and its text may hold the row."""

    class PanicException(BaseException):
        pass

    def panics(*_: Any) -> None:
        raise PanicException("called `Result::unwrap()` on an `Err` value: a secret")

    monkeypatch.setattr(site_module, "private_tokens", panics)
    assert refusal(own_site, adapted, terms(64, 1.0)) == ""


def test_a_site_with_its_own_data_tells_what_is_wrong_with_the_instruction(
    own_site: InProcessGrid, adapted: AdaptedModel
) -> None:
    assert refusal(own_site, adapted, terms(64, 1.0), code_digest="feedbeef").startswith("CodeMismatch: ")
    assert refusal(own_site, adapted, terms(64, 1.0), raw=True).startswith("WireError: ")
    assert refusal(own_site, adapted, terms(64, 0.0)).startswith("PolicyRefusal: ")
    own_site.context(3).node_config["min-noise-multiplier"] = "much"
    assert refusal(own_site, adapted, terms(64, 1.0)).startswith("PolicyRefusal: node config min-noise-multiplier")


def test_a_site_with_its_own_data_trains_on_them(
    own_site: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    own_site.context(3).node_config["allow-raw-gradients"] = True
    codec, agreed = LinearCodec.of_form(adapted.layout, 64, 1), terms(64, 0.0)
    released = answer(ask(own_site, adapted.initial, codec, agreed), agreed)
    assert (released - plain_code(adapted, config, codec)).norm() > 0.1


def test_no_run_can_ask_a_site_for_reproducible_noise(own_site: InProcessGrid, adapted: AdaptedModel) -> None:
    own_site.context(3).run_config["privacy.insecure-seed"] = 5
    assert "could not handle the instruction" in refusal(own_site, adapted, terms(64, 1.0))
