"""GGUF files as models: the weights and tokens of the folder, unpacked once, into a place of their owner's alone."""

import math
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from client_app.site import Site
from client_app.site_data import SiteData
from common.config import ConfigError, LoraConfig, ModelConfig, RunConfig
from common.model import gguf
from common.model.adapted import load_adapted_model
from common.model.base import load_base
from common.model.gguf import cache, local_name
from common.model.gguf_file import gguf_file
from tests.support.file_modes import umask
from tests.support.gguf_files import TEMPLATE, rounded, write_gguf
from tests.support.tiny import TINY, run_tiny, tiny_config, write_files
from workbench.planning.architectures import shape_of


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "holder").mkdir()
    return write_gguf(tmp_path / "holder" / "tiny.Q8_0.gguf", tmp_path / "folder")


def folders() -> list[Path]:
    return sorted(path for path in cache().iterdir() if path.is_dir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_tokens_are_those_of_the_folder(file: Path, tmp_path: Path, dtype: str) -> None:
    model, tokenizer = load_base(ModelConfig(name=str(file), dtype=dtype))  # type: ignore[arg-type]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").state_dict()
    found = model.state_dict()
    assert whole.keys() == found.keys()
    for name, weight in whole.items():
        expected = rounded(weight, "Q8_0") if weight.ndim == 2 else weight
        torch.testing.assert_close(found[name], expected.to(getattr(torch, dtype)), atol=1e-6, rtol=0)
    text = "question : what is the symbol of iron ? answer : fe"
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(tmp_path / "folder")(text)["input_ids"]
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.eos_token_id == AutoTokenizer.from_pretrained(tmp_path / "folder").eos_token_id


def test_it_is_unpacked_once_and_only_its_owner_can_read_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ModelConfig(name=str(file))
    with umask(0):
        place = Path(local_name(settings))
    for path in (cache(), *cache().rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    monkeypatch.setattr(gguf, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert local_name(settings) == local_name(ModelConfig(name=str(file.parent))) == str(place)
    moved = shutil.copy(file, file.parent.parent / "other name.gguf")
    assert local_name(ModelConfig(name=str(moved))) == str(place)


def test_other_content_is_another_folder_and_a_killed_one_leaves_nothing(file: Path) -> None:
    first = local_name(ModelConfig(name=str(file)))
    (cache() / ".new-killed").mkdir()
    write_gguf(file, file.parent.parent / "again", "F16")
    assert local_name(ModelConfig(name=str(file))) != first
    assert len(folders()) == 2


def test_a_cache_that_others_can_enter_is_refused(file: Path) -> None:
    cache().mkdir(parents=True)
    cache().chmod(0o755)
    with pytest.raises(ConfigError, match=r"no folder of this user alone .* XDG_CACHE_HOME"):
        local_name(ModelConfig(name=str(file)))


def test_a_file_that_is_cut_off_is_refused_in_a_line_and_leaves_nothing(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ConfigError, match=r"cannot read this GGUF file: [^\n]+$"):
        local_name(ModelConfig(name=str(file)))
    assert not [path for path in folders() if not path.name.startswith(".new-")]


def test_what_a_name_means(file: Path, tmp_path: Path) -> None:
    assert gguf_file(str(file)) == gguf_file(str(file.parent)) == file
    assert gguf_file("demo") is gguf_file("org/model") is gguf_file(str(tmp_path / "folder")) is None
    shutil.copy(file, file.parent / "second.gguf")
    with pytest.raises(ConfigError, match=r"2 GGUF files are there \(second.gguf, tiny.Q8_0.gguf"):
        gguf_file(str(file.parent))


def test_a_plan_knows_its_shape(file: Path, tmp_path: Path) -> None:
    lora = LoraConfig()
    packed = shape_of(ModelConfig(name=str(file)), lora)
    assert packed.layout == shape_of(ModelConfig(name=str(tmp_path / "folder")), lora).layout


def test_a_whole_run_goes_through(file: Path, tmp_path: Path) -> None:
    changes = {"model.name": str(file), "num-server-rounds": 1}
    folder = run_tiny(tiny_config(write_files(tmp_path), tmp_path / "results", changes))
    assert math.isfinite(folder.read_metrics()[-1]["loss"])


def test_a_site_loads_the_file_that_it_lists_and_no_other_and_never_runs_its_template(
    file: Path, tmp_path: Path
) -> None:
    rows = write_files(tmp_path).private
    node: dict[str, Any] = {"data-path": str(rows), "max-epsilon": 8.0, "models": str(file)}
    data = SiteData.from_node_config(node)
    asked = {**TINY, "model.name": str(file), "data.name": "demo"}
    config = RunConfig.parse(asked)
    data.check(config, config.train)
    adapted = load_adapted_model(data.model(config.model), config.lora, 1)
    assert adapted.tokenizer.chat_template == TEMPLATE
    assert data.tokenizer(adapted.tokenizer).chat_template is None
    other = RunConfig.parse(asked | {"model.name": str(file.parent)})
    with pytest.raises(PermissionError, match="none of the models of its node config"):
        data.check(other, other.train)
    assert Site(config, 0, 1, None, data, config.lora).model() is adapted  # type: ignore[arg-type]
