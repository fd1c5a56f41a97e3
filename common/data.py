"""Private examples of the clients and public examples of the server, as tokens with masked prompts.

Examples are rows of a ``datasets.Dataset`` with a prompt, a completion and optionally a group and choices. Clients of a
simulation share one data set that a ``flwr-datasets`` partitioner splits; a deployed site reads its own file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from datasets import config as datasets_config
from datasets.exceptions import DatasetsError
from flwr_datasets.partitioner import (
    IidPartitioner,
    InnerDirichletPartitioner,
    NaturalIdPartitioner,
    Partitioner,
)
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig
from common.demo import tasks as demo_tasks

IGNORED = -100  # label that cross-entropy skips
datasets_config.HF_UPDATE_DOWNLOAD_COUNTS = False  # who reads a local file calls nobody
disable_progress_bars()  # a client's terminal is the federation's log
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class TokenisedExamples:
    """Examples as tokens: ``input_ids``, ``attention_mask`` and ``labels``, each of shape ``[examples, length]``.

    ``labels`` repeats the completion's tokens and is ``IGNORED`` on the prompt and on the padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def select(self, rows: Tensor) -> "TokenisedExamples":
        """The given rows, cut to the longest of them."""
        mask = self.attention_mask[rows]
        length = int(mask.sum(dim=1).max()) if len(rows) else 0
        return TokenisedExamples(self.input_ids[rows, :length], mask[:, :length], self.labels[rows, :length])

    def to(self, device: torch.device) -> "TokenisedExamples":
        """The same examples on another device."""
        return TokenisedExamples(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def split_rows(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for stage 1 and for the rounds: disjoint, together all of ``count``, each in ascending order.

    About ``share`` (0..1, the ends excluded) of them go to stage 1, drawn by ``seed``; with two rows or more both parts
    have one at least, a single row goes to the rounds. Source: CG-FedLLM (arXiv 2405.13746), TGAP and FAF.
    """
    first = min(max(1, round(share * count)), count - 1) if count > 1 else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:first].sort().values, order[first:].sort().values


def tokenise(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[str], max_length: int
) -> TokenisedExamples:
    """Tokenise prompt + completion, right-padded; an example over ``max_length`` loses the start of its prompt."""
    prompt_lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]] if prompts else []
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    whole = tokenizer(texts)["input_ids"] if texts else []
    rows = [ids[-max_length:] for ids in whole]
    width = max((len(row) for row in rows), default=0)
    pad = tokenizer.pad_token_id
    input_ids = torch.full((len(rows), width), 0 if pad is None else int(pad), dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for index, row in enumerate(rows):
        start = max(0, prompt_lengths[index] - (len(whole[index]) - len(row)))
        input_ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        labels[index, start : len(row)] = torch.tensor(row[start:])
    return TokenisedExamples(input_ids, mask, labels)


def load_file(path: str, data: DataConfig) -> Dataset:
    """Read a local JSONL, CSV or Parquet file, or a hub data set; the configured columns must be there."""
    suffix = Path(path).suffix.lower()
    try:
        if suffix in _FORMATS:
            dataset = load_dataset(_FORMATS[suffix], data_files=path, split="train")
        else:
            dataset = load_dataset(path, split="train")
    except (OSError, ValueError, DatasetsError, StopIteration) as error:  # the last: an empty file
        raise ConfigError(
            f'data "{path}": could not be read as a {"/".join(_FORMATS)} file, a directory or a hub data set: '
            f"{_reason(error)}"
        ) from error
    for key, column in (("prompt-column", data.prompt_column), ("completion-column", data.completion_column)):
        if column not in dataset.column_names:
            raise ConfigError(
                f'data.{key} = "{column}": not a column of "{path}", which has {", ".join(dataset.column_names)}'
            )
        found = getattr(dataset.features[column], "dtype", "a list")
        if found not in {"string", "large_string"}:
            raise ConfigError(f'data.{key} = "{column}": holds {found} in "{path}"; text is needed')
    _check_rows(dataset, path, data)
    return dataset


def _check_rows(dataset: Dataset, path: str, data: DataConfig) -> None:
    """Refuse a file without rows, and rows without a text to learn or to ask with."""
    if len(dataset) == 0:
        raise ConfigError(f'data "{path}": could not be read as examples: the file has no rows')
    for key, column in (("prompt-column", data.prompt_column), ("completion-column", data.completion_column)):
        for number, text in enumerate(dataset[column], start=1):
            if text is None or (key == "completion-column" and not text):
                raise ConfigError(
                    f'data.{key} = "{column}": row {number} of "{path}" has no text there; fill it or drop the row'
                )


def _check_choices(dataset: Dataset, data: DataConfig) -> None:
    """Refuse a multiple-choice row whose answer is not among its choices."""
    if "choices" not in dataset.column_names:
        return
    answers = zip(dataset[data.completion_column], dataset["choices"], strict=True)
    for number, (answer, choices) in enumerate(answers, start=1):
        if answer not in (choices or ()):
            raise ConfigError(
                f'data.evaluation = "{data.evaluation}": row {number} has the answer {answer!r}, which is not one of '
                f"its choices {choices!r}"
            )


def _reason(error: BaseException) -> str:
    """What went wrong at the root, in one line: ``datasets`` wraps it in general words."""
    if isinstance(error, StopIteration):
        return "the file is empty"
    return str(error.__cause__ or error).splitlines()[0]


@lru_cache(maxsize=2)
def _partitioner(data: DataConfig, num_partitions: int, seed: int) -> Partitioner:
    if data.name == "demo":
        check_demo(data)
        dataset = demo_tasks.training_examples(data.task, data.examples_per_client * num_partitions, seed)
    else:
        dataset = load_file(data.name, data)
    if len(dataset) < num_partitions:
        raise ConfigError(
            f'data.name = "{data.name}" has {len(dataset)} examples for {num_partitions} clients: '
            "give more data or fewer clients"
        )
    if data.partitioner != "iid" and data.partition_by not in dataset.column_names:
        raise ConfigError(
            f'data.partition-by = "{data.partition_by}": not a column of the data, '
            f"which has {', '.join(dataset.column_names)}"
        )
    if data.partitioner == "dirichlet":
        dataset = dataset.class_encode_column(data.partition_by)  # the partitioner compares with class numbers
    if data.partitioner == "iid":
        dataset = dataset.shuffle(seed=seed)  # the partitioner cuts contiguous pieces, and files are often sorted
    partitioner = _make_partitioner(data, len(dataset), num_partitions, seed)
    partitioner.dataset = dataset
    return partitioner


def _make_partitioner(data: DataConfig, examples: int, num_partitions: int, seed: int) -> Partitioner:
    if data.partitioner == "iid":
        return IidPartitioner(num_partitions)
    if data.partitioner == "natural":
        return NaturalIdPartitioner(data.partition_by)
    sizes = [examples // num_partitions] * num_partitions
    return InnerDirichletPartitioner(sizes, data.partition_by, data.dirichlet_alpha, seed=seed)


def private_examples(data: DataConfig, partition: int, num_partitions: int, seed: int, site_path: str = "") -> Dataset:
    """One client's private rows: the site's own file when it names one, else its partition of the shared data set."""
    if site_path:
        return load_file(site_path, data)
    partitioner = _partitioner(data, num_partitions, seed)
    if partitioner.num_partitions != num_partitions:
        raise ConfigError(
            f'data.partitioner = "{data.partitioner}" makes {partitioner.num_partitions} partitions of '
            f'"{data.partition_by}", but there are {num_partitions} clients: use as many clients, or change it'
        )
    return partitioner.load_partition(partition)


@lru_cache(maxsize=4096)
def private_tokens(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    partition: int,
    num_partitions: int,
    seed: int,
    site_path: str = "",
) -> TokenisedExamples:
    """``private_examples`` as tokens, kept for the life of the process. No data raises ``ConfigError``."""
    rows = private_examples(data, partition, num_partitions, seed, site_path)
    if len(rows) == 0:
        raise ConfigError(f"this client (partition {partition} of {num_partitions}) has no examples to train on")
    return tokenise(tokenizer, rows[data.prompt_column], rows[data.completion_column], data.max_length)


def check_demo(data: DataConfig) -> None:
    """Refuse a task or split that the demo data do not have."""
    if data.task not in demo_tasks.TASKS:
        raise ConfigError(f'data.task = "{data.task}": the demo data have {", ".join(demo_tasks.TASKS)}')
    splits = [split for split in demo_tasks.splits_of(data.task) if split != "retention"]
    if data.split not in splits:
        raise ConfigError(f'data.split = "{data.split}": data.task = "{data.task}" has {", ".join(splits)}')


def evaluation_examples(data: DataConfig, seed: int) -> Dataset | None:
    """Public rows that no client holds: the configured file, the demo's own, or ``None`` when there is neither."""
    if data.evaluation:
        rows = load_file(data.evaluation, data)
        _check_choices(rows, data)
        return rows
    if data.name != "demo":
        return None
    check_demo(data)
    return demo_tasks.evaluation_examples(data.task, data.split, seed)


def retention_examples(data: DataConfig, seed: int) -> Dataset | None:
    """What the base model knows and should keep, where the demo task has such a set; not beside other examples."""
    if data.name != "demo" or data.evaluation:
        return None
    check_demo(data)
    if "retention" not in demo_tasks.splits_of(data.task):
        return None
    return demo_tasks.evaluation_examples(data.task, "retention", seed)
