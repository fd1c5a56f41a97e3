"""What a client takes, memory at its peak and time, beside what ``dr-encoder plan`` says of it: a process for each row.

    python -m benchmarks.planned --model DIR [--data FILE --format e2e] [--steps 8]

Rows: preset ``llm``'s micro-batches in bfloat16, half as many rows of it, and in float32. Steps differ in the rows that
they draw, so in their longest; the peak is that of all of them. Without ``--data`` the rows are the made-up visits of
``make demo-llm``.
"""

import multiprocessing
import resource
import time
from collections.abc import Mapping

from benchmarks.model_options import model_keys, model_parser
from common.config import RunConfig, Scalar
from workbench.cli.command_line import main_with_plain_errors
from workbench.llm_demo.visits import PRACTICES
from workbench.simulation.launcher import read_preset

ROWS: dict[str, dict[str, Scalar]] = {
    "bfloat16, 8 rows": {},
    "bfloat16, 4 rows": {"train.batch-size": 4},
    "float32, 8 rows": {"model.dtype": "float32"},
}
"""Changes of preset ``llm`` by what they are called."""


def taken(keys: Mapping[str, Scalar], steps: int) -> tuple[int, float]:
    """Bytes that this process has held at its peak after so many clients' steps, and CPU seconds of a micro-batch."""
    import torch  # noqa: PLC0415 - in the measured process alone

    from client_app.app import app  # noqa: F401, PLC0415 - all that a client imports
    from client_app.local_update import local_update  # noqa: PLC0415
    from common.data import private_tokens  # noqa: PLC0415
    from common.model.adapted import load_adapted_model  # noqa: PLC0415

    torch.set_num_threads(1)
    config = RunConfig.parse(dict(keys))
    adapted = load_adapted_model(config.model, config.lora, config.seed)
    seconds = 0.0
    for number in range(steps):
        rows = private_tokens(config.data, adapted.tokenizer, number, config.federation.num_clients, config.seed)
        began = time.process_time()
        local_update(adapted, adapted.initial, rows, config.train, number)
        seconds += time.process_time() - began
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak, seconds / (steps * config.train.gradient_accumulation)


def planned(keys: Mapping[str, Scalar]) -> tuple[int, float]:
    """The same by ``dr-encoder plan``."""
    from workbench.planning.sizing import solve  # noqa: PLC0415 - torch, in a process of its own

    sizes = solve(RunConfig.parse(dict(keys)))
    return sizes.memory.total, sizes.step_seconds or 0.0


def main() -> None:
    """Measure and print a table."""
    parser = model_parser(__doc__)
    parser.add_argument("--steps", type=int, default=8)
    chosen = parser.parse_args()
    print(
        "| client | peak, GB | planned | ratio | CPU s a micro-batch | planned | ratio |\n|---|---|---|---|---|---|---|"
    )
    with model_keys(chosen) as own:
        keys = read_preset("llm") | own
        keys |= {"federation.num-clients": PRACTICES, "privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0}
        for name, changes in ROWS.items():
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                peak, seconds = pool.apply(taken, (keys | changes, chosen.steps))
                memory, time_of = pool.apply(planned, (keys | changes,))  # in another process: one task each
            print(
                f"| {name} | {peak / 1e9:.2f} | {memory / 1e9:.2f} | {memory / peak:.2f} "
                f"| {seconds:.2f} | {time_of:.2f} | {time_of / seconds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main_with_plain_errors(main)
