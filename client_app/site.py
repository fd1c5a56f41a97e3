"""What a client has at hand: its configuration, private data and model, found once per process."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from torch import Tensor

from client_app.policy import PolicyRefusal, SitePolicy
from client_app.site_ledger import charge_release
from common.app_digest import app_digest
from common.codecs.base import Encoder, EncoderSpec, build_encoder
from common.config import RunConfig
from common.data import TokenisedExamples, private_tokens, split_rows
from common.models import AdaptedModel, load_adapted_model
from common.privacy.noise import RandomSource
from common.tangents import ModelTangents
from common.wire import Task, WireError

_MIX = 0x9E3779B97F4A7C15  # odd constant that spreads (seed, partition, round) over 63 bits
_SPLIT = -1  # in place of a round


class CodeMismatch(RuntimeError):
    """Server and client run different code of this app."""


@dataclass(frozen=True)
class Site:
    """One client: who it is, what it holds, what it allows."""

    config: RunConfig
    partition: int
    adapted: AdaptedModel
    examples: TokenisedExamples
    policy: SitePolicy

    @classmethod
    def of(cls, context: Context) -> "Site":
        """The client that a Flower context describes; the base model and tokens are cached by their modules."""
        config = _config(tuple(sorted(context.run_config.items())))
        node: Mapping[str, Any] = context.node_config
        partition = int(node.get("partition-id", 0))
        adapted = load_adapted_model(config.model, config.lora, config.seed)
        examples = private_tokens(
            config.data,
            adapted.tokenizer,
            partition,
            int(node.get("num-partitions", 1)),
            config.seed,
            str(node.get("data-path", "")),
        )
        return cls(config, partition, adapted, examples, SitePolicy.from_node_config(node))

    def split(self) -> tuple[TokenisedExamples, TokenisedExamples]:
        """The examples of stage 1 and those of the rounds: all in both, but for a strategy that keeps them apart."""
        share = self.config.stage_one_share
        if not share:
            return self.examples, self.examples
        first, rest = split_rows(len(self.examples), share, self.seed(_SPLIT))
        return self.examples.select(first), self.examples.select(rest)

    def check(self, task: Task, *, vectors: int = 1) -> None:
        """Refuse an instruction of other code (``CodeMismatch``) or beyond the site's policy (``PolicyRefusal``).

        ``vectors``: vectors of the adapter's size that the release may hold.
        """
        if task.code_digest != app_digest():
            raise CodeMismatch(
                f"the server runs app code {task.code_digest}, this client runs {app_digest()}: submit and deploy the "
                "same version (a stray copy of the app on the import path also does this)"
            )
        if self.config.privacy.insecure_seed >= 0 and not self.policy.allow_raw_gradients:
            raise PolicyRefusal(
                f"this site refuses: privacy.insecure-seed = {self.config.privacy.insecure_seed} makes its noise "
                "reproducible, and its policy says allow-raw-gradients = false"
            )
        values = vectors * self.adapted.layout.size
        if task.terms.size > values:
            times = f"{vectors} times " if vectors > 1 else ""
            raise PolicyRefusal(
                f"this site refuses: size = {task.terms.size}, above {times}its adapter's size = {values}"
            )
        self.policy.check(task.terms, raw=task.raw)

    def charge(self, task: Task, context: Context) -> None:
        """Charge the release to the site's ledger before it is made; ``PolicyRefusal`` when the ledger has no room.

        A client that is not in the cohort is refused as a member would be, but releases nothing and is not charged.
        """
        bare = task.raw or self.config.privacy.insecure_seed >= 0
        charge_release(context.state, self.policy, task.terms, bare=bare, spend=task.sampled)

    def seed(self, round_index: int) -> int:
        """Seed of this client's batches and dropout in a round."""
        mixed = (self.config.seed * 1_000_003 + self.partition) * _MIX + round_index * 0xD1B54A32D192ED03
        return mixed % (2**63)

    def noise_source(self, round_index: int) -> RandomSource:
        """The operating system's randomness, or the insecure test source when the configuration says so."""
        if self.config.privacy.insecure_seed < 0:
            return RandomSource.system()
        return RandomSource.insecure((self.config.privacy.insecure_seed << 32) ^ self.seed(round_index))


@lru_cache(maxsize=2)
def _config(pairs: tuple[tuple[str, Any], ...]) -> RunConfig:
    torch.set_num_threads(1)  # simulated clients share the cores; one thread each is fastest
    return RunConfig.parse(dict(pairs))


_kept: list[tuple[EncoderSpec, AdaptedModel, Encoder]] = []


def encoder_for(spec: EncoderSpec, site: Site, size: int) -> Encoder:
    """The encoder of a specification; the last one is kept, since a round sends the same to every client.

    Raises ``WireError`` for one that cannot be built or that makes codes of another size than the terms'.
    """
    for kept, adapted, encoder in _kept:
        if adapted is site.adapted and _same(kept, spec):
            return _of_size(encoder, size)
    try:
        built = build_encoder(spec, site.adapted.layout)  # holds its arrays against the layout: memory is bounded
    except (ValueError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
        raise WireError(f"encoder: {error}") from None
    encoder = _of_size(built, size).bound(ModelTangents(site.adapted))
    _kept[:] = [(spec, site.adapted, encoder)]
    return encoder


def _of_size(encoder: Encoder, size: int) -> Encoder:
    if encoder.size != size:
        raise WireError(f"encoder: its code has {encoder.size} values, the terms say {size}")
    return encoder


def _same(one: EncoderSpec, other: EncoderSpec) -> bool:
    """Whether two specifications are equal, array by array: a comparison costs less than a hash or a new encoder."""
    if (one.kind, one.version, one.fields, one.arrays.keys()) != (
        other.kind,
        other.version,
        other.fields,
        other.arrays.keys(),
    ):
        return False
    pairs = ((array, other.arrays[name]) for name, array in one.arrays.items())
    return all(a.dtype == b.dtype and a.shape == b.shape and _same_bits(a, b) for a, b in pairs)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes, several times faster than value by value where those are float16."""
    first, second = (tensor.contiguous().view(-1).view(torch.uint8).numpy() for tensor in (one, other))
    return np.array_equal(first, second)
