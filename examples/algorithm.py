"""The paper on one page: both algorithms as plain loops, with the clip where it must be and noise that holds.

    python -m examples.algorithm

Read this first. It shares with the app its model, data, codec and mechanism, and leaves out what makes an app of them:
Flower, messages, the ledger on disk, failures, resuming, reports. Source: arXiv 2412.17053, Algorithms 1 and 2.
"""

import secrets

import torch
from torch import Tensor

from client_app.local_update import gradient_stream, local_update
from client_app.release import release_gradient
from client_app.statistics import gradient_statistics
from common.codecs import Codec
from common.codecs.statistics import GradientStatistics
from common.config import RunConfig, TrainConfig
from common.data import evaluation_examples, private_tokens
from common.model.adapted import AdaptedModel, load_adapted_model
from common.privacy.accounting import Charge, calibrate, epsilon
from common.privacy.mechanism import ReleaseTerms, combine, release
from common.privacy.noise import RandomSource
from common.scale_code import ScaleCode
from server_app.priors.synthetic import train_prior
from server_app.privacy.sampling import binomial_limit
from server_app.results.evaluation import Evaluator
from server_app.strategies.two_stage import prior_settings

CLIENTS, RATE, ROUNDS, EPSILON, DELTA, STEP = 1000, 0.1, 25, 2.0, 1e-5, 2.0
SHARES = binomial_limit(CLIENTS, RATE, ROUNDS + 1, DELTA / 100)  # a public number that no cohort exceeds
SYSTEM = RandomSource.system()


def cohort() -> list[int]:
    """A Poisson draw: every client by itself with probability ``RATE``, from the operating system's randomness."""
    draw = secrets.SystemRandom()
    drawn = [client for client in range(CLIENTS) if draw.random() < RATE]
    return drawn if len(drawn) <= SHARES else []


def terms(size: int, clip_norm: float, noise: float, *, normalize: bool) -> ReleaseTerms:
    """Each client adds a share z·C/√shares of the noise; ``combine`` adds what is missing."""
    return ReleaseTerms(size, clip_norm, noise, "distributed", SHARES, normalize)


def random_prior(config: RunConfig, adapted: AdaptedModel, noise: float) -> Codec:
    """Algorithm 1: private statistics of the clients' gradients, synthetic gradients, the AutoEncoder."""
    settings, layout = config.stage_one, adapted.layout
    scales = ScaleCode.of(layout, settings)
    stage = terms(scales.size, scales.bound, noise, normalize=False)
    train = TrainConfig(local_steps=settings.steps, batch_size=config.train.batch_size)
    releases = []
    for client in cohort():  # client side, steps 1-5
        data = private_tokens(config.data, adapted.tokenizer, client, CLIENTS, config.seed)
        gradients = gradient_stream(adapted, adapted.initial, data, train, seed=client)
        std = gradient_statistics(gradients, layout, settings).std
        releases.append(release(scales.encode(std), stage, SYSTEM))
    total = combine(releases, stage, SYSTEM)  # server side
    std = scales.decode(total, noise * scales.bound, RATE * CLIENTS)
    prior = prior_settings(config.codec, config.seed, layout)
    codec, _ = train_prior(layout, GradientStatistics(torch.zeros_like(std), std), prior)
    return codec


def dr_encoder(config: RunConfig, adapted: AdaptedModel, prior: Codec, noise: float) -> Tensor:
    """Algorithm 2: encoded, clipped, noised gradients; the adapter (shape ``[n]``) after all rounds."""
    weights = adapted.initial.clone()
    for number in range(ROUNDS):
        codec = prior.redraw(number)
        stage = terms(codec.size, 1.0, noise, normalize=True)
        releases = []
        for client in cohort():  # client side
            data = private_tokens(config.data, adapted.tokenizer, client, CLIENTS, config.seed)
            gradient = local_update(adapted, weights, data, config.train, seed=number * CLIENTS + client)  # 3
            releases.append(release_gradient(gradient, codec, stage, SYSTEM))  # 4 encode, 5 clip, 6 noise, 7 send
        mean = combine(releases, stage, SYSTEM) / (RATE * CLIENTS)  # server side, 1: Eq (5) on codes
        weights = weights - STEP * codec.decode(mean)  # 2 decode, 3 step: Eq (6)
    return weights


def main() -> None:
    """Calibrate both stages to ``EPSILON``, run them, and print what it cost and what it taught."""
    config = RunConfig.parse({})
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    first = calibrate(0.1 * EPSILON, DELTA, sampling_rate=RATE, rounds=1)
    spent = [Charge(first, RATE)]
    noise = calibrate(EPSILON, DELTA, sampling_rate=RATE, rounds=ROUNDS, before=spent, slack=DELTA / 100)
    spent.append(Charge(noise, RATE, ROUNDS))
    weights = dr_encoder(config, adapted, random_prior(config, adapted, first), noise)
    facts = evaluation_examples(config.data, config.seed)
    if facts is None:
        raise RuntimeError("the demo data have held-out facts")
    score = Evaluator(adapted, facts, config.data)
    print(f"epsilon {epsilon(spent, DELTA - DELTA / 100):.3f} at delta {DELTA:g}, stage 1 and {ROUNDS} rounds")
    print(f"accuracy on held-out facts {score(adapted.initial).accuracy:.1%} -> {score(weights).accuracy:.1%}")


if __name__ == "__main__":
    main()
