"""FEDLPP (arXiv 2406.10976): clients train a quantized proxy of the adapter; full precision stays with the server.

What this is to protect is the owner's model, not the clients' data: the mechanism does that, as in every strategy.
It is no guarantee: clients optimize the proxy, which may end as good as the adapter, and the mean of a few rounds'
proxies is as good. The report therefore scores both; docs/experiments.md has the measurements.
"""

from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import MetricRecord
from torch import Tensor

from common import seeds
from common.adapter import Layout
from common.codecs.identity import IdentityCodec
from common.config import RunConfig
from common.proxy import QuantizedAdapter, quantize
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.findings import Findings
from server_app.strategies.recipe import Recipe


class FedLpp(FederatedAdapter):
    """Broadcast Q(adapter), step on the adapter: post-processing of what was released, so it costs no privacy."""

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """Clients return whole updates, as the paper's do. The proxy is one of zeros: how it rounds changes no byte."""
        proxy = quantize(torch.zeros(layout.size), layout, config.fedlpp.bits)
        return Recipe.of(layout, IdentityCodec(layout), proxy=proxy)

    def broadcast(self, server_round: int, adapter: Tensor) -> QuantizedAdapter:
        """Q(adapter), with a seed of this round when it rounds at random."""
        settings = self.config.fedlpp
        seed = seeds.of_round(self.config.seed, server_round) if settings.rounding == "stochastic" else None
        return quantize(adapter, self.layout, settings.bits, seed)

    def measure(self) -> "ProxyFindings":
        """Score the saved adapter and the proxy that the next round would broadcast."""
        adapter = self.state.optimizer.adapter
        proxy = self.broadcast(self.state.round + 1, adapter)
        scores = [self.hooks.evaluate(self.state.round, each) for each in (adapter, proxy.dequantize(self.layout))]
        quality = tuple(_quality(score) for score in scores if score is not None)
        return ProxyFindings(self.config.fedlpp.bits, self.layout.size, proxy.nbytes, quality)


@dataclass(frozen=True)
class ProxyFindings(Findings):
    """Bytes and quality of the last proxy.

    Attributes:
        bits: of a value of the proxy.
        values: of the adapter, n.
        nbytes: of the whole proxy.
        quality: loss and accuracy of the adapter and of the proxy; empty without public examples.

    """

    bits: int
    values: int
    nbytes: int
    quality: tuple[dict[str, float], ...]

    def details(self) -> dict[str, object]:
        """Size of the proxy, both qualities and the gap between them."""
        held: dict[str, object] = {"proxy_bytes": self.nbytes, "proxy_times_smaller": 4 * self.values / self.nbytes}
        if not self.quality:
            return held
        own, of_proxy = self.quality
        named = {"global": own, "proxy": of_proxy, "gap": {key: own[key] - of_proxy[key] for key in own}}
        return {**held, **named, "figures": _figures(named), "summary": _sentence(self.bits, named)}


def _quality(metrics: MetricRecord) -> dict[str, float]:
    """Loss, and accuracy where there are choices."""
    held: dict[str, Any] = dict(metrics)
    return {key: float(held[key]) for key in ("accuracy", "loss") if key in held}


def _figures(named: dict[str, dict[str, float]]) -> dict[str, float]:
    """What ``dr-encoder compare`` puts beside other rows."""
    proxy = {f"{key} of the proxy": value for key, value in named["proxy"].items()}
    return proxy | {f"{key}, adapter minus proxy": value for key, value in named["gap"].items()}


def _sentence(bits: int, named: dict[str, dict[str, float]]) -> str:
    """Both qualities and the gap for people."""

    def show(key: str, text: str) -> str:
        values = (format(named[who][key], text) for who in ("global", "proxy", "gap"))
        return "{} {} (kept here) / {} (proxy), gap {}".format(key, *values)

    parts = [show(key, ".1%" if key == "accuracy" else ".3f") for key in named["gap"]]
    return f"the clients' {bits}-bit proxy against the global adapter: {'; '.join(parts)}"
