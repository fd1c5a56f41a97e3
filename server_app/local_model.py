"""What can be told of a model on this machine before anything is started: no weights are read."""

from pathlib import Path

from common.architectures import shape_of
from common.base_model import load_tokenizer
from common.config import RunConfig
from common.data import check_chat_template
from common.positions import check_length
from server_app.model_directory import check_directory
from server_app.run import check_codec


def check_known_codec(config: RunConfig) -> None:
    """Refuse what the strategy could make no codec of, where the adapter is known: the demo's or a directory's."""
    name = config.model.name
    if name == "demo" or Path(name).is_dir():
        check_codec(config, shape_of(config.model, config.lora))


def check_local_model(config: RunConfig) -> None:
    """Refuse a directory that is absent or lacks its configuration, tokenizer or the target modules.

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
    check_length(shape.model.get_base_model(), name, config.data.max_length)
