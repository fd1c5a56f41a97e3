"""What a client has at hand: its configuration, private data and model, found once per process."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Context
from torch import Tensor

from client_app.policy import PolicyRefusal, SitePolicy
from client_app.site_ledger import charge_release
from common.app_digest import app_digest
from common.codecs.base import Encoder, EncoderSpec, build_encoder
from common.config import RunConfig
from common.data import TokenisedExamples, private_tokens
from common.models import AdaptedModel, load_adapted_model
from common.privacy.noise import RandomSource
from common.wire import Task, WireError

_MIX = 0x9E3779B97F4A7C15  # odd constant that spreads (seed, partition, round) over 63 bits


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

    def check_adapter(self, adapter: Tensor) -> None:
        """Raise ``WireError`` for an adapter (shape ``[n]``) that is not one of this model's."""
        if adapter.numel() != self.adapted.layout.size:
            raise WireError(f"adapter has {adapter.numel()} values, this client's has {self.adapted.layout.size}")

    def accept(self, task: Task, context: Context) -> None:
        """Refuse an instruction of other code (``CodeMismatch``) or beyond the site's policy (``PolicyRefusal``).

        Charges the release to the site's ledger in ``context.state`` before it is made.
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
        values = self.adapted.layout.size
        if task.terms.size > values:
            raise PolicyRefusal(f"this site refuses: size = {task.terms.size}, above its adapter's size = {values}")
        self.policy.check(task.terms, raw=task.raw)
        bare = task.raw or self.config.privacy.insecure_seed >= 0
        charge_release(context.state, self.policy, task.terms, bare=bare)

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


_encoders: dict[str, Encoder] = {}
_SMALL = 1 << 16


def encoder_for(spec: EncoderSpec, site: Site, size: int) -> Encoder:
    """The encoder of a specification; the last one is kept, since a round sends the same to every client.

    Raises ``WireError`` for one that cannot be built or that makes codes of another size than the terms'.
    """
    if spec.nbytes > _SMALL:  # learned weights: not worth hashing, and rebuilt in well under a training step
        return _build(spec, site, size)
    arrays = [(name, str(value.dtype), value.numpy().tobytes()) for name, value in sorted(spec.arrays.items())]
    key = repr((spec.kind, spec.version, sorted(spec.fields.items()), arrays, site.adapted.layout.digest, size))
    if key not in _encoders:
        encoder = _build(spec, site, size)
        _encoders.clear()
        _encoders[key] = encoder
    return _encoders[key]


def _build(spec: EncoderSpec, site: Site, size: int) -> Encoder:
    layout = site.adapted.layout  # every codec holds its arrays against it before it builds, so memory is bounded
    try:
        encoder = build_encoder(spec, layout)
    except (ValueError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
        raise WireError(f"encoder: {error}") from None
    if encoder.size != size:
        raise WireError(f"encoder: its code has {encoder.size} values, the terms say {size}")
    return encoder
