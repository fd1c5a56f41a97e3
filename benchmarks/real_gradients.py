"""What clients' gradients on a real model have in common, at a saved adapter, and where their energy lies."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.real_run import Place, model_of, public_of, saved_adapter
from client_app.local_update import local_update
from common.adapter import Layout
from common.config import Scalar
from common.data import private_tokens

CLIENTS = 6


def gradient_figures(place: Place, own: Mapping[str, Scalar], name: str) -> dict[str, Any]:
    """Of the first clients' gradients at the adapter of id ``name``, with the row's keys.

    ``cosine``: mean over pairs of clients, which is the share of a unit gradient's energy that all have in common.
    ``norm``: mean length. ``share``: of the energy of their mean direction by module and factor.
    """
    adapted, config = model_of(place, own)
    data = config.data.model_copy(update={"name": str(public_of(place, config, adapted).data.train)})
    adapter, total = saved_adapter(place, name), config.federation.num_clients
    gradients = []
    for client in range(CLIENTS):
        tokens = private_tokens(data, adapted.tokenizer, client, total, config.seed)
        gradients.append(local_update(adapted, adapter, tokens, config.train, client))
    norms = torch.stack([gradient.norm() for gradient in gradients])
    units = torch.stack(gradients) / norms[:, None]
    return {
        "cosine": mean_cosine(units),
        "norm": float(norms.mean()),
        "share": energy_by_module(adapted.layout, units.mean(dim=0)),
    }


def mean_cosine(units: Tensor) -> float:
    """Mean cosine over pairs of unit vectors, shape ``[m, n]``."""
    count = len(units)
    return (float(units.sum(dim=0).square().sum()) - count) / (count * (count - 1))


def energy_by_module(layout: Layout, vector: Tensor) -> dict[str, float]:
    """Shares of the squared norm of an adapter vector (shape ``[n]``) by the last names of its tensors."""
    found: dict[str, float] = defaultdict(float)
    for name, part in layout.unflatten(vector).items():
        words = [word for word in name.split(".") if word not in {"weight", "default"}]
        found[".".join(words[-2:])] += float(part.square().sum() / vector.square().sum())
    return {name: round(share, 3) for name, share in sorted(found.items())}
