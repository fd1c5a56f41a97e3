"""In which dtype a model's frozen weights are held, and whether the device computes in it."""

import torch

from common.config import ModelConfig

_CPUS = ("avx512_bf16", "amx_bf16", "bf16")
"""What processors say that multiply bfloat16: x86 of two kinds, ARM. The others convert every number, one by one."""
_HALVES = ("bfloat16", "float16")


def on_cpu(model: ModelConfig) -> bool:
    """Whether a process on a machine like this one computes on the CPU."""
    return model.device == "cpu" or (model.device == "auto" and not torch.cuda.is_available())


def dtype_name(model: ModelConfig) -> str:
    """The name of the dtype: of ``model.dtype = "auto"`` bfloat16 where the device computes in it, else float32."""
    if model.name == "demo":  # it is float32, and small
        return "float32"
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if _computes_in_bfloat16(on_cpu(model)) else "float32"


def dtype_of(model: ModelConfig) -> torch.dtype:
    """The dtype in which the frozen weights are held, but for quantized ones."""
    found: torch.dtype = getattr(torch, dtype_name(model))
    return found


def slow_arithmetic(model: ModelConfig) -> str:
    """A warning where this machine's CPU was asked for a dtype that it does not compute in; else ``""``.

    With AVX2 alone a step takes 17 times as long then (docs/performance.md).
    """
    if model.name == "demo" or not on_cpu(model) or _computes_in_bfloat16(True):
        return ""
    if model.quantization != "none":
        return (
            f'model.quantization = "{model.quantization}": the rest is computed in bfloat16, which this processor has '
            'not: many times slower than "none"'
        )
    if dtype_name(model) not in _HALVES:
        return ""
    return (
        f'model.dtype = "{model.dtype}": this processor does not compute in it: many times slower than '
        '"auto" or "float32"'
    )


def _computes_in_bfloat16(cpu: bool) -> bool:
    """Whether products of bfloat16 are as fast as they should be; a GPU that is not here has them."""
    if cpu:
        able = torch.cpu.get_capabilities()
        return any(able.get(name) for name in _CPUS)
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
