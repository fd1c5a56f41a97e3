"""What a person may get wrong on the command line: arguments, and what the answer must name.

``{}`` is a folder of its own, made by ``prepare``. All are told without torch, Flower, transformers or
dp_accounting: ``python -m tests.support.wrong_inputs FOLDER`` gives each to the program, and ends with what is wrong
with it.
"""

import json
import sys
from pathlib import Path

from typer.testing import CliRunner

HEAVY = ("torch", "flwr", "ray", "transformers", "peft", "datasets", "dp_accounting", "scipy", "matplotlib")

SETS: list[tuple[str, str]] = [
    ("strategy.name=fedavg", 'strategy.name = "fedavg": registered are dr-encoder'),
    ("strategy.name=", 'strategy.name = ""'),
    ("codec.kind=vae", "allowed: linear, conv, identity"),
    ("codec.size=0.5", "codec.size = 0.5"),
    ("codec.size=-1", "allowed: integer ≥ 0"),
    ("codec.size=many", "codec.size = 'many'"),
    ("codec.sise=64", "did you mean codec.size"),
    ("codec.seed=3", "codec.seed: unknown key"),
    ("codec.depth=3", "codec.depth: unknown key"),
    ("data.dirichlet-alpha=0", "data.dirichlet-alpha = 0"),
    ("codec.size=[64]", "the value is a list"),
    ("codec.size={a=1}", "the value is a dict"),
    ("codec.size=2024-05-01", "the value is a date"),
    ("codec={size=3}", "the value is a dict"),
    ("codec", "expected key=value"),
    ("=3", "expected key=value"),
    ("", "expected key=value"),
    ("codec=3", "codec = 3: codec is a section; set a key of it, codec.kind say"),
    ("num-server-rounds=100000000", "allowed: integer ≥ 1 and ≤ 100,000"),
    ("model.name=", "allowed: text that is not empty"),
    ("data.name=", "allowed: text that is not empty"),
    ("output.dir=", "allowed: text that is not empty"),
    ("data.prompt-column=ask", 'no effect, for data.name is "demo", and data.evaluation names nothing'),
    ("data.train-split=all", 'no effect, for data.name is "demo"'),
    ("data.evaluation-split=all", "no effect, for data.evaluation names nothing"),
    ("output.name=" + 201 * "a", "longer than 200 bytes"),
    ("seed=99999999999999999999", "seed = 99999999999999999999"),
    ("seed=-1", "allowed: integer ≥ 0"),
    ("seed=1.5", "seed = 1.5"),
    ("seed=true", "seed = True"),
    ("num-server-rounds=0", "num-server-rounds = 0"),
    ("num-server-rounds=inf", "num-server-rounds = inf"),
    ("num_server_rounds=3", "did you mean num-server-rounds"),
    ("rounds=3", "num-server-rounds"),
    ("privacy.epsilon=25", "nothing above 20 is claimed"),
    ("privacy.epsilon=1e9", "nothing above 20 is claimed"),
    ("privacy.epsilon=-2", "privacy.epsilon = -2"),
    ("privacy.epsilon=nan", "privacy.epsilon = nan"),
    ("privacy.epsilon=0", "exactly one of them must be above 0"),
    ("privacy.epsilon=two", "privacy.epsilon = 'two'"),
    ("privacy.epsilon=2,0", "privacy.epsilon = '2,0'"),
    ("privacy.noise-multiplier=1", "exactly one of them must be above 0"),
    ("privacy.delta=1", "privacy.delta = 1"),
    ("privacy.delta=0.01", "below 1/M = 0.001"),
    ("privacy.delta=-1e-5", "privacy.delta = -1e-05"),
    ("privacy.trust=nobody", "allowed: central, distributed, local"),
    ("privacy.sampling-rate=0", "privacy.sampling-rate = 0"),
    ("privacy.sampling-rate=1.5", "allowed: number > 0 and ≤ 1"),
    ("privacy.sampling-rate=nan", "privacy.sampling-rate = nan"),
    ("privacy.clipping=hard", "allowed: normalize, clip"),
    ("privacy.clip-norm=0", "privacy.clip-norm = 0"),
    ("privacy.statistics-share=1", "privacy.statistics-share = 1"),
    ("privacy.insecure-seed=5", "privacy.insecure-seed: unknown key"),
    ("privacy.mechanism=printed", "privacy.mechanism: unknown key"),
    ("privcy.epsilon=2", "did you mean [privacy]?"),
    ("federation.num-clients=-1", "federation.num-clients = -1"),
    ("federation.num-clients=1e3", "federation.num-clients = 1000.0"),
    ("federation.min-reply-rate=0", "federation.min-reply-rate = 0"),
    ("lora.rank=0", "lora.rank = 0"),
    ("lora.alpha=0", "lora.alpha = 0"),
    ("history.decay=1", "history: unknown key"),
    ("lora.target-modules=", "name at least one module"),
    ("lora.freeze-a=yes", "allowed: true or false"),
    ("model.name=/nonexistent", "no such directory"),
    ("model.name=./absent", "no such directory"),
    ("model.name={}/model.gguf", "model.gguf is no GGUF file"),
    ("model.name={}/ggufs", "2 GGUF files are there"),
    ("model.name={}/model.bin", "this file is no .gguf"),
    ("model.name={}/empty", "no config.json there"),
    ("model.name={}/broken", "its config.json is not JSON"),
    ("model.name={}/deep", "its config.json is not JSON (it is nested too deep)"),
    ("model.name={}/list", "holds no JSON object"),
    ("model.quantization=5", "allowed: none, 8, 4"),
    ("model.quantization=4", 'with model.name = "demo"'),
    ("model.dtype=float8", "allowed: float32, bfloat16, float16"),
    ("model.device-map=auto", "allowed: none, balanced, sequential"),
    ("data.name=absent.jsonl", "no such file or directory"),
    ("data.name=/nope", "no such file or directory"),
    ("data.evaluation=absent.csv", "no such file"),
    ("data.format=odt", "allowed: columns, chat, text, dolly"),
    ("data.task=sums", "allowed: elicitation, elicitation-validation, knowledge, knowledge-validation"),
    ("data.max-length=1", "data.max-length = 1"),
    ("data.partitioner=random", "allowed: iid, dirichlet, natural"),
    ("data.chat-template=yes", "allowed: true or false"),
    ("train.local-steps=0", "exactly one of them must be above 0"),
    ("train.learning-rate=0.1", "no effect, for it is read only with train.local-steps above 1"),
    ("train.optimizer=adamw", "train.optimizer"),
    ("train.batch-size=0", "train.batch-size = 0"),
    ("server.optimizer=lion", "allowed: sgd, momentum, adam"),
    ("server.learning-rate=0", "server.learning-rate = 0"),
    ("server.divergence-factor=1", "server.divergence-factor = 1"),
    ("evaluation.every=0", "evaluation.every = 0"),
    ("output.dir=/etc/passwd", "/etc/passwd is a file"),
    ("output.dir=/proc/x", 'output.dir = "/proc/x"'),
    ("output.dir=/dev/null/x", "/dev/null is a file"),
    ("output.name=../../x", "give the plain name of a folder"),
    ("output.name=.", "give the plain name of a folder"),
    ("output.name=a/b", "give the plain name of a folder"),
    ('output.name="  "', "give the plain name of a folder"),
    ("privacy.delta=1e-330", "1e-330 is beyond what a float can hold"),
    ("privacy.epsilon=1e400", "1e400 is beyond what a float can hold"),
    ("output.name=latest", 'other than "latest"'),
    ("output.name=taken", "exists already"),
    ("output.tracker=tensorbord", "allowed: none, tensorboard, wandb, mlflow"),
    ("stage-one.clip-norm=2", "no effect, for strategy dr-encoder does not read it"),
    ("fedlpp.bits=4", "strategy dr-encoder does not read fedlpp.*"),
    ("fedlpp.bits=9", "allowed: integer ≥ 1 and ≤ 8"),
    ("fedlpp.bits=3", "strategy dr-encoder does not read fedlpp.*"),
    ("resume=/nonexistent", "config.toml is missing there"),
]
"""For ``run --set``."""

