"""FEDLPP (arXiv 2406.10976): clients train a quantised proxy of the adapter; full precision stays with the server.

What this is to protect is the owner's model, not the clients' data: the mechanism does that, as in every strategy.
It is no guarantee: clients optimise the proxy, which may end as good as the adapter, and the mean of a few rounds'
proxies is as good. The report therefore scores both; docs/experiments.md has the measurements.
"""

from typing import Any

import torch
from flwr.app import MetricRecord
from torch import Tensor

from common import seeds
from common.adapter import Layout
from common.codecs.identity import IdentityCodec
from common.config import RunConfig
from common.proxy import QuantisedAdapter, quantise
from server_app.strategies.base import FederatedAdapter
from server_app.strategies.random_projection import seeded_codec
from server_app.strategies.recipe import Recipe


class FedLpp(FederatedAdapter):
    """Broadcast Q(adapter), step on the adapter: post-processing of what was released, so it costs no privacy."""

    @classmethod
    def recipe_for(cls, config: RunConfig, layout: Layout) -> Recipe:
        """The paper's clients return whole updates; ``fedlpp.compress`` sends codes instead.

        The proxy is one of zeros: how it rounds changes no byte.
        """
        settings = config.fedlpp
        codec = seeded_codec(config, layout) if settings.compress else IdentityCodec(layout)
        proxy = quantise(torch.zeros(layout.size), layout, settings.bits, settings.levels)
        return Recipe.of(layout, codec, proxy=proxy)

    def broadcast(self, server_round: int, adapter: Tensor) -> QuantisedAdapter:
        """Q(adapter), with a seed of this round when it rounds at random."""
        settings = self.config.fedlpp
        seed = seeds.of_round(self.config.seed, server_round) if settings.rounding == "stochastic" else None
        return quantise(adapter, self.layout, settings.bits, settings.levels, seed)

    def details(self) -> dict[str, object]:
        """Quality of the saved adapter and of the proxy that the next round would broadcast, and the gap."""
        adapter = self.state.optimizer.adapter
        proxy = self.broadcast(self.state.round + 1, adapter)
        scores = [self.hooks.evaluate(self.state.round, each) for each in (adapter, proxy.dequantise(self.layout))]
        held: dict[str, object] = {
            "proxy_bytes": proxy.nbytes,
            "proxy_times_smaller": 4 * self.layout.size / proxy.nbytes,
        }
        quality = [_quality(score) for score in scores if score is not None]
        if not quality:
            return held
        gap = {key: quality[0][key] - quality[1][key] for key in quality[0]}
        named = dict(zip(("global", "proxy", "gap"), (*quality, gap), strict=True))
        return {**held, **named, "figures": _figures(named), "summary": _sentence(self.config.fedlpp.bits, named)}


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
