"""What can be told of a model on this machine before anything is started: of weights only names and shapes are read."""

from pathlib import Path

from common.config import RunConfig
from common.data import check_chat_template, private_tokens
from common.model.base import check_ids, load_tokenizer
from common.model.positions import check_length
from common.model.weights_check import check_local_weights
from server_app.strategies import recipe_of
from workbench.planning.architectures import shape_of
from workbench.planning.model_directory import check_directory


def check_known_codec(config: RunConfig) -> None:
    """Refuse what the strategy could make no codec of, where the adapter is known: the demo's or a directory's."""
    name = config.model.name
    if name == "demo" or Path(name).is_dir():
        recipe_of(config, shape_of(config.model, config.lora).layout)


def check_conversations(config: RunConfig, clients: int) -> None:
    """Refuse conversations that the model's template cannot write or mark, by those of the first simulated client.

    Only of a local model and a local file: others are left to the run. Raises ``ConfigError``.
    """
    name = config.model.name
    if config.data.format == "chat" and Path(name).is_dir():
        private_tokens(config.data, load_tokenizer(name), 0, clients, config.seed)


def check_local_model(config: RunConfig) -> None:
    """Refuse a directory that is absent, no causal language model, or not whole; or lacks the target modules.

    A hub id and the demo are left to the run. Raises ``ConfigError``.
    """
    name = config.model.name
    if name == "demo":
        return
    check_directory(name)
    if not Path(name).is_dir():
        return
    shape = shape_of(config.model, config.lora)
    tokenizer = load_tokenizer(name)
    check_chat_template(config.data, tokenizer)
    check_ids(tokenizer, shape.model.get_base_model(), name)
    check_length(shape.model.get_base_model(), name, config.data.max_length)
    check_local_weights(name)
