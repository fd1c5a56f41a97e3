"""Table 5 of the paper, recounted: what stage 1 and a round send, as values and as serialised bytes.

``python -m benchmarks.communication``: at the demo's size and at LLaMA-7B's (rank 8 on q, k, v, o: 2^23 values, 256
factors). FedCG's stage 1 sends the gradients of 20 local steps exactly, as the paper counts them; DR-Encoder's sends a
mean and a std per factor and step as printed, or one private code. Nothing is trained: sizes depend on shapes only.
"""

import numpy as np
import torch

from common.adapter import Layout
from common.codecs import CONV, NeuralCodec
from common.config import StatisticsConfig
from common.privacy.mechanism import ReleaseTerms
from common.scale_code import ScaleCode
from common.wire import pack_encoder, pack_release, serialised_bytes
from server_app.command_line import main_with_plain_errors

STEPS = 20
"""Gradients of a client in stage 1, by the paper's formula."""


def layout_of(layers: int, width: int, rank: int = 8) -> Layout:
    """The adapter of square q, k, v and o projections."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            name = f"layers.{layer}.self_attn.{module}"
            shapes |= {f"{name}.lora_A": (rank, width), f"{name}.lora_B": (width, rank)}
    return Layout.of(shapes)


def _bytes(values: int, noise: float, shares: int = 100) -> int:
    """Serialised bytes of a reply of so many values, with the integers that the noise needs or in float32."""
    terms = ReleaseTerms(values, 1.0, noise, "distributed", shares, normalize=True)
    return serialised_bytes(pack_release(np.zeros(values, dtype=terms.dtype), 0))


def rows(layout: Layout) -> list[tuple[str, int, int]]:
    """What is sent, how many values, how many bytes."""
    n, factors = layout.size, len(layout.tensors)
    encoder, decoder = CONV.encoder(n, 6), CONV.decoder(n, 6)
    codec = NeuralCodec(layout, CONV, option=6, scale=1.0, encoder=encoder, decoder=decoder)
    scales = ScaleCode.of(layout, StatisticsConfig())
    sizes = codec.parameters
    return [
        (f"stage 1 up, FedCG: {STEPS} exact gradients", STEPS * n, STEPS * _bytes(n, 0.0)),
        (
            f"stage 1 up, DR-Encoder as printed: mean, std, {STEPS} steps",
            2 * factors * STEPS,
            STEPS * _bytes(2 * factors, 0.0),
        ),
        ("stage 1 up, DR-Encoder here: one private code", scales.size, _bytes(scales.size, 2.0)),
        (
            "encoder down, FedCG (parameters; bytes with running statistics)",
            sizes[0],
            serialised_bytes(pack_encoder(codec.spec())),
        ),
        ("decoder, FedCG (stays on the server)", sizes[1], codec.state().nbytes - codec.spec().nbytes),
        ("round up, plain LoRA", n, _bytes(n, 0.0)),
        ("round up, FedCG's code, no noise", codec.size, _bytes(codec.size, 0.0)),
        ("round up, FedCG's code, noise 1", codec.size, _bytes(codec.size, 1.0)),
        ("round up, DR-Encoder's code of 256, noise 1", 256, _bytes(256, 1.0)),
    ]


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    for name, layout in (("demo", layout_of(4, 96)), ("LLaMA-7B", layout_of(32, 4096))):
        found = rows(layout)
        exact = found[0]
        print(f"\n{name}: {layout.size:,} adapter values in {len(layout.tensors)} factors\n")
        print(
            f"| what | values | bytes | values over {STEPS} exact gradients | bytes over them |\n|---|---|---|---|---|"
        )
        for what, values, size in found:
            print(f"| {what} | {values:,} | {size:,} | {values / exact[1]:.2e} | {size / exact[2]:.2e} |")


if __name__ == "__main__":
    main_with_plain_errors(main)
