"""What docs/models-and-data.md tells people to copy."""

import re
from pathlib import Path

import pytest
import yaml
from lm_eval import tasks

from common.config import DataConfig, RunConfig
from common.data import FORMATS, evaluation_examples, private_examples
from server_app.strategies import STRATEGIES
from tests.support.tiny import write_jsonl
from workbench.simulation.launcher import read_preset

PAGE = (Path(__file__).parents[2] / "docs" / "models-and-data.md").read_text()
PRESETS = sorted((Path(__file__).parents[2] / "common" / "presets").glob("*.toml"))
HUB_PRESETS = [path for path in PRESETS if RunConfig.parse(read_preset(path.stem)).data.name != "demo"]


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


def documented(name: str) -> tuple[str, str]:
    """Hub id and revision of the format's row of the table."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`")).split("|")[3]
    revision = re.search(r'data.revision = "([^"]+)"', row)
    return row.split("`")[1], revision.group(1) if revision else ""


@pytest.mark.parametrize("path", HUB_PRESETS, ids=lambda path: path.stem)
def test_a_preset_reads_the_set_of_the_table_and_holds_some_of_it_out(path: Path) -> None:
    data = RunConfig.parse(read_preset(path.stem)).data
    assert (data.name, data.revision) == documented(data.format)
    assert data.evaluation == data.name
    assert data.evaluation_split != data.train_split
    kept, held_out = (re.fullmatch(r"(\w+)(\[.*\])?", split) for split in (data.train_split, data.evaluation_split))
    assert kept is not None
    assert held_out is not None
    if kept.group(1) == held_out.group(1):  # one split: what is held out begins where training ends
        assert (kept.group(2), held_out.group(2)) == ("[:14900]", "[14900:]")
    else:
        assert held_out.group(2) is None  # the whole split: the first rows of an ordered one are no sample


def test_a_split_of_a_directory_can_be_cut_in_two(tmp_path: Path) -> None:
    """What the Dolly presets ask of a hub set, on a directory."""
    rows = [{"instruction": f"i{n}", "context": "", "response": f"r{n}", "category": "c"} for n in range(10)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    data = DataConfig(
        name=str(tmp_path), format="dolly", train_split="train[:8]", evaluation=str(tmp_path),
        evaluation_split="train[8:]", partitioner="iid",
    )  # fmt: skip
    held_out = evaluation_examples(data, 1)
    assert held_out is not None
    assert list(held_out["completion"]) == ["\nr8", "\nr9"]
    private = [text for site in range(2) for text in private_examples(data, site, 2, 1)["completion"]]
    assert sorted(private) == [f"\nr{n}" for n in range(8)]


def test_the_task_file_is_the_harnesss_own_with_local_data() -> None:
    shown = yaml.safe_load(blocks("yaml")[0])
    template = yaml.safe_load((Path(tasks.__file__).parent / "mmlu/default/_default_template_yaml").read_text())
    own = {"task", "description", "dataset_path", "dataset_kwargs"}
    assert {key: value for key, value in shown.items() if key not in own} == {
        key: value for key, value in template.items() if key not in own | {"metadata"}
    }
