"""The ClientApp as the server meets it: messages in, one released array or a refusal out."""

import logging
import math
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from client_app import app as client_module
from client_app import site as site_module
from client_app.guard import guarded
from client_app.local_update import gradient_stream, local_update
from client_app.site import encoder_for
from client_app.statistics import gradient_statistics
from common.adapter import Layout
from common.app_digest import app_digest
from common.codecs import Codec, IdentityCodec, LinearCodec
from common.codecs.base import EncoderSpec
from common.config import RunConfig, StatisticsConfig
from common.data import private_tokens
from common.models import AdaptedModel
from common.privacy.clipping import clip
from common.privacy.mechanism import ReleaseTerms, Trust
from common.scale_code import ScaleCode
from common.wire import STATISTICS, TRAIN, Task, pack_instruction, serialised_bytes, unpack_release
from server_app.in_process import InProcessGrid
from tests.false_alarms import beyond, correlation_beyond, count_outside, rms_outside, statistical
from tests.tiny import CLIENTS, Files, tiny_config, tiny_grid, write_jsonl

ROUND = 2


@pytest.fixture(scope="module")
def config(files: Files) -> RunConfig:
    return tiny_config(files, Path())


@pytest.fixture
def grid(config: RunConfig) -> InProcessGrid:
    return tiny_grid(config)


def terms(size: int, noise: float, trust: Trust = "local", clip_norm: float = 1.0, shares: int = 4) -> ReleaseTerms:
    return ReleaseTerms(size, clip_norm, noise, trust, shares, normalize=True)


def ask(
    grid: InProcessGrid, adapter: Tensor, codec: Codec, agreed: ReleaseTerms, kind: str = TRAIN, **changes: Any
) -> Message:
    task = Task(**{"round": ROUND, "terms": agreed, "code_digest": app_digest(), **changes})
    content = pack_instruction(adapter, codec.spec(), task)
    return grid.send_and_receive([Message(content=content, dst_node_id=3, message_type=kind, ttl=60.0)])[0]


def answer(reply: Message, agreed: ReleaseTerms, round_index: int = ROUND) -> Tensor:
    """What was released, in code units."""
    values = unpack_release(reply.content, round_index, agreed)
    return torch.from_numpy(values.astype(np.float64)) * (agreed.grid_step or 1.0)


def plain_code(adapted: AdaptedModel, config: RunConfig, codec: Codec) -> Tensor:
    """Encode, then clip: client 3 is partition 2."""
    tokens = private_tokens(config.data, adapted.tokenizer, 2, CLIENTS, config.seed)
    gradient = local_update(adapted, adapted.initial, tokens, config.train, seed=0)
    return clip(codec.encode(gradient), 1.0, normalize=True).values.double()


