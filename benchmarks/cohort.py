"""How many clients a round needs for which epsilon at 7B: ``python -m benchmarks.cohort``, prints Markdown.

In a round the mean of K codes of norm C carries noise of norm about z C sqrt(k) / K, against a signal of norm at most
C. So K = z sqrt(k) / r gives a noise of r times the largest signal; z comes from the accounting of a run.
"""

import argparse
import math

from common.config import RunConfig
from server_app.privacy.solving import make_plan

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
CODES = {"256": 256, "4,096": 4096, "65,536": 65_536, "8,388,608 (plain LoRA)": 4096 * 8 * 2 * 4 * 32}
ROUNDS, DELTA = 20, 1e-5
SILOS = (3, 5, 10, 20)


def noise_multiplier(epsilon: float, rate: float, clients: int, delta: float) -> float:
    """Noise multiplier z of a run of ``ROUNDS`` rounds without a stage 1."""
    settings = {
        "privacy.epsilon": epsilon,
        "privacy.sampling-rate": rate,
        "privacy.delta": delta,
        "num-server-rounds": ROUNDS,
    }
    return make_plan(RunConfig.parse(settings), clients, 256, None).round.noise_multiplier


def needed(noise: float, code: int, ratio: float) -> int:
    """K at which the noise is ``ratio`` times the largest signal."""
    return math.ceil(noise * math.sqrt(code) / ratio)


def tables() -> str:
    """Both tables of docs/models-and-data.md."""
    lines = [
        f"| ε, K of M = 20 K clients a round (p = .05, T = {ROUNDS}, δ = {DELTA:g}) | z | " + " | ".join(CODES) + " |"
    ]
    lines.append("|" + "---|" * (2 + len(CODES)))
    for epsilon in EPSILONS:
        noise = noise_multiplier(epsilon, 0.05, 10_000, DELTA)
        cells = [f"{needed(noise, code, 1.0):,}" for code in CODES.values()]
        lines.append(f"| {epsilon:g} | {noise:.3f} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"| silos, all in every round (T = {ROUNDS}, δ = 1/(10 M)) | "
        + " | ".join(f"ε = {e:g}" for e in EPSILONS)
        + " |",
    ]
    lines.append("|" + "---|" * (1 + len(EPSILONS)))
    for silos in SILOS:
        ratios = [noise_multiplier(e, 1.0, silos, 0.0) * math.sqrt(256) / silos for e in EPSILONS]
        lines.append(f"| {silos} | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(tables())
