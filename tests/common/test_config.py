"""The run configuration: defaults, refusals, presets."""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import ConfigError, RunConfig, flatten, nest
from server_app.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "common" / "presets").glob("*.toml"))

# flat changes -> what the message must hold: the key, the value, and what is allowed
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"privacy.epsilon": 0.0}, ["privacy.epsilon = 0.0", "privacy.noise-multiplier = 0.0", "exactly one"]),
    (
        {"privacy.noise-multiplier": 1.5},
        ["privacy.epsilon = 2.0", "privacy.noise-multiplier = 1.5", "exactly one"],
    ),
    ({"privacy.epsilon": math.nan}, ["privacy.epsilon = nan", "greater than or equal to 0"]),
    ({"privacy.epsilon": -1.0}, ["privacy.epsilon = -1.0", "greater than or equal to 0"]),
    ({"privacy.delta": 1.0}, ["privacy.delta = 1.0", "below 1/M"]),
    ({"privacy.delta": -1e-5}, ["privacy.delta = -1e-05", "greater than or equal to 0"]),
    ({"privacy.sampling-rate": 0.0}, ["privacy.sampling-rate = 0.0", "greater than 0"]),
    ({"privacy.sampling-rate": 1.01}, ["privacy.sampling-rate = 1.01", "less than or equal to 1"]),
    ({"stage-one.sampling-rate": 0.0}, ["stage-one.sampling-rate = 0.0", "greater than 0"]),
    ({"privacy.trust": "nobody"}, ["privacy.trust = 'nobody'", "'central', 'distributed', 'local' or 'secure'"]),
    ({"privacy.clipping": "no"}, ["privacy.clipping = 'no'", "'normalize' or 'clip'"]),
    ({"privacy.clip-norm": 0.0}, ["privacy.clip-norm = 0.0", "≥ 1e-30 and ≤ 1e+30"]),
    ({"privacy.clip-norm": 1e-31}, ["privacy.clip-norm = 1e-31", "≥ 1e-30"]),
    ({"stage-one.clip-norm": 1e-31}, ["stage-one.clip-norm = 1e-31", "≥ 1e-30"]),
    ({"train.learning-rate": 1e300}, ["train.learning-rate = 1e+300", "≤ 3e+38"]),
    ({"stage-one.learning-rate": 1e300}, ["stage-one.learning-rate = 1e+300", "≤ 3e+38"]),
    ({"server.learning-rate": 1e300}, ["server.learning-rate = 1e+300", "≤ 3e+38"]),
    ({"lora.alpha": 1e300}, ["lora.alpha = 1e+300", "≤ 3e+38"]),
    ({"privacy.statistics-share": 1.0}, ["privacy.statistics-share = 1.0", "less than 1"]),
    ({"privacy.minimum-cohort": 2}, ["privacy.minimum-cohort: unknown key"]),
    ({"lora.rank": 0}, ["lora.rank = 0", "greater than or equal to 1"]),
    ({"lora.target-modules": " , "}, ["lora.target-modules", "at least one module"]),
    ({"num-server-rounds": 0}, ["num-server-rounds = 0", "greater than or equal to 1"]),
    ({"num-server-rounds": 2.5}, ["num-server-rounds = 2.5", "integer"]),
    ({"num-server-rounds": "many"}, ["num-server-rounds = 'many'", "integer"]),
    ({"privacy.epsilon": "two"}, ["privacy.epsilon = 'two'", "number"]),
    ({"lora.freeze-a": "perhaps"}, ["lora.freeze-a = 'perhaps'", "boolean"]),
    ({"model.name": 7}, ["model.name = 7", "string"]),
    ({"model.quantization": "2"}, ["model.quantization = '2'", "'none', '8' or '4'"]),
    ({"model.quantization": 16}, ["model.quantization = 16", "'none', '8' or '4'"]),
    ({"model.quantization": True}, ["model.quantization = True", "'none', '8' or '4'"]),
    ({"codec.kind": "zip"}, ["codec.kind = 'zip'", "'linear', 'conv' or 'identity'"]),
    ({"fedlpp.bits": 0}, ["fedlpp.bits = 0", "greater than or equal to 1"]),
    ({"fedlpp.bits": 9}, ["fedlpp.bits = 9", "less than or equal to 8"]),
    ({"fedlpp.rounding": "up"}, ["fedlpp.rounding = 'up'", "'nearest' or 'stochastic'"]),
    ({"fedlpp.bits": 9}, ["fedlpp.bits = 9", "less than or equal to 8"]),
    ({"server.optimizer": "lion"}, ["server.optimizer = 'lion'", "'sgd', 'momentum' or 'adam'"]),
    ({"server.divergence-factor": 1.0}, ["server.divergence-factor = 1.0", "greater than 1"]),
    (
        {"data.prompt-column": "completion"},
        ['data.prompt-column = "completion"', "data.completion-column", "two columns"],
    ),
    ({"data.partitioner": "odd"}, ["data.partitioner = 'odd'", "'iid', 'dirichlet' or 'natural'"]),
    (
        {"train.local-epochs": 1},
        ["train.local-steps = 1", "train.local-epochs = 1", "exactly one of them must be above 0"],
    ),
    ({"train.local-steps": 0}, ["train.local-steps = 0", "train.local-epochs = 0", "exactly one"]),
    (
        {"train.local-steps": 0, "train.local-epochs": 1, "train.gradient-accumulation": 2},
        ["train.gradient-accumulation = 2", "use train.local-steps"],
    ),
    (
        {"train.optimizer": "adamw"},
        ['train.optimizer = "adamw"', "train.local-steps = 1", "above 1"],
    ),
    ({"model.quantization": "4"}, ['model.quantization = "4"', 'set it to "none"']),
    ({"model.device-map": "balanced"}, ['model.device-map = "balanced"', 'set it to "none"']),
    (
        {"model.name": "some/model", "model.device-map": "balanced", "model.device": "cuda:1"},
        ['model.device-map = "balanced"', 'model.device = "cuda:1"', 'set model.device = "auto"'],
    ),
    ({"model.dtype": "bfloat16"}, ['model.dtype = "bfloat16"', 'set it to "float32"']),
    ({"num-server-rounds": True}, ["num-server-rounds = True", "valid integer"]),
    ({"privacy.epsilon": True}, ["privacy.epsilon = True", "valid number"]),
    ({"stage-one.private": "no"}, ["stage-one.private = 'no'", "valid boolean"]),
    ({"lora.rank": "8"}, ["lora.rank = '8'", "valid integer"]),
    ({"federation.min-reply-rate": 0.0}, ["federation.min-reply-rate = 0.0", "greater than 0"]),
]