def test_without_noise_the_release_is_the_clipped_code_of_the_clients_own_gradient(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    codec = LinearCodec.of_form(adapted.layout, 64, 1)
    agreed = terms(64, 0.0)
    for drawn in (codec, codec.redraw(1), codec):
        released = answer(ask(grid, adapted.initial, drawn, agreed), agreed)
        torch.testing.assert_close(released, plain_code(adapted, config, drawn), rtol=1e-4, atol=1e-6)


def test_a_reply_is_the_release_with_its_round_and_nothing_else(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    agreed = terms(64, 1.0)
    content = ask(grid, adapted.initial, LinearCodec.of_form(adapted.layout, 64, 1), agreed).content
    assert {name: sorted(content[name]) for name in content} == {"release": ["dtype", "round", "schema", "values"]}
    assert serialised_bytes(content) < 64 * agreed.dtype.itemsize + 120


TRUSTS: list[Trust] = ["distributed", "local"]


@pytest.mark.parametrize("trust", TRUSTS)
@statistical(rms_outside(0.99, 1.01, 33 * 3072) + correlation_beyond(0.11, 3072, 33 * 32 // 2), "system")
def test_the_noise_of_a_release_has_the_std_that_the_terms_promise(
    grid: InProcessGrid, adapted: AdaptedModel, trust: Trust
) -> None:
    """33 releases of 3,072 values: a false alarm in 7e-6 by chi squared; a std off by 2 % is missed in 4e-6."""
    codec = IdentityCodec(adapted.layout)
    clear, agreed = (terms(codec.size, noise, trust, clip_norm=0.5, shares=9) for noise in (0.0, 1.4))
    truth = answer(ask(grid, adapted.initial, codec, clear), clear)
    noise = torch.stack([answer(ask(grid, adapted.initial, codec, agreed), agreed) for _ in range(33)]) - truth
    promised = {"distributed": 1.4 * 0.5 / 3, "local": 1.4 * 0.5}[trust]
    assert agreed.client_std == pytest.approx(promised)
    assert 0.99 < noise.square().mean().sqrt() / promised < 1.01
    assert len(noise.unique(dim=0)) == 33
    # 6 standard errors, 528 pairs; taking out the mean of each coordinate would itself correlate the rows by -1/32
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.11


def test_in_central_the_release_carries_no_noise_but_the_grids(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    codec = IdentityCodec(adapted.layout)
    clear, agreed = (terms(codec.size, noise, "central", clip_norm=0.5) for noise in (0.0, 1.4))
    truth = answer(ask(grid, adapted.initial, codec, clear), clear)
    difference = answer(ask(grid, adapted.initial, codec, agreed), agreed) - truth
    assert 0 < difference.abs().max() < 1.5 * agreed.grid_step
    assert agreed.client_std == 0.0


@statistical(correlation_beyond(0.11, 3072) + count_outside(0, 30, 3072, 2e-4), "system")
def test_noise_never_repeats(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    """The same question twice: the same gradient, other noise."""
    codec = IdentityCodec(adapted.layout)
    agreed = terms(codec.size, 5.0)
    one, two = (answer(ask(grid, adapted.initial, codec, agreed), agreed) for _ in range(2))
    assert (one == two).double().mean() < 0.01
    assert torch.corrcoef(torch.stack([one, two]))[0, 1].abs() < 0.11


def test_the_insecure_seed_repeats_within_a_round_and_differs_between_rounds_and_clients(
    files: Files, adapted: AdaptedModel
) -> None:
    grid = tiny_grid(tiny_config(files, Path(), {"privacy.insecure-seed": 5}))
    codec = IdentityCodec(adapted.layout)
    agreed = terms(codec.size, 1e3)
    releases = [answer(ask(grid, adapted.initial, codec, agreed, round=r), agreed, r) for r in (1, 1, 2)]
    assert torch.equal(releases[0], releases[1])
    assert (releases[0] - releases[2]).abs().median() > 100


def refusal(grid: InProcessGrid, adapted: AdaptedModel, agreed: ReleaseTerms, **changes: Any) -> str:
    reply = ask(grid, adapted.initial, LinearCodec.of_form(adapted.layout, 64, 1), agreed, **changes)
    return reply.error.reason if reply.has_error() else ""


def test_other_code_is_refused_naming_both(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    said = refusal(grid, adapted, terms(64, 1.0), code_digest="feedbeef")
    assert said.startswith("CodeMismatch: the server runs app code feedbeef")
    assert app_digest() in said


def test_an_encoder_of_another_adapter_is_refused(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    other = LinearCodec.of_form(Layout.of({"a": (adapted.layout.size,)}), 64, 1)
    reply = ask(grid, adapted.initial, other, terms(64, 1.0))
    assert "for the adapter layout" in reply.error.reason


def test_terms_that_do_not_fit_the_code_are_refused(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    assert refusal(grid, adapted, terms(65, 1.0)) == "WireError: encoder: its code has 64 values, the terms say 65"


def test_terms_that_do_not_fit_the_code_are_refused_before_data_or_budget_are_touched(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "local_update", None)
    assert "WireError" in refusal(own_site, adapted, terms(65, 1.0))
    assert not own_site._contexts[3].state


def test_a_gradient_is_never_sent_in_the_clear_by_the_raw_flag(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    """Only stage 1 has a raw form; a training instruction that claims it would dodge the checks on noise."""
    assert refusal(grid, adapted, terms(64, 1.0), raw=True).startswith("WireError: a gradient is never asked for")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("make", [IdentityCodec, lambda layout: LinearCodec.of_form(layout, 64, 1)])
@statistical(rms_outside(0.6, 1.5, 64), "system")
def test_a_gradient_that_is_not_finite_gives_an_ordinary_looking_release(
    grid: InProcessGrid,
    adapted: AdaptedModel,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Codec],
    value: float,
) -> None:
    """What comes is noise around zero of the promised std: 64 values at least, a false alarm in 6e-7."""
    codec = make(adapted.layout)
    agreed = terms(codec.size, 2.0)
    broken = torch.full((adapted.layout.size,), value)
    monkeypatch.setattr(client_module, "local_update", lambda *_: broken)
    released = answer(ask(grid, adapted.initial, codec, agreed), agreed)
    assert 0.6 < released.square().mean().sqrt() / 2.0 < 1.5
    assert len(released.unique()) > 0.5 * codec.size


@statistical(beyond(5.5, 17), "system")
def test_statistics_that_are_not_finite_give_an_ordinary_looking_release(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hardly any noise the zero code shows: its participation count is 0, not 1."""
    code = ScaleCode.of(adapted.layout, config.statistics)
    agreed = ReleaseTerms(code.size, code.bound, 1e-3, "local", 1, normalize=False)
    broken = torch.full((adapted.layout.size,), math.nan)
    monkeypatch.setattr(client_module, "gradient_stream", lambda *_: iter([broken, broken]))
    reply = ask(grid, adapted.initial, IdentityCodec(adapted.layout), agreed, STATISTICS, round=0)
    released = answer(reply, agreed, 0)
    assert 0 < released.abs().max() < 6e-3 * code.bound


def test_without_noise_a_gradient_that_is_not_finite_is_an_error(
    grid: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "local_update", lambda *_: torch.full((adapted.layout.size,), math.nan))
    assert refusal(grid, adapted, terms(64, 0.0)).startswith("NonFiniteError")


@pytest.fixture
def own_site(grid: InProcessGrid, files: Files, tmp_path: Path) -> InProcessGrid:
    """Client 3 is a site that brings its own file."""
    own = write_jsonl(tmp_path / "own.jsonl", [{"prompt": "the sum of 2 and 3 is", "completion": " 5"}])
    grid._contexts[3].node_config["data-path"] = str(own)
    return grid


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


def test_a_site_makes_no_more_releases_in_a_run_than_it_allows(own_site: InProcessGrid, adapted: AdaptedModel) -> None:
    """Refused instructions are not counted; statistics are."""
    own_site._contexts[3].node_config["max-releases"] = 3
    code = ScaleCode.of(adapted.layout, StatisticsConfig())
    first = ReleaseTerms(code.size, code.bound, 1.0, "local", 1, normalize=False)
    assert not ask(own_site, adapted.initial, IdentityCodec(adapted.layout), first, STATISTICS, round=0).has_error()
    assert "PolicyRefusal" in refusal(own_site, adapted, terms(64, 0.0))
    said = [refusal(own_site, adapted, terms(64, 1.0), round=number) for number in (1, 2, 3)]
    assert said[:2] == ["", ""]
    assert "it has made 3 releases, its max-releases is reached" in said[2]


def made(agreed: ReleaseTerms) -> np.ndarray:
    return np.zeros(agreed.size, dtype=agreed.dtype)


CONSTANT = "ClientFailure: the client failed on its own data; why is in its own log"
BROKEN_FILES = ['{"prompt": "the secret', '{"diagnosis": "a secret"}\n', ""]


@pytest.mark.parametrize("kind", [TRAIN, STATISTICS])
@pytest.mark.parametrize("text", BROKEN_FILES, ids=["torn", "other columns", "empty"])
def test_why_a_site_failed_on_its_own_data_stays_there(
    grid: InProcessGrid,
    adapted: AdaptedModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    kind: str,
) -> None:
    """The text of every failure is the same; the site's own log has the true one."""
    broken = tmp_path / "private.jsonl"
    broken.write_text(text)
    grid._contexts[3].node_config["data-path"] = str(broken)
    with caplog.at_level(logging.ERROR, logger="flwr"):
        logging.getLogger("flwr").addHandler(caplog.handler)
        try:
            assert refusal(grid, adapted, terms(64, 1.0), kind=kind) == CONSTANT
        finally:
            logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(("kind", "step"), [(TRAIN, "local_update"), (STATISTICS, "gradient_statistics")])
def test_a_failure_in_training_on_a_sites_own_data_is_answered_with_noise(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    """That it failed may tell of the data: whether it did cannot be seen, and what goes out is the zero code."""

    def fail(*_: object) -> None:
        raise MemoryError("row 17 is long, which is a secret")

    code = ScaleCode.of(adapted.layout, StatisticsConfig())
    agreed = terms(64, 1.0) if kind == TRAIN else ReleaseTerms(code.size, code.bound, 1.0, "local", 1, normalize=False)
    codec = LinearCodec.of_form(adapted.layout, 64, 1) if kind == TRAIN else IdentityCodec(adapted.layout)
    monkeypatch.setattr(client_module, step, fail)
    monkeypatch.setattr(client_module, "release", lambda values, *_: wanted.append(values) or made(agreed))
    monkeypatch.setattr(client_module, "release_gradient", lambda gradient, *_: wanted.append(gradient) or made(agreed))
    wanted: list[Tensor] = []
    assert not ask(own_site, adapted.initial, codec, agreed, kind, round=0).has_error()
    assert wanted[0].isnan().all(), "which release() turns into the zero code"


def test_without_noise_a_failure_on_a_sites_own_data_has_the_constant_text(
    own_site: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("row 17 holds a secret")

    own_site._contexts[3].node_config |= {"allow-raw-gradients": True, "min-noise-multiplier": 0.0}
    monkeypatch.setattr(client_module, "local_update", fail)
    assert refusal(own_site, adapted, terms(64, 0.0)) == CONSTANT


def test_nothing_of_the_true_error_hangs_on_the_one_that_is_sent() -> None:
    """Flower may send a traceback, which prints the causes as well."""

    @guarded
    def handler(message: Message, context: Context) -> Message:
        raise ValueError("a secret")

    context = Context(run_id=1, node_id=1, node_config={"data-path": "own"}, state=RecordDict(), run_config={})
    with pytest.raises(RuntimeError) as failure:
        handler(None, context)  # type: ignore[arg-type]
    assert "secret" not in "".join(traceback.format_exception(failure.value))


def test_a_site_with_its_own_data_tells_what_is_wrong_with_the_instruction(
    own_site: InProcessGrid, adapted: AdaptedModel
) -> None:
    assert refusal(own_site, adapted, terms(64, 1.0), code_digest="feedbeef").startswith("CodeMismatch: ")
    assert refusal(own_site, adapted, terms(64, 1.0), raw=True).startswith("WireError: ")
    assert refusal(own_site, adapted, terms(64, 0.0)).startswith("PolicyRefusal: ")
    own_site._contexts[3].node_config["min-noise-multiplier"] = "much"
    assert refusal(own_site, adapted, terms(64, 1.0)).startswith("PolicyRefusal: node config min-noise-multiplier")


def test_a_simulated_client_tells_why_it_failed(
    grid: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(client_module, "local_update", fail)
    assert refusal(grid, adapted, terms(64, 1.0)) == "ValueError: no such layer"


@pytest.mark.parametrize("size", [4, 100_000])
def test_the_kept_encoder_is_that_of_the_same_arrays(
    monkeypatch: pytest.MonkeyPatch, adapted: AdaptedModel, size: int
) -> None:
    """Two specifications that differ in one value only are two encoders; an equal one is not built again."""
    built: list[EncoderSpec] = []

    def build(spec: EncoderSpec, _: Any) -> Any:
        built.append(spec)
        number = len(built)
        return SimpleNamespace(size=4, bound=lambda _model: SimpleNamespace(size=4, number=number))

    monkeypatch.setattr(site_module, "build_encoder", build)
    monkeypatch.setattr(site_module, "_kept", [])
    site: Any = SimpleNamespace(adapted=adapted)
    specs = [EncoderSpec("kind", 1, {}, {"mask": torch.ones(size)}) for _ in range(3)]
    specs[2].arrays["mask"][-1] = 2
    found: list[Any] = [encoder_for(spec, site, 4) for spec in specs]
    other: Any = SimpleNamespace(adapted=replace(adapted))
    found.append(encoder_for(specs[2], other, 4))
    assert [encoder.number for encoder in found] == [1, 1, 2, 3]


def test_a_site_with_its_own_data_trains_on_them(
    own_site: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    own_site._contexts[3].node_config["allow-raw-gradients"] = True
    codec, agreed = LinearCodec.of_form(adapted.layout, 64, 1), terms(64, 0.0)
    released = answer(ask(own_site, adapted.initial, codec, agreed), agreed)
    assert (released - plain_code(adapted, config, codec)).norm() > 0.1


def test_a_site_with_its_own_data_refuses_reproducible_noise(
    own_site: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    own_site._contexts[3].run_config["privacy.insecure-seed"] = 5
    assert "privacy.insecure-seed = 5" in refusal(own_site, adapted, terms(64, 1.0))


def test_statistics_in_the_clear_are_means_and_stds_of_the_local_steps(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    layout = adapted.layout
    agreed = terms(2 * len(layout.tensors), 0.0)
    reply = ask(grid, adapted.initial, IdentityCodec(layout), agreed, STATISTICS, round=0, raw=True)
    mean, std = answer(reply, agreed, 0).float().chunk(2)
    tokens = private_tokens(config.data, adapted.tokenizer, 2, CLIENTS, config.seed)
    train = config.train.model_copy(update={"local_steps": 2, "learning_rate": config.statistics.learning_rate})
    stream = gradient_stream(adapted, adapted.initial, tokens, train, seed=0)
    expected = gradient_statistics(stream, layout, config.statistics)
    torch.testing.assert_close(std, expected.std, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-2, atol=1e-6)
    assert std.max() > 1e-4


@statistical(beyond(8, 18), "system")
def test_private_statistics_are_a_scale_code_clipped_and_noised(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    code = ScaleCode.of(adapted.layout, config.statistics)
    agreed = ReleaseTerms(code.size, code.bound, 1e-3, "local", 1, normalize=False)
    reply = ask(grid, adapted.initial, IdentityCodec(adapted.layout), agreed, STATISTICS, round=0)
    released = answer(reply, agreed, 0)
    assert released.norm() < code.bound * 1.01
    assert released[-1] == pytest.approx(1.0, abs=0.05)
    assert released[:-1].min() > -1.05