OTHERS: list[tuple[str, str]] = [
    ("rnu", "No such command 'rnu'. Did you mean 'run'?"),
    ("run --sett seed=1", "No such option"),
    ("run --preset nowhere", 'preset "nowhere": neither a preset (demo, '),
    ("run --preset {}", "neither a preset"),
    ("run --preset {}/latin1.toml", "not a readable TOML file"),
    ("run --preset {}/cut.toml", "not a readable TOML file"),
    ("run --preset {}/table.toml", "did you mean [privacy]?"),
    ("run --preset lora --set codec.size=64", "no effect, for strategy lora does not read codec.*"),
    ("run --preset lora --set stage-one.steps=2", "no effect, for strategy lora does not read stage-one.*"),
    ("run --preset fedlpp --set codec.size=64", "strategy fedlpp does not read codec.*"),
    ("run --resume {}", "config.toml is missing there"),
    ("run --preset demo --resume {}", "a run goes on as it was planned"),
    ("run --cpus 1 --cpus-per-client 4", "no client would ever start"),
    ("run --cpus 0", "0 is not in the range x>=1"),
    ("run --cpus two", "'two' is not a valid integer"),
    ("run --gpus-per-client -1", "-1.0 is not in the range"),
    ("plan --set strategy.name=fedavg", "registered are"),
    ("plan --set history.rows=3", "history: unknown key"),
    ("plan --set model.name=/nope", "no such directory"),
    ("plan --preset nowhere", "neither a preset"),
    ("keys nosuchthing", 'no key has "nosuchthing"'),
    ("keys cdoec", "did you mean [codec]?"),
    ("keys epsilom", "did you mean privacy.epsilon?"),
    ("budget --clients 1000 --sampling-rate .1 --epsilon -2 --rounds 3", "--epsilon = -2: must be above 0"),
    ("budget --clients 1000 --sampling-rate .1 --epsilon 30 --rounds 3", "nothing above 20 is claimed"),
    ("budget --clients 1000 --sampling-rate .1 --epsilon 2", "give two of"),
    ("budget --clients 1000 --sampling-rate 1.1 --epsilon 2 --rounds 3", "--sampling-rate = 1.1"),
    ("budget --clients 1000 --sampling-rate .1 --epsilon 2 --rounds 100000000", "--rounds = 100000000"),
    ("budget --clients 0 --sampling-rate .1 --epsilon 2 --rounds 3", "0 is not in the range x>=1"),
    ("budget --clients 10 --sampling-rate .1 --epsilon 2 --rounds 3 --delta .2", "below 1/M = 0.1"),
    ("budget --clients 10 --sampling-rate .1 --epsilon 2 --rounds 3 --trust all", "is not one of"),
    ("budget --sampling-rate .1 --epsilon 2 --rounds 3", "Missing option '--clients'"),
    ("evaluate --adapter /nonexistent", "no adapter_config.json there"),
    ("evaluate --adapter {}/empty", "no adapter_config.json there"),
    ("evaluate --adapter {}/no-json", "is not what PEFT writes"),
    ("evaluate --adapter {}/no-weights --model demo", "no adapter_model.safetensors there"),
    ("evaluate --adapter {}/adapter --model demo --set privacy.epsilon=1", "evaluate reads only model, data, seed"),
    ("evaluate --adapter {}/adapter --model demo --set seeds=1", "seeds: unknown key"),
    ("evaluate --adapter {}/adapter --model demo --out {}/absent/scores.json", "there is no folder"),
    ("evaluate --adapter {}/adapter --model demo --out {}", "is a directory"),
    ("evaluate --adapter {}/adapter --model demo --tasks e2e", "give its held-out rows with --data"),
    ("evaluate --adapter {}/adapter --model demo --beams 5", "--beams: no effect, for only e2e and dart and dialogsum"),
    ("evaluate --adapter {}/adapter --model demo --shots 3", "--shots: no effect, for only lm-eval tasks"),
    ("evaluate --adapter {}/adapter --model demo --tasks mmlu --include-path {}/absent", "no such folder"),
    ("evaluate --adapter {}/adapter --model demo --data {}/absent.jsonl", "no such file"),
    ("evaluate --adapter {}/adapter --model /nope", "no such directory"),
    ("evaluate --adapter {}/adapter --model demo --beams 2 --length-penalty nan", "nan is not a number"),
    ("evaluate --adapter {}/adapter --model demo --beams 2 --length-penalty 1e308", "give a number from -10 to 10"),
    ("evaluate --adapter {}/adapter --model demo --data {}/rows.jsonl --out {}/rows.jsonl", "would be overwritten"),
    ("evaluate --adapter {}/adapter --model demo --out {}/adapter/adapter_config.json", "would be overwritten"),
    ("generate --adapter {}/adapter --model demo --prompts {}/rows.jsonl --out {}/rows.jsonl", "would be overwritten"),
    ("generate --adapter {}/adapter --model demo --prompts {}/absent.txt", 'absent.txt": no such file'),
    ("generate --adapter {}/adapter --model demo --prompts {}", "this is a directory"),
    (
        "generate --adapter {}/adapter --model demo --prompts {}/rows.jsonl --temperature nan",
        "nan is not a number",
    ),
    ("generate --adapter {}/adapter --model demo --prompts {}/rows.jsonl --temperature 1e-9", "from 0.001 to 1000"),
    ("generate --adapter {}/adapter --model demo --prompts {}/rows.jsonl --seed 99999999999999999999", "--seed"),
    ("chat --adapter {}/adapter --model demo --temperature inf", "--temperature inf: give 0"),
    (
        "export --adapter {}/adapter --model demo --out {}/new --base-id /srv/base",
        '--base-id "/srv/base": give a hub id',
    ),
    ("export --adapter {}/adapter --model demo --out {}/new --push-to a/b/c", '--push-to "a/b/c": give a hub id'),
    ("traffic", "Missing argument"),
    ("compare --trials 2", "2 is not in the range x>=3"),
    ("compare --seeds 0", "0 is not in the range x>=1"),
    ("compare --epsilons abc", '--epsilons "abc": give numbers above 0'),
    ("compare --epsilons 25", "nothing above 20 is claimed"),
    ("compare --epsilons 1,1", "name each once"),
    ("compare --strategies lorra", '--strategies "lorra": registered are'),
    ("compare --strategies lora+codec.size=64", "strategy lora does not read codec.*"),
    ("compare --strategies lora,fedlpp --set codec.size=64", "does not read codec.*"),
    ("compare --tasks algebra", '--tasks "algebra"'),
    ("compare --cohort 5000", "larger than the 1,000 clients"),
    ("compare --set seed=3", "seed is the comparison's own"),
    ("compare --set codec.kind=vae", "allowed: linear, conv, identity"),
    ("compare --controls some", '--controls "some"'),
    ("compare --out /etc/passwd", "there is a file of that name"),
    ("compare --out /proc/x", "give a folder that you may write into"),
    ("check-site --site-env {}/absent.env", "No such file"),
    ("check-site --site-env {}/latin1.toml", "no environment file"),
    ("check-site --site-env {}/cut.toml", "sets neither SUPERLINK nor NODE_CONFIG"),
    ("compare --jobs 0", "0 is not in the range x>=1"),
]
"""Whole command lines."""


