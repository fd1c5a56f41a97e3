"""A client's step as it will be: how long its texts are, where they can be read, and how long it takes on this CPU."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from common.config import RunConfig
from common.data import IGNORED, private_tokens
from common.demo.model import load_tokenizer as load_demo_tokenizer
from common.model.adapted import assemble
from common.model.base import load_tokenizer
from common.model.gguf import local_name
from common.model.label_logits import logits_at
from common.model.label_loss import label_loss
from common.model.precision import dtype_of, on_cpu
from workbench.planning.architectures import Shape, shallow

_CLIENTS, _DRAWS = 4, 16  # whose rows are looked at; batches of each
_LARGEST = 2_000_000_000  # parameters of a model whose layers are timed; of larger ones few train on a CPU
_LAPS = 3
_TOKENS = 1_024  # of a batch that is timed; a longer one is cut to fewer rows and counted up


@dataclass(frozen=True)
class Batch:
    """Rows of a micro-batch, its length in tokens, and how many tokens of it are learned."""

    rows: int
    length: int
    labels: int
    read: bool

    @classmethod
    def largest(cls, config: RunConfig) -> "Batch":
        """The largest that the configuration allows, every token a completion's."""
        rows, length = config.train.batch_size, config.data.max_length
        return cls(rows, length, rows * length, read=False)


def batches_of(config: RunConfig, clients: int) -> tuple[Batch, Batch]:
    """The usual batch of a client and the longest, by some clients' rows; what time takes, and what memory must hold.

    Where data and tokenizer are not on this machine, the largest that may be, twice.
    """
    if not all(name == "demo" or Path(name).exists() for name in (config.model.name, config.data.name)):
        return (Batch.largest(config),) * 2
    demo = config.model.name == "demo"
    tokenizer = load_demo_tokenizer() if demo else load_tokenizer(local_name(config.model))
    generator = torch.Generator().manual_seed(config.seed)
    seen = []
    for client in range(min(_CLIENTS, clients)):
        tokens = private_tokens(config.data, tokenizer, client, clients, config.seed)
        for _ in range(_DRAWS):
            drawn = tokens.select(torch.randperm(len(tokens), generator=generator)[: config.train.batch_size])
            seen.append([*drawn.input_ids.shape, int((drawn.labels != IGNORED).sum())])
    found = torch.tensor(seen, dtype=torch.float64)
    usual, most = found.mean(dim=0).round().int().tolist(), found.amax(dim=0).int().tolist()
    return _batch(*usual), _batch(*most)


def _batch(rows: int, length: int, labels: int) -> Batch:
    return Batch(rows, length, labels, read=True)


def step_seconds(config: RunConfig, shape: Shape, batch: Batch) -> float | None:
    """CPU seconds of the forward and backward pass of one micro-batch: two shallow models with random weights, timed.

    ``None`` where the batch is not known, where no CPU computes it, for quantized weights and for too large a model.
    """
    model = config.model
    if not batch.read or not on_cpu(model) or model.quantization != "none" or shape.parameters > _LARGEST:
        return None
    fewer = max(1, min(batch.rows, _TOKENS // batch.length))
    one, two = (_timed(config, shallow(shape.config, depth), batch, fewer) for depth in (1, 2))
    layers = int(shape.config.get_text_config().num_hidden_layers)
    return (one + (layers - 1) * (two - one)) * batch.rows / fewer


def _timed(config: RunConfig, settings: PreTrainedConfig, batch: Batch, rows: int) -> float:
    dtype = dtype_of(config.model)
    with torch.random.fork_rng(devices=[]):
        base = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
    adapted = assemble(base, None, config.lora, config.seed, torch.device("cpu"))  # type: ignore[arg-type]  # no text
    ids = torch.zeros(rows, batch.length, dtype=torch.long)
    labeled = max(1, batch.labels * rows // batch.rows)
    places = torch.arange(labeled)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a client
    try:
        laps = []
        for _ in range(_LAPS):
            began = time.process_time()
            logits = logits_at(adapted.model, ids, torch.ones_like(ids), places % rows, places // rows)
            label_loss(logits, torch.zeros(labeled, dtype=torch.long), labeled).backward()
            laps.append(time.process_time() - began)
    finally:
        torch.set_num_threads(threads)
    return min(laps[1:])
