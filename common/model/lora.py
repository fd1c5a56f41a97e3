"""The LoRA adapter on a base model: which modules it goes to, and putting it there (peft)."""

import warnings

from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, TaskType, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import nn
from transformers.pytorch_utils import Conv1D

from common.adapter import Layout
from common.config import ConfigError, LoraConfig

AUTO = "auto"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What the paper adapts (Table 5 counts four modules a layer), under the names that Llama and its kin give them."""

_MOST_TOLD = 400  # characters


def target_modules(base: nn.Module, lora: LoraConfig) -> list[str]:
    """The modules that get an adapter: those that are named, or the architecture's attention projections.

    ``auto`` takes q, k, v and o where a model has them all (Llama, Mistral, Qwen2, Qwen3, Gemma, ...), else what peft
    knows of the model type (GPT-2: the fused ``c_attn``). Raises ``ConfigError`` listing the model's linear modules
    when neither says anything.
    """
    if lora.targets != [AUTO]:
        _check_each_exists(base, lora)
        return lora.targets
    leaves = linear_modules(base)
    if set(ATTENTION) <= set(leaves):
        return list(ATTENTION)
    kind = str(getattr(getattr(base, "config", None), "model_type", "unknown"))
    known = PEFT_TARGETS.get(kind)
    if isinstance(known, list) and set(known) <= set(leaves):
        return list(known)
    raise ConfigError(
        f'lora.target-modules = "auto": nothing is known of model type "{kind}"; name some of its linear modules: '
        f"{', '.join(leaves)}"
    )


def _check_each_exists(base: nn.Module, lora: LoraConfig) -> None:
    """Peft is content with one match; a name that matches nothing would be left out of the adapter in silence."""
    paths = [name.split(".") for name, _ in base.named_modules()]
    ends = {".".join(path[place:]) for path in paths for place in range(len(path))}
    absent = [wanted for wanted in lora.targets if wanted not in ends]
    if absent:
        raise ConfigError(
            f'lora.target-modules = "{_begun(lora.target_modules)}": no module is called {_begun(", ".join(absent))}. '
            f"Linear modules of this model: {', '.join(linear_modules(base))}"
        )


def _begun(names: str) -> str:
    """Names as they are told: a file from elsewhere may hold any number of them."""
    return names if len(names) <= _MOST_TOLD else f"{names[:_MOST_TOLD]}…"


def check_rank(base: nn.Module, lora: LoraConfig, targets: list[str]) -> None:
    """Refuse a rank that no target layer can use: B A has at most the rank of its narrower side.

    Raises ``ConfigError``.
    """
    widths = [
        min(module.weight.shape if isinstance(module, Conv1D | nn.Embedding) else _sides(module))
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding) and _is_one_of(name, targets)
    ]
    if widths and lora.rank > max(widths):
        raise ConfigError(
            f"lora.rank = {lora.rank}: above the width of every adapted layer; no update of these has a rank above "
            f"{max(widths)}"
        )


def _sides(module: nn.Linear) -> tuple[int, int]:
    """Inputs and outputs; quantized weights are packed, so their shape does not tell."""
    return module.in_features, module.out_features


def _is_one_of(name: str, targets: list[str]) -> bool:
    return any(f".{name}".endswith(f".{wanted}") for wanted in targets)


def linear_modules(base: nn.Module) -> list[str]:
    """Last parts of the names of all linear modules, sorted; quantized ones and GPT-2's ``Conv1D`` are linear too."""
    found = {name.rsplit(".", 1)[-1] for name, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    return sorted(found)


def adapt(base: nn.Module, lora: LoraConfig) -> PeftModel:
    """Put a LoRA adapter on ``base``; raises ``ConfigError`` when the target modules do not exist in it."""
    targets = target_modules(base, lora)
    check_rank(base, lora, targets)
    settings = PeftLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft scales by any real alpha
        target_modules=targets,
        fan_in_fan_out=_stores_transposed(base, targets),
    )
    try:
        with warnings.catch_warnings():  # peft asks transformers by a name that is deprecated there
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            model = get_peft_model(base, settings)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(
            f'lora.target-modules = "{lora.target_modules}": {error} Linear modules of this model: '
            f"{', '.join(linear_modules(base))}"
        ) from error
    for name, parameter in model.named_parameters():
        if is_factor(name, "A") and lora.freeze_a:
            parameter.requires_grad_(False)
    return model  # type: ignore[return-value]


def is_factor(name: str, letter: str) -> bool:
    """Whether a parameter is LoRA's A or B; of an embedding peft calls it ``lora_embedding_A``."""
    return f"lora_{letter}." in name or f"lora_embedding_{letter}." in name


def with_rank(layout: Layout, rank: int) -> Layout:
    """The layout that the same modules have at another rank: A is ``[rank, inputs]``, B ``[outputs, rank]``."""
    return Layout.of(
        {
            piece.name: (rank, piece.shape[1]) if is_factor(piece.name, "A") else (piece.shape[0], rank)
            for piece in layout.tensors
        }
    )


def _stores_transposed(base: nn.Module, targets: list[str]) -> bool:
    """Whether the targets keep their weight as [in, out] (GPT-2's ``Conv1D``; bitsandbytes replaces it)."""
    named = [module for name, module in base.named_modules() if name.rsplit(".", 1)[-1] in targets]
    return any(isinstance(module, Conv1D) for module in named)
