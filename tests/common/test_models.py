"""The base model with its adapter: one per process, read and written as one flat vector."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from common.config import ConfigError, LoraConfig, ModelConfig
from common.demo.model import load_model, load_tokenizer
from common.model import base as base_model
from common.model.adapted import AdaptedModel, RemoteFactors, load_adapted_model
from common.model.lora import target_modules
from tests.support.false_alarms import beyond, statistical
from tests.support.layouts import write_model
from tests.support.tiny import TINY, vectors

LORA = LoraConfig(rank=2, alpha=4.0, target_modules="q_proj,v_proj")
NAME = "base_model.model.model.layers.2.self_attn.v_proj.lora_B.default.weight"
fresh = load_adapted_model.__wrapped__  # loads anew and leaves the session's cache alone


@pytest.fixture
def demo(adapted: AdaptedModel) -> AdaptedModel:
    """The session's model with its initial adapter."""
    adapted.load(adapted.initial)
    adapted.model.eval()
    return adapted


def logits(model: torch.nn.Module) -> Tensor:
    ids = load_tokenizer()(["question : what is the sum of 2 and 3 ?"], return_tensors="pt")
    with torch.no_grad():
        result: Tensor = model(**ids).logits
    return result


def test_a_model_is_loaded_once_per_process() -> None:
    """Asked twice, since other tests of this process may have had others loaded in between."""
    lora = LoraConfig(rank=TINY["lora.rank"], alpha=4.0, target_modules="q_proj,v_proj")
    assert load_adapted_model(ModelConfig(), lora, 1) is load_adapted_model(ModelConfig(), lora, 1)


def test_load_changes_the_named_peft_parameters(demo: AdaptedModel) -> None:
    vector = vectors(1, demo.layout.size, 0)[0]
    demo.load(vector)
    parameters = dict(demo.model.named_parameters())
    for piece in demo.layout.tensors:
        assert torch.equal(parameters[piece.name].detach(), vector[piece.offset : piece.end].view(piece.shape))
    assert torch.equal(demo.adapter(), vector)


def test_a_change_of_a_named_peft_parameter_shows_in_the_flat_adapter(demo: AdaptedModel) -> None:
    piece = next(piece for piece in demo.layout.tensors if piece.name == NAME)
    before = demo.adapter()
    with torch.no_grad():
        dict(demo.model.named_parameters())[NAME][3, 1] = 42.0
    changed = (demo.adapter() != before).nonzero().flatten().tolist()
    assert changed == [piece.offset + 3 * piece.shape[1] + 1]


def test_adapter_and_gradient_are_copies(demo: AdaptedModel) -> None:
    demo.adapter().fill_(9.0)
    demo.gradient().fill_(9.0)
    assert torch.equal(demo.parameters, demo.initial)
    assert not demo.gradients.any()


def test_the_flat_gradient_is_that_of_autograd_and_load_forgets_it(demo: AdaptedModel) -> None:
    demo.load(vectors(1, demo.layout.size, 1)[0] * 0.05)
    ids = load_tokenizer()(["question : what is the sum of 2 and 3 ?"], return_tensors="pt")["input_ids"]
    parameters = {name: p for name, p in demo.model.named_parameters() if p.requires_grad}
    loss = demo.model(input_ids=ids, labels=ids).loss
    expected = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    loss.backward()
    named = dict(zip(parameters, expected, strict=True))
    assert demo.gradient().norm() > 1e-3
    torch.testing.assert_close(demo.gradient(), demo.layout.flatten(named), rtol=1e-5, atol=1e-8)
    demo.load(demo.adapter())
    assert not demo.gradient().any()


def test_only_adapter_factors_are_trainable(demo: AdaptedModel) -> None:
    trainable = [name for name, p in demo.model.named_parameters() if p.requires_grad]
    assert sorted(trainable) == [piece.name for piece in demo.layout.tensors]
    assert all("lora_" in name for name in trainable)
    assert len(trainable) == demo.model.config.num_hidden_layers * 2 * 2


def test_the_untrained_adapter_leaves_the_base_model_as_it_was(demo: AdaptedModel) -> None:
    expected = logits(load_model())
    torch.testing.assert_close(logits(demo.model), expected, rtol=0, atol=0)
    demo.load(demo.initial + 0.05)
    assert (logits(demo.model) - expected).abs().max() > 0.01


