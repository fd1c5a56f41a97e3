"""How many prompts that the base model wrote itself are clients' questions: ``python -m benchmarks.prompt_overlap``.

Prints Markdown. It reads both sides, which no run does.
"""

from common.config import PublicPriorConfig, RunConfig
from common.data import held_out_prompts
from common.demo.tasks import template_of, training_examples
from common.models import load_adapted_model
from server_app.public_prompts import public_prompts

SEEDS = range(1, 6)
TASKS = ("elicitation", "knowledge")
_ENOUGH = 20_000  # examples drawn with replacement, to have seen every private question


def counts(task: str, seed: int) -> tuple[int, int]:
    """Prompts in the pool, and those of them that clients hold."""
    config = RunConfig.parse({"seed": seed, "data.task": task})
    held_out = held_out_prompts(config.data, seed)
    adapted = load_adapted_model(config.model, config.lora, seed)
    pool = public_prompts(adapted, PublicPriorConfig(), template_of(task), (), held_out, seed, config.data.max_length)
    private = set(training_examples(task, _ENOUGH, 0)["prompt"])
    return len(pool), len(private.intersection(pool))


def table() -> str:
    """A row for each task and seed."""
    lines = [
        "| task | seed | prompts | held by clients |",
        "|---|---|---|---|",
    ]
    for task in TASKS:
        for seed in SEEDS:
            found, private = counts(task, seed)
            lines.append(f"| {task} | {seed} | {found} | {private} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
