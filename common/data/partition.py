"""Who holds which rows: a site its own file, a simulated client its share of one data set, the server public ones."""

import io
import warnings
from contextlib import redirect_stderr
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.config import ConfigError, DataConfig
from common.counts import count
from common.data.sources import load_examples, load_site_examples
from common.data.table import MESSAGES
from common.data.tokenized import TokenizedExamples
from common.data.tokens import encode
from common.demo import tasks as demo_tasks

if TYPE_CHECKING:  # it brings plots and statistics, which neither a server nor a site with its own data needs
    from flwr_datasets.partitioner import Partitioner

_MOST_DRAWN = 5_000_000  # half a gigabyte as a table, ten times that while it is made
_CODES = "__group__"  # numbers of the groups, which partitioners compare; the groups themselves stay texts


def shared_examples(data: DataConfig, clients: int, seed: int) -> Dataset:
    """The one data set that simulated clients share, before it is split. Raises ``ConfigError``."""
    if data.name != "demo":
        return load_examples(data.name, data)
    check_demo_data(data, clients)
    return demo_tasks.training_examples(data.task, data.examples_per_client * clients, seed)


@lru_cache(maxsize=2)
def _partitioner(data: DataConfig, num_partitions: int, seed: int) -> "Partitioner":
    dataset = shared_examples(data, num_partitions, seed)
    if len(dataset) < num_partitions:
        raise ConfigError(
            f'data.name = "{data.name}" has {count(len(dataset), "example")} for {count(num_partitions, "client")}: '
            "give more data or fewer clients"
        )
    if data.partitioner == "iid":
        dataset = dataset.shuffle(seed=seed)  # the partitioner cuts contiguous pieces, and files are often sorted
    else:
        dataset = dataset.add_column(_CODES, _group_numbers(dataset, data))
    partitioner = _make_partitioner(data, len(dataset), num_partitions, seed)
    partitioner.dataset = dataset
    return partitioner


def _group_numbers(rows: Dataset, data: DataConfig) -> list[int]:
    """The number of each row's group among the sorted groups."""
    column = data.group_column
    if column not in rows.column_names:
        raise ConfigError(
            f'data.group-column = "{column}": not a column of the data, '
            f'which has {", ".join(rows.column_names)}; or set data.partitioner = "iid"'
        )
    if _CODES in rows.column_names:
        raise ConfigError(f'data.name = "{data.name}": a column is called "{_CODES}", a name that is needed; rename it')
    groups: list[str | None] = list(rows[column])
    if gaps := groups.count(None):
        raise ConfigError(
            f'data.group-column = "{column}": {gaps} of {count(len(groups), "row")} of "{data.name}" have no value '
            f'there, the first is row {groups.index(None) + 1}: give them one, or set data.partitioner = "iid"'
        )
    number = {group: place for place, group in enumerate(sorted({str(group) for group in groups}))}
    return [number[str(group)] for group in groups]


def _make_partitioner(data: DataConfig, examples: int, num_partitions: int, seed: int) -> "Partitioner":
    from flwr_datasets.partitioner import (  # noqa: PLC0415 - as above
        IidPartitioner,
        InnerDirichletPartitioner,
        NaturalIdPartitioner,
    )

    if data.partitioner == "iid":
        return IidPartitioner(num_partitions)
    if data.partitioner == "natural":
        return NaturalIdPartitioner(_CODES)
    return InnerDirichletPartitioner(_sizes(examples, num_partitions), _CODES, data.dirichlet_alpha, seed=seed)


def _sizes(examples: int, clients: int) -> list[int]:
    """As equal as can be, together all; the first clients have one more."""
    size, left = divmod(examples, clients)
    return [size + (client < left) for client in range(clients)]


def private_examples(data: DataConfig, partition: int, num_partitions: int, seed: int, site_path: str = "") -> Dataset:
    """One client's private rows: the site's own file when it names one, else its partition of the shared data set.

    Each is there once, however often the client holds it; the demo's rows are drawn with repetition and stay so.
    Raises ``ConfigError`` for shared data that cannot be used or split; a site's own never raise: what cannot be used
    is left out, to the point of no rows.
    """
    if site_path:
        return _distinct(load_site_examples(site_path, data), data)
    partitioner = _partitioner(data, num_partitions, seed)
    if _count(partitioner, data) != num_partitions:
        raise ConfigError(
            f'data.partitioner = "{data.partitioner}" makes {count(int(partitioner.num_partitions), "partition")} of '
            f'"{data.group_column}", for {count(num_partitions, "client")}: set federation.num-clients = '
            f'{partitioner.num_partitions}, or data.partitioner = "iid"'
        )
    with redirect_stderr(io.StringIO()):  # a bar of progress, on a terminal that has one of its own
        rows = partitioner.load_partition(partition)
    if _CODES in rows.column_names:
        rows = rows.remove_columns(_CODES)
    return rows if data.name == "demo" else _distinct(rows, data)


