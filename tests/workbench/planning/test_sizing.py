"""``dr-encoder plan``: right to the value where it counts, close to the real thing where it estimates."""

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from common.codecs import conv_code_size
from common.config import ConfigError, LoraConfig, ModelConfig, RunConfig, flatten
from common.data import private_tokens
from common.model.adapted import load_adapted_model
from common.model.attention import choose_attention
from common.model.base import load_tokenizer
from common.model.label_loss import PIECE
from server_app.strategies import recipe_of
from tests.support.layouts import LAYOUTS, config_of, write_model
from tests.support.tiny import TINY, Files, run_tiny, tiny_config
from workbench.cli import main as cli
from workbench.cli.overrides import parse_override
from workbench.planning import memory, sizing
from workbench.planning.architectures import PUBLISHED, build_shape, shape_of
from workbench.planning.step import Batch, batches_of, step_seconds
from workbench.simulation.launcher import APP, LaunchError, read_preset

PRESETS = sorted((APP / "common" / "presets").glob("*.toml"))
SEVEN_BILLION = ["dolly-llama", "mmlu-qwen"]
GIVEN_NOISE = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0}
CARDS = (1, 1, 4, 4)


def preset_config(name: str, changes: dict[str, Any] | None = None) -> RunConfig:
    return RunConfig.parse(read_preset(name) | (changes or {}))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_a_valid_configuration(path: Path) -> None:
    config = preset_config(path.stem)
    asked = set(flatten(tomllib.loads(path.read_text(encoding="utf-8"))))
    assert asked <= set(config.flat())


@pytest.mark.parametrize(
    ("name", "rounds", "fraction", "rate"), [("dolly-llama", 20, 0.05, 1.5e-4), ("mmlu-qwen", 4, 1.0, 3e-4)]
)
def test_the_paper_presets_have_table_1(name: str, rounds: int, fraction: float, rate: float) -> None:
    config = preset_config(name)
    found = (config.num_server_rounds, config.privacy.sampling_rate, config.train.learning_rate, config.lora.rank)
    assert found == (rounds, fraction, rate, 8)
    assert config.strategy.name == "dr-encoder"


def test_llama_7b_is_counted_as_the_paper_counts_it() -> None:
    shape = shape_of(ModelConfig(name="huggyllama/llama-7b"), LoraConfig())
    assert shape.layout.size == 4096 * 8 * 2 * 4 * 32
    assert len(shape.layout.tensors) == 2 * 4 * 32
    assert shape.parameters == 6_738_415_616
    assert shape.linear_parameters == 32 * (4 * 4096**2 + 3 * 4096 * 11008)


