"""A client's step on a real model over a bare transformers + peft loop, CPU time, in one run.

    python -m benchmarks.step --model DIR [--data FILE --format e2e] [--dtype bfloat16]

Both take the same batches of the same rows, one thread, the same dtype. The bare loop is what the libraries do by
themselves: padded to the batch's longest row, logits at every place, transformers' own attention. Without ``--data``
the rows are the made-up visits of ``make demo-llm``.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.model_options import model_keys, model_parser
from client_app.local_update import first_batch, local_update
from common.config import RunConfig, Scalar
from common.data import TokenizedExamples, private_tokens
from common.model.adapted import load_adapted_model
from common.model.gguf import local_name
from common.model.lora import target_modules
from common.model.precision import dtype_of
from workbench.cli.command_line import main_with_plain_errors
from workbench.llm_demo.visits import PRACTICES

_CLIENTS = 6


def bare_loop(config: RunConfig) -> Callable[[TokenizedExamples, int], object]:
    """A forward and backward pass as the libraries do it."""
    base = AutoModelForCausalLM.from_pretrained(local_name(config.model), dtype=dtype_of(config.model))
    lora = config.lora
    settings = PeftLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft scales by any real alpha
        target_modules=target_modules(base, lora),
    )
    model: Any = get_peft_model(base, settings)
    model.train()

    def step(examples: TokenizedExamples, number: int) -> None:
        batch = first_batch(examples, config.train, number)
        model.zero_grad()
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()

    return step


def measure(config: RunConfig, clients: int, passes: int) -> tuple[float, float]:
    """CPU seconds of a step, means: of the app and of the bare loop, which take turns."""
    torch.set_num_threads(1)
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    tokens = [private_tokens(config.data, adapted.tokenizer, i, clients, config.seed) for i in range(_CLIENTS)]
    adapter = adapted.adapter()

    def app(examples: TokenizedExamples, number: int) -> object:
        return local_update(adapted, adapter, examples, config.train, number)

    bare = bare_loop(config)
    for step in (app, bare):
        step(tokens[0], 0)
    pairs = [(_pass(app, tokens), _pass(bare, tokens)) for _ in range(passes)]
    ours, theirs = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return ours, theirs


def _pass(step: Callable[[TokenizedExamples, int], object], tokens: list[TokenizedExamples]) -> float:
    began = time.process_time()
    for number, examples in enumerate(tokens):
        step(examples, number)
    return (time.process_time() - began) / len(tokens)


def main() -> None:
    """Measure and print a table."""
    parser = model_parser(__doc__)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--passes", type=int, default=2)
    arguments = parser.parse_args()
    with model_keys(arguments) as own:
        keys: dict[str, Scalar] = own | {"model.dtype": arguments.dtype, "data.partitioner": "iid"}
        config = RunConfig.parse(keys | {"train.batch-size": 8})
        ours, theirs = measure(config, PRACTICES, arguments.passes)
    print("| quantity | value | goal |\n|---|---|---|")
    print(f"| client's step, CPU s, {arguments.dtype} | {ours:.2f} | |")
    print(f"| bare transformers + peft loop, CPU s | {theirs:.2f} | |")
    print(f"| ratio | {ours / theirs:.2f} | <= .85 |")


if __name__ == "__main__":
    main_with_plain_errors(main)
