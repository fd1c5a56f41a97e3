"""What can be told of a model before anything is started: of weights on this machine only names and shapes are read."""

from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig, RunConfig
from common.counts import count
from common.data import (
    check_chat_template,
    encode,
    private_tokens,
    shared_examples,
    shortened_texts,
    unknown_share,
    unknown_words,
)
from common.demo.model import load_tokenizer as load_demo_tokenizer
from common.model.base import check_ids, explain, load_tokenizer
from common.model.gguf import local_name
from common.model.positions import check_length
from common.model.weights_check import LOADING_FAULTS, check_local_weights, quiet_loading
from server_app.run import plan_run
from server_app.strategies import recipe_of
from workbench.planning.architectures import shape_of
from workbench.planning.model_directory import check_directory

_MOST_ROWS = 10_000  # that are held against a chat template before a run


def check_plan(config: RunConfig, clients: int) -> None:
    """Refuse a codec that the strategy cannot make for the model's adapter, and a budget that affords no run.

    Takes seconds. Raises ``ConfigError``.
    """
    plan_run(config, recipe_of(config, shape_of(config.model, config.lora).layout), clients)


def check_rows(config: RunConfig, clients: int) -> list[str]:
    """Warnings by the rows of a simulation: few words known to the model or rows cut short, by the first client's.

    Only of a model on this machine and of local data, as in a simulation; others are left to the run. Raises
    ``ConfigError`` for rows that cannot be tokenized, as those that the model's chat template cannot write.
    """
    model, data = config.model.name, config.data
    if not Path(data.name).is_absolute() or not (model == "demo" or Path(model).exists()):
        return []
    tokenizer = load_demo_tokenizer() if model == "demo" else load_tokenizer(local_name(config.model))
    named = f'data.name = "{data.name}"'
    rows = shared_examples(data, clients, config.seed) if data.templated or config.evaluation.private else None
    if rows is not None and data.templated:
        _check_written(rows, data, tokenizer, named)
    tokens = private_tokens(data, tokenizer, 0, clients, config.seed)
    found = (
        _endless(data, tokenizer, model),
        _nothing_held_out(config.evaluation.private, clients, rows),
        unknown_words(unknown_share(tokens, tokenizer), named, model),
        shortened_texts(tokens.shortened, len(tokens), f"{named}, the first client's", data.max_length),
    )
    return [warning for warning in found if warning]


def _check_written(rows: Dataset, data: DataConfig, tokenizer: PreTrainedTokenizerBase, named: str) -> None:
    """Refuse what the chat template cannot write; a client that holds such a row would fail in every round.

    Of very many rows the first ones only.
    """
    try:
        encode(rows.select(range(min(len(rows), _MOST_ROWS))), data, tokenizer, end=data.append_eos)
    except ConfigError as error:
        raise ConfigError(f"{named}: {error}") from None


def _endless(data: DataConfig, tokenizer: PreTrainedTokenizerBase, model: str) -> str:
    """That no text is taught to end, where it was to be."""
    if not data.append_eos or tokenizer.eos_token_id is not None:
        return ""
    return (
        f'data.append-eos = true: the tokenizer of "{model}" names no end-of-text token, so none is appended and texts '
        "will not end by themselves; name its eos_token in tokenizer_config.json, or set it to false"
    )


def _nothing_held_out(private: float, clients: int, rows: Dataset | None) -> str:
    """That clients answer a private evaluation with nothing, since one example alone is not held out."""
    alone = min(clients, 2 * clients - len(rows)) if private and rows is not None else 0
    if alone <= 0:
        return ""
    return (
        f"evaluation.private = {private:g}: at least {alone:,} of {count(clients, 'client')} "
        "hold one example and hold none out; they answer the middle of the range, so the scores tell less of "
        "the model"
    )


def check_model(config: RunConfig) -> None:
    """Refuse a local model that is absent, no causal language model, or not whole; or lacks the target modules.

    Of a hub id only its ``config.json`` is fetched. Raises ``ConfigError``.
    """
    name = config.model.name
    if name == "demo":
        return
    check_directory(name)
    if not Path(name).exists():
        _ask_hub(name)
        return
    place = local_name(config.model)
    shape = shape_of(config.model, config.lora)
    tokenizer = load_tokenizer(place)
    check_chat_template(config.data, tokenizer)
    check_ids(tokenizer, shape.model.get_base_model(), name)
    check_length(shape.model.get_base_model(), name, config.data.max_length)
    check_local_weights(place)


def _ask_hub(name: str) -> None:
    """Refuse a hub id that cannot be had, which the run would find out half a minute later."""
    try:
        with quiet_loading():
            AutoConfig.from_pretrained(name, trust_remote_code=False)
    except LOADING_FAULTS as error:
        raise ConfigError(f'model.name = "{name}": {explain(name, error)}') from error