@pytest.mark.parametrize(
    ("name", "parameters", "values"),
    [
        ("Qwen/Qwen2.5-7B", 7_615_616_512, 28 * 8 * (2 * (3584 + 3584) + 2 * (3584 + 512))),
        ("openai-community/gpt2-medium", 354_823_168, 24 * 8 * (1024 + 3 * 1024)),
    ],
)
def test_published_shapes_have_their_published_counts(name: str, parameters: int, values: int) -> None:
    shape = build_shape(PUBLISHED[name], LoraConfig())
    assert (shape.parameters, shape.layout.size) == (parameters, values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shape_is_that_of_the_loaded_model(tmp_path: Path, layout: str) -> None:
    """From config.json alone: the directory has no weights when the shape is read."""
    config_of(layout).save_pretrained(tmp_path)
    model, lora = ModelConfig(name=str(tmp_path)), LoraConfig(rank=2)
    shape = shape_of(model, lora)
    write_model(layout, tmp_path)
    loaded = load_adapted_model.__wrapped__(model, lora, 1)
    assert shape.layout == loaded.layout
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert shape.parameters == sum(parameter.numel() for parameter in base.parameters())


def quantized_bytes(model: torch.nn.Module) -> int:
    """Bytes that a loaded model really holds, scales of quantized weights included."""
    total = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            total += parameter.numel() * parameter.element_size()
            state = getattr(parameter, "quant_state", None)
            scales = [state.absmax, state.state2.absmax] if state is not None else [getattr(parameter, "SCB", None)]
            total += sum(scale.numel() * scale.element_size() for scale in scales if scale is not None)
    return total


@pytest.mark.parametrize("layout", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize(
    ("quantization", "dtype"), [("none", "float32"), ("none", "bfloat16"), ("8", "bfloat16"), ("4", "bfloat16")]
)
def test_estimates_are_near_what_a_real_step_keeps(
    tmp_path: Path, files: Files, layout: str, quantization: str, dtype: str
) -> None:
    write_model(layout, tmp_path)
    changes = {
        "model.name": str(tmp_path), "model.quantization": quantization, "model.dtype": dtype, "data.max-length": 48,
        "lora.target-modules": "auto",
    }  # fmt: skip
    config = tiny_config(files, tmp_path, changes)
    shape = shape_of(config.model, config.lora)
    loaded = load_adapted_model.__wrapped__(config.model, config.lora, 1)
    loaded.training_mode(True)
    assert memory.weight_bytes(config.model, shape) == pytest.approx(quantized_bytes(loaded.model), rel=0.02)
    tokens = torch.zeros(config.train.batch_size, 48, dtype=torch.long)
    choose_attention(loaded.model, *tokens.shape)
    batch = Batch(*tokens.shape, labels=70, read=False)
    words = batch.labels * shape.config.vocab_size
    logits = {"float32": 4, "bfloat16": 2}[dtype] * words + 12 * min(PIECE, words)  # what autograd does not keep
    whole, checkpointed = memory.activation_bytes(config, shape, batch)
    kept = memory.kept_bytes(loaded.model, tokens, batch.labels)
    most = 1.6 if quantization == "8" else 1.45  # 8-bit is too high, by how much depends on the weights that were drawn
    assert 0.95 < (whole - logits) / kept < most  # never too low
    assert checkpointed < whole


CONV = {"codec.kind": "conv", "codec.size": 0}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        CONV,
        {"strategy.name": "fedcg"},
        {"strategy.name": "fedcg", **CONV},
        {"strategy.name": "fedlpp", "fedlpp.bits": 2},
    ],
)
def test_planned_bytes_are_those_of_a_run(files: Files, tmp_path: Path, changes: dict[str, Any]) -> None:
    noisy = {"num-server-rounds": 1, "privacy.epsilon": 0.0, "privacy.noise-multiplier": 2.0}
    config = tiny_config(files, tmp_path, {**noisy, **changes})
    sizes = sizing.solve(config)
    folder = run_tiny(config)
    row = folder.read_metrics()[1]
    stage = json.loads((folder.path / "report.json").read_text())["strategy"].get("stage_1", {})
    first = [stage.get(f"bytes_{way}_per_client", 0) for way in ("up", "down")]
    assert row["bytes_up"] == 6 * (sizes.per_client.up - first[0])
    assert row["bytes_down"] == pytest.approx(6 * (sizes.per_client.down - first[1]), rel=0.02, abs=60)


SHOWN = "dolly-llama"


@pytest.mark.parametrize("name", SEVEN_BILLION)
def test_the_plans_of_the_7b_presets_fit_their_cards(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An 80 GB card takes the preset as it is; 24 GB takes it with what the preset's comment says."""
    quick = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0}
    config = preset_config(name, {} if name == SHOWN else quick)
    sizes = sizing.solve(config)
    if name == SHOWN:
        monkeypatch.setattr(sizing, "solve", lambda _: sizes)
        _check_page(sizing.to_text(config).splitlines())
        monkeypatch.undo()
    fits = {place.cards: place for place in sizes.placements}
    assert fits["one 80 GB"].clients_at_a_time >= 1
    assert not fits["one 24 GB"].clients_at_a_time
    rows = 4 if name.startswith("dolly") else 1
    small = preset_config(name, quick | {"model.quantization": "4", "train.batch-size": rows})
    fits = {place.cards: place for place in sizing.solve(small).placements}
    assert fits["one 24 GB"].clients_at_a_time >= 1
    assert fits["one 24 GB"].gpus_per_client <= 1


