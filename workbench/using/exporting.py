"""A finished adapter as a folder for others: merged into its base model, or by itself; with its model card.

What is written names no path of this machine: a local base model by the last part of its name, or by the hub id that
the caller gives.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from yaml import YAMLError

from common.config import ConfigError, ModelConfig
from common.demo.model import load_tokenizer as load_demo_tokenizer
from common.model.adapted import assemble
from common.model.base import device_of, load_base
from common.model.base_sample import BASE_FILE
from common.model.gguf import local_name
from common.model.precision import dtype_name
from server_app.results.published_names import is_local, public_name
from workbench.evaluation.adapter import put_on
from workbench.using.request import Asked

CARD = "README.md"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", CARD, BASE_FILE)
_LOADING = re.compile(r"## How to load it\n.*?(?=\n## )", re.DOTALL)


def export_adapter(request: Asked, out: Path, base_id: str) -> None:
    """The adapter in PEFT's format, with its card and the sample by which its base model is recognized."""
    if not (request.adapter / "adapter_model.safetensors").exists():
        raise ConfigError(
            f'--adapter "{request.adapter}": no adapter_model.safetensors there, which is what is exported'
        )
    card = _read_card(request.adapter)
    out.mkdir(parents=True, exist_ok=True)
    for name in _ADAPTER:
        if (request.adapter / name).exists():
            shutil.copyfile(request.adapter / name, out / name)
    base = _public_base(request, base_id)
    settings = json.loads((out / "adapter_config.json").read_bytes())
    settings["base_model_name_or_path"] = base or public_name(str(settings.get("base_model_name_or_path", "")))
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if card:
        _name_base(card, "adapter", base)
        card.save(out / CARD)


def export_merged(request: Asked, out: Path, dtype: str, base_id: str) -> None:
    """The base model with the adapter added to its weights, in ``dtype`` ("": the run's), and the tokenizer.

    W + (alpha/r) B A of every adapted layer. A base model that was quantized while training is taken whole: the sum
    has no place in its few bits.
    """
    card = _read_card(request.adapter)
    asked = request.config.model
    dtype = dtype or dtype_name(asked)
    plain = {"quantization": "none", "dtype": dtype, "gradient_checkpointing": False}
    if asked.name == "demo":
        plain["dtype"] = "float32"
    model = ModelConfig.model_validate(asked.model_copy(update=plain).model_dump(by_alias=True))
    base, tokenizer = load_base(model)
    adapted = assemble(base, tokenizer, request.config.lora, request.config.seed, device_of(model))
    put_on(request.adapter, request.config.model_copy(update={"model": model}), adapted)
    untied = _untie(adapted.model)
    merged = adapted.model.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    if untied:
        merged.config.get_text_config().tie_word_embeddings = False
        merged.config.tie_word_embeddings = False
        merged.all_tied_weights_keys = {}
    merged.to(getattr(torch, dtype))
    named = base_id or public_name(asked.name)
    merged.config._name_or_path = named  # noqa: SLF001 - what save_pretrained would write else is a path
    if asked.name != "demo":
        merged.generation_config = _own_generation(local_name(asked)) or merged.generation_config
    merged.save_pretrained(out)
    _own_tokenizer(local_name(asked)).save_pretrained(out)
    if card:
        (out / CARD).write_text(_merged_card(card, named, _public_base(request, base_id)), encoding="utf-8")


def _read_card(adapter: Path) -> Any:  # noqa: ANN401 - a ModelCard, whose type tells nothing of its head
    """The adapter's card, ``None`` where it has none; ``ConfigError`` where its head cannot be read."""
    if not (adapter / CARD).exists():
        return None
    try:
        card: Any = ModelCard.load(adapter / CARD, ignore_metadata_errors=True)
        if all(isinstance(tag, str) for tag in card.data.tags or []):
            return card
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    raise ConfigError(f'--adapter "{adapter}": the head of its {CARD} is not that of a model card; mend or remove it')


def _name_base(card: Any, relation: str, base: str) -> None:  # noqa: ANN401 - as above
    """Name the base model by its hub id alone: PEFT's own cards have the path of a local one."""
    tags = [tag for tag in card.data.tags or [] if not tag.startswith("base_model:")]
    card.data.base_model = base or None
    card.data.tags = [*tags, *([f"base_model:{relation}:{base}"] if base else [])]


def _untie(model: PeftModel) -> bool:
    """Give each adapted layer a weight of its own where it shares one, as an output layer does with the embeddings.

    Else what is added to one would be added to both. Whether there was any.
    """
    holders = Counter(weight.data_ptr() for _, weight in model.named_parameters(remove_duplicate=False))
    layers: list[Any] = [module.base_layer for module in model.modules() if isinstance(module, BaseTunerLayer)]
    shared = [layer for layer in layers if holders[layer.weight.data_ptr()] > 1]
    for layer in shared:
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    return bool(shared)


def _public_base(request: Asked, base_id: str) -> str:
    """The hub id of the base model, or ``""`` where nobody has said one."""
    name = request.config.model.name
    return base_id or ("" if name == "demo" or is_local(name) else name)


def _own_generation(name: str) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(name)
    except OSError:
        return None


def _own_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """As it came: training changes what it puts around a text."""
    if name == "demo":
        return load_demo_tokenizer()
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return found


def _merged_card(card: Any, named: str, base: str) -> str:  # noqa: ANN401 - as above
    """The adapter's card, which says what was trained and under which terms, as that of a whole model."""
    card.data.library_name = "transformers"
    _name_base(card, "finetune", base)
    loading = (
        "## How to load it\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained(".")  # this folder\n'
        'tokenizer = AutoTokenizer.from_pretrained(".")\n```\n'
    )
    text = _LOADING.sub(lambda _: loading, str(card))
    return text.replace("# LoRA adapter of", "# A LoRA adapter merged into", 1).replace("this adapter", "this model")