@statistical(beyond(0.06 / 0.0114), "seeded")
def test_the_initial_adapter_depends_on_the_seed_alone(demo: AdaptedModel) -> None:
    torch.manual_seed(99)
    again, other = fresh(ModelConfig(), LORA, 1), fresh(ModelConfig(), LORA, 2)
    demo.load(demo.initial + 1)
    assert torch.equal(again.initial, demo.initial)
    a = torch.cat([demo.initial[p.offset : p.end] for p in demo.layout.tensors if "lora_A" in p.name])
    b = torch.cat([demo.initial[p.offset : p.end] for p in demo.layout.tensors if "lora_B" in p.name])
    assert not b.any()
    assert len(a.unique()) > 0.99 * len(a)
    bound = demo.model.config.hidden_size**-0.5
    assert a.abs().max() <= bound
    assert a.std() == pytest.approx(bound / 3**0.5, rel=0.06)  # 1,536 uniform values: standard error 1.14 %
    assert not torch.equal(other.initial, demo.initial)


def test_the_initial_adapter_stays_known_after_training(demo: AdaptedModel) -> None:
    before = demo.initial.clone()
    demo.load(before + 1)
    assert torch.equal(demo.initial, before)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_of_a_fresh_model_follows_the_training_mode(training: bool) -> None:
    """A base with dropout of its own would else train without it until it has once been evaluated."""
    model = fresh(ModelConfig(), LORA, 1)
    model.training_mode(training)
    assert {module.training for module in model.model.modules()} == {training}


def test_freeze_a_trains_b_only() -> None:
    frozen = fresh(ModelConfig(), LORA.model_copy(update={"freeze_a": True}), 1)
    assert len(frozen.layout.tensors) == frozen.model.config.num_hidden_layers * 2
    assert all("lora_B" in piece.name for piece in frozen.layout.tensors)
    a = next(p for name, p in frozen.model.named_parameters() if "lora_A" in name)
    assert not a.requires_grad
    assert a.any(), "a frozen A of zeros would never let B act"


def test_unknown_target_modules_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r'lora.target-modules = "query": .*: .*k_proj.*q_proj'):
        fresh(ModelConfig(), LoraConfig(target_modules="query"), 1)


def test_one_unknown_name_among_target_modules_is_refused() -> None:
    """peft takes what matches; the adapter would be half of what was asked for."""
    with pytest.raises(ConfigError, match=r"no module is called v_prj, key\. Linear modules of this model: .*v_proj"):
        fresh(ModelConfig(), LoraConfig(target_modules="q_proj,v_prj,key"), 1)
    layer = LoraConfig(rank=1, target_modules="layers.0.self_attn.q_proj,v_proj")
    assert len(fresh(ModelConfig(), layer, 1).layout.tensors) == 2 * (1 + 4)


def test_any_number_of_unknown_target_modules_is_refused_in_a_line() -> None:
    """An adapter from elsewhere may name 200,000, which made a line of three megabytes."""
    many = ",".join(f"m{number}" for number in range(50_000))
    with pytest.raises(ConfigError, match="no module is called m0, m1, ") as refusal:
        fresh(ModelConfig(), LoraConfig(target_modules=many), 1)
    assert len(str(refusal.value)) < 1500


def test_damaged_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ConfigError, match=r"safetensors file is damaged .* git-lfs; fetch the weights again"):
        fresh(ModelConfig(name=str(tmp_path)), LORA, 1)


def test_a_model_without_a_tokenizer_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"no tokenizer there; save it beside the model \(tokenizer\.json"):
        fresh(ModelConfig(name=str(tmp_path)), LORA, 1)


def test_a_directory_that_is_not_there_is_called_that() -> None:
    with pytest.raises(ConfigError, match=r'model.name = "\./models/absent": no such directory or file; give "demo"'):
        fresh(ModelConfig(name="./models/absent"), LORA, 1)