def _check_page(told: list[str]) -> None:
    """The page shows this plan; bytes aside, which the deflated digest of the code moves by one or two."""
    page = (Path(__file__).parents[3] / "docs" / "models-and-data.md").read_text(encoding="utf-8")
    shown = page.split(f"$ dr-encoder plan --preset {SHOWN}\n")[1].split("```")[0].splitlines()
    assert [line for line in shown if "both ways" not in line] == [line for line in told if "both ways" not in line]


def invoke(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["plan", *options])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_the_command_answers_in_json_and_in_words() -> None:
    settings = [part for item in ("privacy.epsilon=0.0", "privacy.noise-multiplier=2.0") for part in ("--set", item)]
    code, output = invoke("--preset", "demo", "--json", *settings)
    answer = json.loads(output[output.index("{") :])
    assert code == 0
    assert (answer["adapter_values"], answer["code_values"], answer["noise_multiplier"]) == (24_576, 256, 2.0)
    assert answer["noise_over_signal"] == pytest.approx(2.0 * 16 / 100, rel=0.01)  # and what one colluder takes
    parts = answer["memory_per_client"]
    assert parts["total"] == sum(parts[name] for name in ("weights", "adapter", "codec", "activations", "runtime"))
    own = answer["memory_of_server"]
    assert own["total"] == sum(own[name] for name in ("weights", "adapter", "codec", "evaluation", "runtime"))
    code, output = invoke("--preset", "demo", *settings)
    assert code == 0
    assert "24,576 values in 32 tensors" in output
    assert "memory of the server" in output


def test_the_servers_evaluation_pass_is_bounded_and_grows_with_what_it_holds() -> None:
    config = preset_config("dolly-llama", GIVEN_NOISE)
    shape = shape_of(config.model, config.lora)
    recipe = recipe_of(config, shape.layout)
    found = memory.estimate_server(config, shape, recipe)
    more = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"batch_size": 10_000})})
    assert memory.estimate_server(more, shape, recipe) == found, "tokens bound a pass, not rows"
    hidden = 2 * memory.TOKENS * (8 * 4096 + 3 * 11008)  # bfloat16
    assert found.evaluation == hidden + 12 * memory.LOGITS
    adam = config.model_copy(update={"server": config.server.model_copy(update={"optimizer": "adam"})})
    grown = memory.estimate_server(adam, shape, recipe).adapter - found.adapter
    moments = {"sgd": 2, "momentum": 1, "adam": 0}[config.server.optimizer]
    assert grown == moments * 4 * shape.layout.size


@pytest.mark.parametrize(
    ("changes", "client", "server"),
    [
        ({"codec.kind": "linear"}, 28, 28),
        ({"codec.kind": "conv", "codec.size": 0}, 41, 1.45 * 1830),
        ({"codec.form": "trained", "codec.size": 64}, 4 * 65, 1.45 * (32 * 64 + 256)),
        ({"strategy.name": "lora"}, 4, 4),
    ],
)
def test_an_autoencoder_is_in_the_memory_of_who_trains_it(
    changes: dict[str, Any], client: float, server: float
) -> None:
    """Resident memory grew by 2,430 bytes a value with the convolution, by 3,300 with the other one (64 values)."""
    config = RunConfig.parse({"strategy.name": "dr-encoder"} | changes)
    shape = shape_of(config.model, config.lora)
    recipe = recipe_of(config, shape.layout)
    values = shape.layout.size
    found = (
        memory.estimate(config, shape, Batch(1, 16, 4, read=False), recipe),
        memory.estimate_server(config, shape, recipe),
    )
    assert [each.codec / values for each in found] == pytest.approx([client, server], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.name=some/model", 'model.name = "some/model": not in the local cache'),
        ("strategy.name=none", 'strategy.name = "none": registered are'),
        ("codec.size=99999999", "larger than the adapter"),
    ],
)
def test_what_cannot_be_planned_is_refused(change: str, message: str) -> None:
    code, output = invoke("--preset", "demo", "--set", change)
    assert code == 1
    assert message in output


