"""How many tokens a model can tell apart by their place, where that is a table and not a rule.

A table of learned positions (GPT-2, OPT) has an end, and a longer text is an index error deep in the model; rotary
positions (Llama, Qwen) have none.
"""

from torch import nn

from common.config import ConfigError

_OFFSETS = (0, 2)  # rows of the table beyond the positions: OPT's first two serve padding


def learned_positions(model: nn.Module) -> int | None:
    """Rows of the model's table of positions; ``None`` for a model without one."""
    config = getattr(model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)  # transformers maps n_positions to it
    if positions is None:
        return None
    words = model.get_input_embeddings()  # type: ignore[operator]  # every causal language model has one
    tables = [
        module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is not words.weight
    ]
    sizes = {positions + offset for offset in _OFFSETS}
    return int(positions) if any(table.num_embeddings in sizes for table in tables) else None


def check_length(model: nn.Module, name: str, max_length: int, new_tokens: int = 0) -> None:
    """Refuse texts longer than the table: ``max_length`` read and ``new_tokens`` written. Raises ``ConfigError``."""
    positions = learned_positions(model)
    if positions is None or max_length + new_tokens <= positions:
        return
    written = f" and --new-tokens = {new_tokens}" if new_tokens else ""
    raise ConfigError(
        f'data.max-length = {max_length}{written}: model.name = "{name}" has learned positions for {positions} tokens; '
        f"{'both together' if new_tokens else 'it'} must not be more"
    )
