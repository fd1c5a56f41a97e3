"""What docs/models-and-data.md tells people to copy."""

import re
from pathlib import Path

import yaml
from lm_eval import tasks

from common.config import RunConfig
from common.data import FORMATS
from server_app.launcher import read_preset
from server_app.strategies import STRATEGIES

PAGE = (Path(__file__).parents[2] / "docs" / "models-and-data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_papers_two_fine_tunings_are_presets_with_its_settings() -> None:
    named = {
        name: RunConfig.parse(read_preset(name)) for name in re.findall(r"dr-encoder run --preset ([a-z-]+)", PAGE)
    }
    assert {config.data.format for config in named.values()} == {"dolly", "mmlu"}
    for name, rounds, rate, step in (("dolly-llama", 20, 0.05, 1.5e-4), ("mmlu-qwen", 4, 1.0, 3e-4)):  # Table 1
        config = named[name]
        assert config.strategy.name in STRATEGIES
        assert (config.num_server_rounds, config.privacy.sampling_rate, config.lora.rank) == (rounds, rate, 8)
        assert config.train.learning_rate == step
        assert config.privacy.delta < 1 / config.federation.num_clients


def test_every_format_has_a_row_with_its_columns() -> None:
    rows = {line.split("`")[1]: line.split("|")[2] for line in PAGE.splitlines() if line.startswith("| `")}
    for name, layout in FORMATS.items():
        for column in layout.columns:
            assert re.search(rf"\b{column}\b", rows[name]), (name, column)


def test_the_task_file_is_the_harnesss_own_with_local_data() -> None:
    shown = yaml.safe_load(blocks("yaml")[0])
    template = yaml.safe_load((Path(tasks.__file__).parent / "mmlu/default/_default_template_yaml").read_text())
    own = {"task", "description", "dataset_path", "dataset_kwargs"}
    assert {key: value for key, value in shown.items() if key not in own} == {
        key: value for key, value in template.items() if key not in own | {"metadata"}
    }
