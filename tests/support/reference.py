"""Algorithm 2 of the paper as one plain loop: no Flower, no strategy, no messages, no noise.

It shares the model, the data and the codec with the app, and nothing else: not its local training, clipping, noise,
aggregation or server step. Every client takes part in every round with all of its examples in one batch.
"""

import torch
from torch import Tensor

from common.codecs import Codec, IdentityCodec, LinearCodec
from common.config import RunConfig
from common.data import TokenizedExamples, private_tokens
from common.model.adapted import AdaptedModel


def train(config: RunConfig, adapted: AdaptedModel) -> Tensor:
    """The adapter (shape ``[n]``) after all rounds."""
    clients = config.federation.num_clients
    data = [private_tokens(config.data, adapted.tokenizer, k, clients, config.seed) for k in range(clients)]
    weights = adapted.initial.clone()
    for t in range(config.num_server_rounds):
        codec = codec_of_round(config, adapted, t)
        total = torch.zeros(codec.size)
        for k in range(clients):  # client side
            gradient = lora_gradient(adapted, weights, data[k])  # 3: train, G
            code = codec.encode(gradient)  # 4: Enc(G)
            code = bound(code, config.privacy.clip_norm, config.privacy.clipping)  # 5: clip
            total += code  # 6: no noise; send
        aggregate = total / clients  # server side, 1: Eq (5) on codes
        update = codec.decode(aggregate)  # 2: Dec
        length = (codec.dim / codec.size) ** 0.5  # random directions give back √(k/n) of a gradient
        weights = weights - config.server.learning_rate * length * update  # 3: Eq (6)
    return weights


def codec_of_round(config: RunConfig, adapted: AdaptedModel, t: int) -> Codec:
    """The seeded codec of round ``t`` (from 0), or the identity for plain LoRA."""
    if config.strategy.name == "lora":
        return IdentityCodec(adapted.layout)
    return LinearCodec.of_form(adapted.layout, config.codec.size, config.seed).redraw(t)


def lora_gradient(adapted: AdaptedModel, weights: Tensor, examples: TokenizedExamples) -> Tensor:
    """Gradient of the mean cross-entropy over all completion tokens, by autograd on the peft parameters."""
    adapted.load(weights)
    parameters = {name: p for name, p in adapted.model.named_parameters() if p.requires_grad}
    logits = adapted.model(input_ids=examples.input_ids, attention_mask=examples.attention_mask).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), examples.labels[:, 1:], ignore_index=-100)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return adapted.layout.flatten(dict(zip(parameters, gradients, strict=True)))


def bound(code: Tensor, clip_norm: float, clipping: str) -> Tensor:
    """Clip to the norm, or scale to it."""
    norm = float(code.norm())
    return code * (clip_norm / norm) if clipping == "normalize" or norm > clip_norm else code