def _count(partitioner: "Partitioner", data: DataConfig) -> int:
    """How many partitions there are, once all rows are placed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0, on the way to the error
        try:
            return int(partitioner.num_partitions)
        except ValueError as error:  # shares of 0 for every group that has rows left
            raise ConfigError(
                f'data.dirichlet-alpha = {data.dirichlet_alpha}: too small for the groups of "{data.name}": some '
                "clients would get rows of groups that have none left; take a larger one, or another data.partitioner"
            ) from error


def _distinct(rows: Dataset, data: DataConfig) -> Dataset:
    """The rows without later repetitions of a prompt with the same completion, or of a conversation."""
    columns = [MESSAGES] if data.format == "chat" else [data.prompt_column, data.completion_column]
    pairs = zip(*(rows[column] for column in columns), strict=True)
    first = {pair: number for number, pair in reversed(list(enumerate(pairs)))}
    return rows if len(first) == len(rows) else rows.select(sorted(first.values()))


@lru_cache(maxsize=4096)
def private_tokens(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    partition: int,
    num_partitions: int,
    seed: int,
    site_path: str = "",
) -> TokenizedExamples:
    """``private_examples`` as tokens, kept for the life of the process. No data raises ``ConfigError``."""
    rows = private_examples(data, partition, num_partitions, seed, site_path)
    if len(rows) == 0:
        raise ConfigError(
            f"this client (partition {partition} of {num_partitions}) has no examples to train on: data.partitioner = "
            f'"{data.partitioner}" gave it none of "{data.name}"; use fewer clients, or another partitioner'
        )
    drawn = data.name == "demo" and not site_path  # short answers that the embedded model was never taught to end
    return encode(rows, data, tokenizer, end=data.append_eos and not drawn, lenient=bool(site_path), pieces=True)


def split_rows(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for stage 1 and for the rounds: disjoint, together all of ``count``, each in ascending order.

    About ``share`` (0..1, the ends excluded) of them go to stage 1, drawn by ``seed``; with two rows or more both parts
    have one at least, a single row goes to the rounds. Source: CG-FedLLM (arXiv 2405.13746), TGAP and FAF.
    """
    first = min(max(1, round(share * count)), count - 1) if count > 1 else 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:first].sort().values, order[first:].sort().values


def check_demo_data(data: DataConfig, clients: int) -> None:
    """Refuse to train on the embedded data in a format or by columns that they have not, or on too many of them.

    Raises ``ConfigError``.
    """
    if (count := data.examples_per_client * clients) > _MOST_DRAWN:
        raise ConfigError(
            f"data.examples-per-client = {data.examples_per_client:,}: {count:,} of the demo's examples would be drawn "
            f"for {clients:,} clients, and {_MOST_DRAWN:,} are the most that one machine holds; take fewer of either"
        )
    if data.format != "columns":
        raise ConfigError(
            f'data.format = "{data.format}" with data.name = "demo": the embedded data have no such format; set '
            "data.name to a data set of that format, or data-path in the node's configuration"
        )
    _check_demo_columns(data)


def _check_demo_columns(data: DataConfig) -> None:
    named = {"prompt": data.prompt_column, "completion": data.completion_column}
    for own, column in named.items():
        if data.format == "columns" and column != own:
            raise ConfigError(
                f'data.{own}-column = "{column}" with data.name = "demo": the embedded data have no such column; leave '
                "it out, or name data of your own with data.name (at a site: data-path) and data.evaluation"
            )


def evaluation_examples(data: DataConfig, seed: int) -> Dataset | None:
    """Public rows that no client holds: the configured file, the demo's own, or ``None`` when there is neither."""
    if data.evaluation:
        return load_examples(data.evaluation, data, held_out=True)
    if data.name != "demo":
        return None
    _check_demo_columns(data)
    return demo_tasks.evaluation_examples(data.task, "evaluation", seed)


def validation_examples(data: DataConfig, seed: int) -> Dataset | None:
    """Public rows other than those that are scored, to decide by; ``None`` where the demo has none for the task.

    Beside other data, or other scored rows, than the demo's those of ``data.validation``. ``None`` also for a run that
    is scored on these very rows.
    """
    if data.validation:
        return load_examples(data.validation, data, held_out=True, key="data.validation")
    if data.name != "demo" or data.evaluation or data.task not in demo_tasks.VALIDATION:
        return None
    return demo_tasks.evaluation_examples(demo_tasks.VALIDATION[data.task], "evaluation", seed)


def retention_examples(data: DataConfig, seed: int) -> Dataset | None:
    """What the base model knows and should keep, where the demo task has such a set; not beside other examples."""
    if data.name != "demo" or data.evaluation:
        return None
    if "retention" not in demo_tasks.splits_of(data.task):
        return None
    return demo_tasks.evaluation_examples(data.task, "retention", seed)
