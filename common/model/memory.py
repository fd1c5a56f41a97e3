"""What a model keeps of the texts that it has read, and how it forgets them.

All clients of a process share one model. Where a rotary embedding is of the type "dynamic", it stretches with the
longest text so far and stays so: one client's long row would change what another computes, for which no noise is paid.
"""

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))


class ModelMemory:
    """Buffers of a model, and plain attributes of the modules that have any, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [_Kept(module) for module in model.modules() if any(True for _ in module.buffers(recurse=False))]

    def forget(self) -> None:
        """Bring all of it back to what it was; next to no time where nothing has changed."""
        for kept in self._kept:
            kept.restore()


class _Kept:
    """One module."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._names = module, set(vars(module))
        self._plain = {name: value for name, value in vars(module).items() if _is_plain(name, value)}
        self._buffers = {name: _Buffer(buffer) for name, buffer in module.named_buffers(recurse=False)}

    def restore(self) -> None:
        held = vars(self._module)
        for name in [name for name, value in held.items() if name not in self._names and _is_state(value)]:
            delattr(self._module, name)
        held.update(self._plain)
        for name, buffer in self._buffers.items():
            self._module._buffers[name] = buffer.restored()  # as ``functional_call`` does


class _Buffer:
    """One buffer with a copy, for where it is changed in its place; a mask, which may be large, never is."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer, self._copy = buffer, None if buffer.dtype == torch.bool else buffer.detach().clone()

    @torch.no_grad()
    def restored(self) -> Tensor:
        return self._buffer if self._copy is None else self._buffer.copy_(self._copy)


def _is_plain(name: str, value: object) -> bool:
    return name != "training" and isinstance(value, _PLAIN)


def _is_state(value: object) -> bool:
    return isinstance(value, Tensor | bool | int | float)
