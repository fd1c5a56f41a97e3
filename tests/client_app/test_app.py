"""The ClientApp as the server meets it: messages in, one released array or a refusal out."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from client_app import app as client_module
from client_app import encoders as encoders_module
from client_app import run_state
from client_app.local_update import gradient_stream
from client_app.statistics import gradient_statistics
from common.adapter import Layout
from common.codecs import IdentityCodec, LinearCodec
from common.codecs.base import EncoderSpec
from common.config import RunConfig
from common.data import private_tokens
from common.model.adapted import AdaptedModel
from common.wire.digest import app_digest
from common.wire.records import STATISTICS, WireError, serialized_bytes
from tests.support.instructions import answer, ask, plain_code, refusal, terms
from tests.support.tiny import CLIENTS
from workbench.simulation.in_process import InProcessGrid


def test_without_noise_the_release_is_the_clipped_code_of_the_clients_own_gradient(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    codec = LinearCodec.of_form(adapted.layout, 64, 1)
    agreed = terms(64, 0.0)
    for drawn in (codec, LinearCodec.of_form(adapted.layout, 64, 2), codec):
        released = answer(ask(grid, adapted.initial, drawn, agreed), agreed)
        torch.testing.assert_close(released, plain_code(adapted, config, drawn), rtol=1e-4, atol=1e-6)


def test_a_reply_is_the_release_with_its_round_and_nothing_else(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    agreed = terms(64, 1.0)
    content = ask(grid, adapted.initial, LinearCodec.of_form(adapted.layout, 64, 1), agreed).content
    assert {name: sorted(content[name]) for name in content} == {"release": ["code", "head"]}
    assert serialized_bytes(content) < 64 * agreed.dtype.itemsize + 50


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
    assert set(own_site.context(3).state) == {run_state.RECORD}


def test_a_gradient_is_never_sent_in_the_clear_by_the_raw_flag(grid: InProcessGrid, adapted: AdaptedModel) -> None:
    """Only stage 1 has a raw form; a training instruction that claims it would dodge the checks on noise."""
    assert refusal(grid, adapted, terms(64, 1.0), raw=True).startswith("WireError: a gradient is never asked for")


def test_a_simulated_client_tells_why_it_failed(
    grid: InProcessGrid, adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(client_module, "local_update", fail)
    assert refusal(grid, adapted, terms(64, 1.0)) == "ValueError: no such layer"


@dataclass(frozen=True)
class Unseeded:
    """Stands for an encoder of four values, of which there is one draw."""

    number: int = 0
    size: int = 4

    def redraw(self, _: int) -> "Unseeded":
        return self


@pytest.mark.parametrize("size", [4, 100_000])
def test_the_kept_encoder_is_that_of_the_same_arrays(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Two specifications that differ in one value, or layouts, are two encoders; an equal one is not built again."""
    built: list[EncoderSpec] = []

    def build(spec: EncoderSpec, _: Any) -> Any:
        built.append(spec)
        return Unseeded(number=len(built))

    monkeypatch.setattr(encoders_module, "build_encoder", build)
    monkeypatch.setattr(encoders_module, "_kept", [])
    specs = [EncoderSpec("kind", 1, {}, {"mask": torch.ones(size)}) for _ in range(3)]
    specs[2].arrays["mask"][-1] = 2
    layout = Layout.of({"a": (2, 8)})
    found: list[Any] = [encoders_module.encoder_for(spec, layout, 4) for spec in specs]
    found.append(encoders_module.encoder_for(specs[2], Layout.of({"a": (2, 4)}), 4))
    assert [encoder.number for encoder in found] == [1, 1, 2, 3]


def test_an_encoder_of_another_epoch_is_refused_whatever_is_kept(adapted: AdaptedModel) -> None:
    """Fresh it decoded a sum by its own subspace, kept by that of epoch 0: who asked learned what had been asked."""
    codec = LinearCodec.of_form(adapted.layout, 64, 1)
    said = []
    for spec in (codec.redraw(5).spec(), codec.spec(), codec.redraw(5).spec()):
        try:
            encoders_module.encoder_for(spec, adapted.layout, 64, 1)
            said.append("")
        except WireError as error:
            said.append(str(error))
    assert said == ["encoder: its subspaces are those of epoch 5, expected 0", "", said[0]]


@pytest.mark.parametrize("field", ["dim", "seed", "epoch", "layout"])
def test_no_field_of_an_encoder_means_another_thing_where_one_is_kept(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    spec = LinearCodec.of_form(adapted.layout, 64, 1).spec()
    for value in (0, 1, 5, 64.0, True, "1", 2**62):
        odd = EncoderSpec(spec.kind, spec.version, {**spec.fields, field: value}, spec.arrays)
        answers = []
        for before in ([], [odd], [spec, odd]):
            monkeypatch.setattr(encoders_module, "_kept", [])
            for epoch, each in enumerate([*before, odd], start=1):
                try:
                    encoder = encoders_module.encoder_for(each, adapted.layout, 64, epoch if each is not odd else 3)
                    answer = encoder.encode(adapted.initial + 1).tolist()
                except WireError as error:
                    answer = [str(error)]
            answers.append(answer)
        assert answers[0] == answers[1] == answers[2], value


@pytest.mark.parametrize(("kept", "asked"), [(64, 64.0), (1, True), (0.0, -0.0)])
def test_a_kept_encoder_is_not_that_of_fields_of_another_type(
    monkeypatch: pytest.MonkeyPatch, kept: float, asked: float
) -> None:
    """They are equal to Python, and refused where nothing is kept: the answer told what others had asked."""
    built: list[EncoderSpec] = []
    monkeypatch.setattr(encoders_module, "build_encoder", lambda spec, _: (built.append(spec), Unseeded())[1])
    monkeypatch.setattr(encoders_module, "_kept", [])
    layout = Layout.of({"a": (2, 8)})
    for value in (kept, kept, asked):
        encoders_module.encoder_for(EncoderSpec("kind", 1, {"dim": value}), layout, 4)
    assert [spec.fields["dim"] for spec in built] == [kept, asked]


def test_statistics_in_the_clear_are_means_and_stds_of_the_local_steps(
    grid: InProcessGrid, config: RunConfig, adapted: AdaptedModel
) -> None:
    layout = adapted.layout
    agreed = terms(2 * len(layout.tensors), 0.0)
    reply = ask(grid, adapted.initial, IdentityCodec(layout), agreed, STATISTICS, round=0, raw=True)
    mean, std = answer(reply, agreed, 0).float().chunk(2)
    tokens = private_tokens(config.data, adapted.tokenizer, 2, CLIENTS, config.seed)
    train = config.train.model_copy(update={"local_steps": 2, "learning_rate": config.stage_one.learning_rate})
    stream = gradient_stream(adapted, adapted.initial, tokens, train, seed=0)
    expected = gradient_statistics(stream, layout, config.stage_one)
    torch.testing.assert_close(std, expected.std, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-2, atol=1e-6)
    assert std.max() > 1e-4
