"""How many prompts that the base model wrote itself are clients' questions: ``python -m benchmarks.prompt_overlap``.

Prints Markdown. It reads both sides, which no run does.
"""

from common.config import PublicPriorConfig, RunConfig
from common.demo.tasks import evaluation_examples, splits_of, template_of, training_examples
from common.models import load_adapted_model
from server_app.public_prompts import public_prompts

SEEDS = range(1, 6)
TASKS = ("elicitation", "knowledge")
_ENOUGH = 20_000  # examples drawn with replacement, to have seen every private question


def counts(task: str, seed: int) -> tuple[int, int, int]:
    """Prompts in the pool, those that clients hold, those of any split of the evaluation."""
    config = RunConfig.parse({"seed": seed, "data.task": task})
    evaluated = evaluation_examples(task, config.data.split, seed)["prompt"]
    adapted = load_adapted_model(config.model, config.lora, seed)
    pool = public_prompts(adapted, PublicPriorConfig(), template_of(task), (), set(evaluated), seed)
    private = set(training_examples(task, _ENOUGH, 0)["prompt"])
    asked = {prompt for split in splits_of(task) for prompt in evaluation_examples(task, split, seed)["prompt"]}
    return len(pool), len(private.intersection(pool)), len(asked.intersection(pool))


def table() -> str:
    """A row for each task and seed."""
    lines = [
        "| task | seed | prompts | held by clients | of another evaluation split |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        for seed in SEEDS:
            found, private, asked = counts(task, seed)
            lines.append(f"| {task} | {seed} | {found} | {private} | {asked} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