def test_a_preset_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(LaunchError, match="dolly-llama"):
        read_preset("dolly-lama")


def test_an_unknown_shape_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a directory without a config\.json"):
        shape_of(ModelConfig(name=str(tmp_path)), LoraConfig(rank=TINY["lora.rank"]))


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_several_cards_take_what_rays_placement_by_share_puts_on_each(rows: int) -> None:
    """Ray fills every card to its share, the first too, where the server's model is: that card is the measure."""
    config = preset_config("mmlu-qwen", GIVEN_NOISE | {"train.batch-size": rows, "model.quantization": 4})
    sizes = sizing.solve(config)
    weights = memory.weight_bytes(config.model, sizes.shape)
    for place, cards, gigabytes in zip(sizes.placements, CARDS, (24, 80, 24, 80), strict=True):
        on_each = math.floor(1 / place.gpus_per_client) if place.gpus_per_client else 0
        assert place.clients_at_a_time == min(cards * on_each, sizes.privacy.clients)
        assert on_each == 0 or weights + on_each * sizes.memory.total <= gigabytes * 1e9
        assert place.deployed == (sizes.memory.total <= 0.95 * gigabytes * 1e9)


def test_a_plan_offers_no_more_clients_at_a_time_than_there_are() -> None:
    """And each of the few the share of a card that they leave it."""
    places = sizing.solve(preset_config("demo", GIVEN_NOISE | {"federation.num-clients": 6})).placements
    assert [place.clients_at_a_time for place in places] == [6, 6, 6, 6]
    assert [place.gpus_per_client for place in places] == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 2], abs=1e-4)


def test_a_plan_says_how_many_cpus_the_clients_need() -> None:
    """Flower's simulation engine places by CPUs too, and ``--cpus`` is 2 where nothing is said."""
    code, output = invoke("--preset", "demo", "--set", "privacy.epsilon=0.0", "--set", "privacy.noise-multiplier=2.0")
    assert code == 0
    rows = re.findall(r"GB +(\d+) +--gpus-per-client ([\d.]+) --cpus (\d+)", output)
    assert len(rows) == len(CARDS)
    for (clients, share, cpus), cards in zip(rows, CARDS, strict=True):
        assert clients == cpus
        assert math.floor(1 / float(share)) * cards >= int(clients)


def test_a_plan_without_noise_or_saving_does_not_speak_of_them() -> None:
    code, output = invoke("--preset", "fedlpp")
    assert code == 0
    assert "one client, whole run" in output
    assert "both ways" in output
    assert "times less" not in output
    assert "noise over signal" not in output


def test_examples_longer_than_learned_positions_cannot_be_planned(tmp_path: Path) -> None:
    config_of("gpt2").save_pretrained(tmp_path)
    code, output = invoke("--preset", "demo", "--set", f"model.name={tmp_path}", "--set", "data.max-length=65")
    assert code == 1
    assert f'data.max-length = 65: model.name = "{tmp_path}" has learned positions for 64 tokens' in output


def head_line(name: str, gigabytes: int) -> dict[str, Any]:
    """The options that a preset's head names for one card, defaults included."""
    text = (APP / "common" / "presets" / f"{name}.toml").read_text()
    line = re.search(rf"one of {gigabytes} GB +(.*)", text)
    assert line is not None
    words = line.group(1).split()
    start = words.index("--set") if "--set" in words else words.index("--gpus-per-client")
    context = typer.main.get_command(cli.app).commands["run"].make_context("run", words[start:])  # type: ignore[attr-defined]
    return dict(context.params)