@pytest.mark.parametrize(("changes", "parts"), REFUSED, ids=[" ".join(case) for case, _ in REFUSED])
def test_bad_values_are_refused_naming_key_value_and_what_is_allowed(
    changes: Mapping[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        RunConfig.parse(changes)
    for part in parts:
        assert part in str(refusal.value)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        RunConfig.parse({"lora.rank": 0, "codec.kind": "zip", "privacy.clip-norm": -1.0})
    assert [line[:4] for line in str(refusal.value).splitlines()[1:]] == ["  - "] * 3
    assert all(key in str(refusal.value) for key in ("lora.rank = 0", "codec.kind = 'zip'", "privacy.clip-norm = -1.0"))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lora.rnk", "lora.rank"),
        ("rounds", "num-server-rounds"),
        ("epsilon", "privacy.epsilon"),
        ("lora.epsilon", "privacy.epsilon"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_ones_and_where_all_are(key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        RunConfig.parse({key: 4})
    message = str(refusal.value)
    assert f"{key}: unknown key; did you mean " in message
    assert meant in message
    assert "`dr-encoder keys` lists all" in message
    assert sum(name in message for name in RunConfig().flat() if "." in name) <= 3


@pytest.mark.parametrize("key", ["num_server_rounds", "federation.num_clients"])
def test_a_key_with_low_lines_is_told_how_it_is_written(key: str) -> None:
    """It was taken where the other spelling was not there too, else told that this is unknown."""
    meant = key.replace("_", "-")
    for changes in ({key: 3}, {key: 3, meant: 4}):
        with pytest.raises(ConfigError, match=f"{key}: unknown key; did you mean {meant}"):
            RunConfig.parse(changes)


def test_an_unknown_key_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match="qqq: unknown key; `dr-encoder keys` lists all of them"):
        RunConfig.parse({"qqq": 4})


@pytest.mark.parametrize("changes", [{"privacy.epsilon": 0.0, "privacy.noise-multiplier": 1.0}, {"lora.rank": 1}])
def test_what_is_allowed_is_kept_as_given(changes: dict[str, Any]) -> None:
    assert RunConfig.parse(changes).flat() == RunConfig().flat() | changes


def test_a_whole_number_is_a_number() -> None:
    assert RunConfig.parse({"privacy.epsilon": 4}).privacy.epsilon == 4.0


def test_infinite_epsilon_is_no_privacy_and_any_other_is_private() -> None:
    assert not RunConfig.parse({"privacy.epsilon": math.inf}).privacy.is_private
    assert RunConfig.parse({"privacy.epsilon": 20}).privacy.is_private
    assert RunConfig.parse({"privacy.epsilon": 0, "privacy.noise-multiplier": 0.5}).privacy.is_private


def test_target_modules_are_split_at_commas() -> None:
    assert RunConfig.parse({"lora.target-modules": " q_proj, v_proj,"}).lora.targets == ["q_proj", "v_proj"]


def test_pyproject_lists_exactly_the_keys_and_defaults_of_the_configuration() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = flatten(tables["tool"]["flwr"]["app"]["config"])
    assert declared == RunConfig().flat()
    assert {key: type(value) for key, value in declared.items()} == {
        key: type(value) for key, value in RunConfig().flat().items()
    }, "Flower takes an override's type from the default"


@pytest.mark.parametrize("preset", PRESETS, ids=[path.stem for path in PRESETS])
def test_every_preset_parses_and_names_a_registered_strategy(preset: Path) -> None:
    config = RunConfig.parse(flatten(tomllib.loads(preset.read_text(encoding="utf-8"))))
    assert config.strategy.name in STRATEGIES


_NAMES = st.from_regex(r"[a-z]{1,4}(-[a-z]{1,4})?", fullmatch=True)
_VALUES = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.text(max_size=5))
_SECTIONS = st.dictionaries(_NAMES, st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=3), max_size=3)


@settings(max_examples=30, deadline=None)
@given(_SECTIONS, st.dictionaries(_NAMES, _VALUES, max_size=3))
def test_nest_and_flatten_are_inverse(sections: dict[str, Any], plain: dict[str, Any]) -> None:
    nested = {**{key: value for key, value in plain.items() if key not in sections}, **sections}
    assert nest(flatten(nested)) == nested
    assert flatten(nest(flatten(nested))) == flatten(nested)


def test_a_key_in_both_spellings_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora.rank is given twice"):
        flatten({"lora": {"rank": 4}, "lora.rank": 8})


def test_a_configuration_survives_toml() -> None:
    config = RunConfig.parse({"privacy.epsilon": math.inf, "seed": 9, "codec.size": 11, "lora.freeze-a": True})
    assert RunConfig.parse(flatten(tomllib.loads(tomli_w.dumps(nest(config.flat()))))) == config


def test_plain_keys_come_before_sections_as_toml_wants_them() -> None:
    assert list(nest({"a.b": 1, "c": 2, "d.e": 3, "f": 4})) == ["c", "f", "a", "d"]


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    config = RunConfig.parse({"data.evaluation": absent, "resume": absent})
    with pytest.raises(ConfigError) as refusal:
        config.check_files()
    assert f'data.evaluation = "{absent}": no such file' in str(refusal.value)
    assert f'resume = "{absent}": no run there' in str(refusal.value)


def test_files_that_are_there_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    (tmp_path / "held-out.csv").write_text("prompt,completion\n")
    changes = {"data.evaluation": str(tmp_path / "held-out.csv"), "resume": str(tmp_path / "run")}
    RunConfig.parse(changes).check_files()


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("federation.max-in-flight", 2**63, "largest whole number is 9223372036854775807"),
        ("stage-one.steps", 10**22, "largest whole number"),
        ("output.dir", "a\0b", "null character"),
        ("resume", "\0", "null character"),
    ],
)
def test_what_flower_or_a_path_cannot_have_is_refused_by_its_key(key: str, value: Any, right: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = .*{right}"):
        RunConfig.parse({key: value})


def test_the_largest_whole_number_is_carried() -> None:
    assert RunConfig.parse({"federation.max-in-flight": 2**63 - 1}).federation.max_in_flight == 2**63 - 1
