"""Model weights as JSON text: half precision, base64, with a digest over names, shapes and values.

A Flower app bundle carries text files only, hence no safetensors here.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STORED = np.dtype("<f2")


class CorruptWeightsError(ValueError):
    """The weights of a file do not match the digest written beside them."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], training: Mapping[str, Any]) -> None:
    """Write tensors, rounded to half precision, together with the settings of the training that made them."""
    entries = {}
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().numpy().astype(_STORED)
        entries[name] = {"shape": list(values.shape), "data": base64.b64encode(values.tobytes()).decode()}
    document = {
        "dtype": "float16",
        "sha256": _digest(entries),
        "training": dict(training),
        "tensors": entries,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read float32 tensors from a file of ``save_weights``.

    Raises ``CorruptWeightsError`` when names, shapes or values differ from what the digest was taken over.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    entries = document["tensors"]
    if _digest(entries) != document["sha256"]:
        raise CorruptWeightsError(f"{path} does not match its digest {document['sha256']}; build it again")
    return {name: _decode(entry) for name, entry in entries.items()}


def _decode(entry: Mapping[str, Any]) -> Tensor:
    values = np.frombuffer(base64.b64decode(entry["data"]), dtype=_STORED)
    return torch.from_numpy(values.astype(np.float32).reshape(entry["shape"]))


def _digest(entries: Mapping[str, Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(entries):
        digest.update(f"{name}{entries[name]['shape']}".encode())
        digest.update(base64.b64decode(entries[name]["data"]))
    return digest.hexdigest()