def prepare(folder: Path) -> None:
    """Files that the inputs name."""
    for name in ("empty", "broken", "deep", "list", "no-json", "no-weights", "adapter", "results/taken"):
        (folder / name).mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"<html>")
    (folder / "model.bin").write_bytes(b"")
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": " b"}\n', encoding="utf-8")
    (folder / "ggufs").mkdir()
    for name in ("a.gguf", "b.GGUF"):
        (folder / "ggufs" / name).write_bytes(b"GGUF")
    (folder / "broken" / "config.json").write_text("{", encoding="utf-8")
    (folder / "deep" / "config.json").write_text("[" * 100_000, encoding="utf-8")
    (folder / "list" / "config.json").write_text("[]", encoding="utf-8")
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "no-json" / "adapter_config.json").write_text("{", encoding="utf-8")
    for name in ("no-weights", "adapter"):
        (folder / name / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "adapter" / "adapter_model.safetensors").touch()
    (folder / "latin1.toml").write_bytes('[data]\nname = "Größe.jsonl"\n'.encode("latin-1"))
    (folder / "cut.toml").write_text("[privacy\nepsilon = 2", encoding="utf-8")
    (folder / "table.toml").write_text("[privcy]\nepsilon = 2\n", encoding="utf-8")


def command_lines() -> list[tuple[list[str], str]]:
    """Every wrong command line as words, and what its answer must hold."""
    place = "output.dir={}/results"
    sets = [
        (["run", *(("--set", place) if not text.startswith("output.dir") else ()), "--set", text], said)
        for text, said in SETS
    ]
    return sets + [(line.split(), said) for line, said in OTHERS]


def fault(words: list[str], said: str, folder: Path) -> str:
    """What is wrong with the program's answer to a wrong command line, or ``""``."""
    from workbench.cli.main import app  # noqa: PLC0415 - so that what it imports is seen

    result = CliRunner().invoke(app, [word.replace("{}", str(folder)) for word in words])
    output = result.output
    if not isinstance(result.exception, SystemExit) or result.exit_code not in (1, 2):
        return f"exit {result.exit_code}, {result.exception!r}"
    if said not in output:
        return f"{said!r} is not said: {output}"
    if not output.startswith("error: ") or output.count("\n") > 3:
        return f"not a line or two: {output}"
    loaded = [name for name in HEAVY if name in sys.modules]
    return f"imports {', '.join(loaded)}" if loaded else ""


def main() -> None:
    """Try them all in the folder named on the command line, and print the faults."""
    folder = Path(sys.argv[1])
    prepare(folder)
    for words, said in command_lines():
        why = fault(words, said, folder)
        if why:
            print(f"{' '.join(words)}: {why}")


if __name__ == "__main__":
    main()
