"""How a site's own rows may be read and trained on: fixed by its node configuration, never by a run's.

A run's configuration comes from whoever submits it. What it asks for is compared with what the site has fixed, before
any row, file or model is touched, so that a refusal is a function of the request and of this configuration alone.
"""

import copy
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from client_app.node_config import NodeConfig, PolicyRefusal, absolute_path, flag, text, whole
from common.config import DataConfig, ModelConfig, RunConfig, TrainConfig

DEFAULTS = {"max-length": 512, "max-batch-size": 64, "max-local-steps": 32, "max-local-epochs": 0}
_FORMATS: tuple[str, ...] = get_args(DataConfig.model_fields["format"].annotation)
_PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")  # a hub id and a commit
_ENTRIES = (
    "separated by commas: demo, absolute names of folders or .gguf files, or hub ids with their commit "
    '("org/name@<40 hex digits>")'
)


@dataclass(frozen=True)
class SiteData:
    """What the site has fixed.

    Attributes:
        path: the file of private rows.
        format: its layout, as ``data.format``; ``columns`` reads the two columns below.
        prompt_column: column of the prompt.
        completion_column: column of what is learnt.
        chat_template: file of the site's own Jinja template; "" = prompts as they are. A model's template never runs.
        append_eos: whether completions end with the tokenizer's end-of-text.
        max_length: longest example, in tokens, that a run may ask for.
        max_batch_size: most examples in a micro-batch.
        max_local_steps: most micro-batches of one answer.
        max_local_epochs: most passes over all rows in one answer; their time tells how many rows there are.
        models: models that may see the rows.

    """

    path: str
    format: str
    prompt_column: str
    completion_column: str
    chat_template: str
    append_eos: bool
    max_length: int
    max_batch_size: int
    max_local_steps: int
    max_local_epochs: int
    models: tuple[str, ...]

    @classmethod
    def from_node_config(cls, node: NodeConfig) -> "SiteData":
        """Read it from a node configuration with ``data-path``; ``PolicyRefusal`` names a key that is wrong."""
        layout, template = text(node, "data-format", "columns", _FORMATS), absolute_path(node, "chat-template")
        if layout == "chat" and not template:
            raise PolicyRefusal(
                'node config data-format = "chat": write chat-template too, the absolute name of a Jinja file of the '
                "site's own (the model's never runs on private rows); refusing until then"
            )
        return cls(
            path=absolute_path(node, "data-path"),
            format=layout,
            prompt_column=text(node, "prompt-column", "prompt"),
            completion_column=text(node, "completion-column", "completion"),
            chat_template=template,
            append_eos=flag(node, "append-eos", default=True),
            max_length=whole(node, "max-length", DEFAULTS["max-length"], least=2),
            max_batch_size=whole(node, "max-batch-size", DEFAULTS["max-batch-size"], least=1),
            max_local_steps=whole(node, "max-local-steps", DEFAULTS["max-local-steps"], least=1),
            max_local_epochs=whole(node, "max-local-epochs", DEFAULTS["max-local-epochs"]),
            models=_models(text(node, "models", "demo")),
        )

    def check(self, config: RunConfig, train: TrainConfig) -> None:
        """Refuse (``PolicyRefusal``) a run that wants rows read otherwise, another model, or more work than allowed.

        ``train`` is the local training that this very message asks for.
        """
        for key, asked, fixed in self._fixed(config.data):
            if asked != fixed:
                raise PolicyRefusal(f"this site refuses: data.{key} = {_shown(asked)}; its own is {_shown(fixed)}")
        for what, asked, key, most in (
            ("data.max-length", config.data.max_length, "max-length", self.max_length),
            ("train.batch-size", train.batch_size, "max-batch-size", self.max_batch_size),
            ("micro-batches", train.local_steps * train.gradient_accumulation, "max-local-steps", self.max_local_steps),
            ("train.local-epochs", train.local_epochs, "max-local-epochs", self.max_local_epochs),
        ):
            if asked > most:
                raise PolicyRefusal(f"this site refuses: {what} = {asked}, above its {key} = {most}")
        if config.model.name not in {_name(entry) for entry in self.models}:
            raise PolicyRefusal(
                f'this site refuses: model.name = "{config.model.name}" is none of the models of its node config'
            )

    def model(self, asked: ModelConfig) -> ModelConfig:
        """The accepted model: a hub id becomes the folder in which this machine's cache holds the pinned commit."""
        entry = next(entry for entry in self.models if _name(entry) == asked.name)
        if not _PINNED.fullmatch(entry):
            return asked
        name, _, commit = entry.partition("@")
        return asked.model_copy(update={"name": snapshot_download(name, revision=commit, local_files_only=True)})

    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The model's tokenizer with the site's chat template in place of its own, or without any."""
        template = Path(self.chat_template).read_text(encoding="utf-8") if self.chat_template else ""
        return _with_template(tokenizer, template)

    def settings(self, asked: DataConfig) -> DataConfig:
        """How the rows are read: everything as fixed here, but for the length, which a run may shorten."""
        return DataConfig(
            format=cast("Any", self.format),
            prompt_column=self.prompt_column,
            completion_column=self.completion_column,
            chat_template=bool(self.chat_template),
            append_eos=self.append_eos,
            max_length=asked.max_length,
        )

    def _fixed(self, asked: DataConfig) -> list[tuple[str, object, object]]:
        found: list[tuple[str, object, object]] = [
            ("format", asked.format, self.format),
            ("chat-template", asked.templated, bool(self.chat_template)),
            ("append-eos", asked.append_eos, self.append_eos),
        ]
        if self.format == "columns":  # other formats name their columns themselves
            found += [
                ("prompt-column", asked.prompt_column, self.prompt_column),
                ("completion-column", asked.completion_column, self.completion_column),
            ]
        return found


@lru_cache(maxsize=2)
def _with_template(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    """A copy, since the model's own tokenizer is shared; the same one each time, by which tokens are cached."""
    copied = copy.copy(tokenizer)
    copied.chat_template = template or None
    return copied


def _models(listed: str) -> tuple[str, ...]:
    entries = tuple(entry.strip() for entry in listed.split(","))
    for entry in entries:
        if entry != "demo" and not Path(entry).is_absolute() and not _PINNED.fullmatch(entry):
            raise PolicyRefusal(f"node config models: write names {_ENTRIES}; refusing until then")
    return entries


def _name(entry: str) -> str:
    """The ``model.name`` that asks for an entry."""
    return entry.partition("@")[0] if _PINNED.fullmatch(entry) else entry


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