@pytest.mark.parametrize("name", [path.stem for path in PRESETS if "one of 24 GB" in path.read_text()])
@pytest.mark.parametrize("gigabytes", [24, 80])
def test_what_a_presets_head_says_of_a_card_is_what_the_plan_says(name: str, gigabytes: int) -> None:
    asked = head_line(name, gigabytes)
    noise = GIVEN_NOISE if read_preset(name)["privacy.epsilon"] != math.inf else {}
    changes = noise | dict(parse_override(text) for text in asked["overrides"] or [])
    place = next(p for p in sizing.solve(preset_config(name, changes)).placements if p.cards == f"one {gigabytes} GB")
    clients = math.floor(1 / asked["gpus_per_client"])
    assert 1 <= clients <= place.clients_at_a_time
    assert asked["cpus"] >= clients


@pytest.mark.parametrize("name", ["fedcg", "mmlu-qwen"])
def test_fedcg_is_planned_with_its_convolutions_code_and_a_stage_1_in_the_clear(name: str) -> None:
    original = {
        "strategy.name": "fedcg",
        "codec.kind": "conv",
        "codec.size": 0,
        "stage-one.private": False,
    }
    config = preset_config(name, GIVEN_NOISE | original)
    answer = json.loads(sizing.to_json(config))
    assert answer["code_values"] == conv_code_size(answer["adapter_values"], 6)
    assert answer["code_values"] == pytest.approx(answer["adapter_values"] / 2**6, rel=0.05)
    assert answer["statistics_noise_multiplier"] == 0.0
    assert answer["epsilon"] == "inf"
    assert "stage-one.private = false" in answer["not_private_because"]


def test_a_batch_is_the_data_s_where_it_can_be_read(tmp_path: Path, files: Files) -> None:
    write_model("llama", tmp_path)
    config = tiny_config(files, tmp_path, {"model.name": str(tmp_path)})
    batch, longest = batches_of(config, 6)
    tokens = private_tokens(config.data, load_tokenizer(str(tmp_path)), 0, 6, config.seed)
    assert batch.read
    assert batch.rows == 8 == len(tokens)  # all that a client holds
    assert abs(batch.length - tokens.input_ids.shape[1]) <= 4 < config.data.max_length
    assert 8 <= batch.labels < batch.rows * batch.length / 2
    assert longest.rows == 8
    assert longest.length >= batch.length
    assert longest.labels >= batch.labels
    absent = RunConfig.parse(config.flat() | {"data.name": "org/set"})
    largest = Batch(8, absent.data.max_length, 8 * absent.data.max_length, read=False)
    assert batches_of(absent, 6) == (largest, largest)


def test_the_time_of_a_step_grows_with_layers_and_rows_and_is_none_on_a_gpu(tmp_path: Path, files: Files) -> None:
    config = tiny_config(files, tmp_path, {"model.name": str(write_model("llama", tmp_path / "m"))})
    shape = shape_of(config.model, config.lora)
    seconds = step_seconds(config, shape, Batch(8, 32, 64, read=True))
    assert seconds is not None
    assert 0 < seconds < 60
    four = RunConfig.parse(config.flat() | {"model.quantization": "4"})
    assert step_seconds(four, shape, Batch(8, 32, 64, read=True)) is None
    assert "step" in json.loads(sizing.to_json(config))
    assert " tokens), timed here on two layers; all clients and rounds" in sizing.to_text(config)


def test_plain_lora_under_more_noise_than_32_bits_hold_counts_32_bits() -> None:
    """A code of 256 values holds it: what it is compared to, and nobody sends, made plan and report tracebacks."""
    noisy = {"privacy.epsilon": 0.0, "privacy.noise-multiplier": 4e5, "privacy.sampling-rate": 1.0}
    sizes = sizing.solve(RunConfig.parse({"num-server-rounds": 2, "federation.num-clients": 20} | noisy))
    assert sizes.plain_lora.up / sizes.plain_lora.rounds_asked == pytest.approx(4 * 24_576, rel=0.05)