@pytest.mark.parametrize(("device", "found"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_refused_wherever_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, device: str, found: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(ConfigError, match=f'model.device = "{device}": CUDA devices on this machine: {found}'):
        fresh(ModelConfig(device=device), LORA, 1)


def test_importing_the_model_says_nothing_of_optional_kernels() -> None:
    """The line comes where the CPU has AVX-512 BF16 only, so it is said here as bitsandbytes says it."""
    code = (
        "import logging, common.model.adapted\n"
        "log = logging.getLogger('bitsandbytes.backends.cpu.ops')\n"
        "log.warning('Failed to load CPU gemm_4bit_forward from kernels-community: %s.', 'x')\n"
        "log.warning('another matter')\n"
        "from common.model.lora import adapt\nfrom common.config import LoraConfig\n"
        "from common.demo.model import load_model\nadapt(load_model(), LoraConfig())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "another matter\n"


def test_a_missing_model_is_refused_naming_the_key(tmp_path: Path) -> None:
    name = str(tmp_path)
    with pytest.raises(ConfigError, match=f'model.name = "{name}": could not be loaded as a local directory'):
        fresh(ModelConfig(name=name), LORA, 1)


def test_a_local_directory_is_loaded_by_its_path(tmp_path: Path) -> None:
    base = load_model()
    with torch.no_grad():
        base.model.norm.weight.mul_(1.5)
    base.save_pretrained(tmp_path)
    load_tokenizer().save_pretrained(tmp_path)
    local = fresh(ModelConfig(name=str(tmp_path), device="cpu"), LORA, 1)
    local.model.eval()
    assert isinstance(local.model, PeftModel)
    assert local.tokenizer.pad_token_id is not None
    torch.testing.assert_close(logits(local.model), logits(base))
    assert (logits(base) - logits(load_model())).abs().max() > 0.1


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(tmp_path: Path) -> None:
    load_model().save_pretrained(tmp_path)
    tokenizer = load_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    local = fresh(ModelConfig(name=str(tmp_path)), LORA, 1)
    assert local.tokenizer.pad_token == local.tokenizer.eos_token


def remote_pair() -> tuple[AdaptedModel, AdaptedModel]:
    """Two copies of one model; in the second a factor is no view of the flat buffers, as if it were elsewhere."""
    near, far = fresh(ModelConfig(), LORA, 1), fresh(ModelConfig(), LORA, 1)
    factor = dict(far.model.named_parameters())[NAME]
    factor.data, factor.grad = factor.data.clone(), None
    values, slopes = far.layout.unflatten(far.parameters), far.layout.unflatten(far.gradients)
    remote = RemoteFactors(far.model, {NAME: factor}, values, slopes)
    return near, replace(far, remote=remote)


def test_a_factor_on_another_gpu_follows_the_flat_adapter() -> None:
    """Loading reaches it at once (an adapter may be saved next), a step of an optimizer at the next forward pass."""
    _, far = remote_pair()
    factor = dict(far.model.named_parameters())[NAME]
    vector = vectors(1, far.layout.size, 3)[0] * 0.05
    far.load(vector)
    assert torch.equal(factor.detach(), far.layout.unflatten(vector)[NAME])
    with torch.no_grad():
        far.parameters.mul_(2)
    logits(far.model)
    assert torch.equal(factor.detach(), 2 * far.layout.unflatten(vector)[NAME])


def test_a_factor_on_another_gpu_adds_to_the_flat_gradient() -> None:
    near, far = remote_pair()
    ids = load_tokenizer()(["question : what is the sum of 2 and 3 ?"], return_tensors="pt")["input_ids"]
    for adapted in (near, far):
        adapted.load(vectors(1, near.layout.size, 4)[0] * 0.05)
        for _ in range(2):  # two micro-batches add up
            adapted.model(input_ids=ids, labels=ids).loss.backward()
    assert near.layout.unflatten(near.gradient())[NAME].norm() > 1e-4
    torch.testing.assert_close(far.gradient(), near.gradient())


def test_layers_are_spread_over_several_gpus_only_where_there_are_several(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'model.device-map = "balanced": .* sees \d; set it to "none"'):
        fresh(ModelConfig(name=str(tmp_path), device_map="balanced"), LORA, 1)


@pytest.mark.parametrize("bits", ["4", "8"])
def test_quantization_that_the_device_cannot_do_is_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    """bitsandbytes has no kernels for ``meta`` tensors, which stand for a device without support; no key names it."""
    monkeypatch.setattr(base_model, "_fetch", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ConfigError, match=f'model.quantization = "{bits}": bitsandbytes cannot .* device "meta"'):
        fresh(ModelConfig(name="some/model", quantization=bits).model_copy(update={"device": "meta"}), LORA, 1)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    ids = load_tokenizer()(["question : what is the sum of 2 and 3 ?"], return_tensors="pt")["input_ids"]
    gradients, saved = [], []
    for checkpointing in (False, True):
        adapted = fresh(ModelConfig(gradient_checkpointing=checkpointing), LORA, 1)
        adapted.load(vectors(1, adapted.layout.size, 5)[0] * 0.05)
        adapted.training_mode(True)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = adapted.model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        gradients.append(adapted.gradient())
        saved.append(sum(kept))
    torch.testing.assert_close(*gradients)
    assert saved[1] < saved[0] / 3


class Fused(torch.nn.Module):
    """A model of a type that nobody has heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="novel")
        self.wqkv, self.wo = torch.nn.Linear(4, 12), torch.nn.Linear(4, 4)


def test_modules_of_an_unknown_architecture_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r'= "auto": nothing is known of model type "novel"; .*: wo, wqkv'):
        target_modules(Fused(), LoraConfig())
    assert target_modules(Fused(), LoraConfig(target_modules="wo, wqkv")) == ["wo", "wqkv"]


def test_the_demos_adapter_is_q_k_v_o_without_being_told() -> None:
    named = fresh(ModelConfig(), LoraConfig(target_modules="q_proj,k_proj,v_proj,o_proj"), 1)
    found = fresh(ModelConfig(), LoraConfig(), 1)
    assert found.layout.digest == named.layout.digest
    assert torch.equal(found.initial, named.initial)
