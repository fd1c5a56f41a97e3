"""A model that a hub does not give, or that comes with code of its own."""

import json
import sys
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from common.config import ConfigError, LoraConfig, ModelConfig
from common.model import base as base_model
from common.model.adapted import load_adapted_model
from tests.support.layouts import write_model
from workbench.planning.architectures import shape_of

LORA = LoraConfig(rank=2, alpha=4.0, target_modules="q_proj,v_proj")
fresh = load_adapted_model.__wrapped__  # loads anew and leaves the session's cache alone


def http_error(kind: type[Exception]) -> OSError:
    """What transformers raises around an answer of the hub."""
    request = httpx.Request("GET", "https://huggingface.co/some/model")
    error = OSError("transformers' own words")
    error.__cause__ = kind("no", response=httpx.Response(403, request=request))
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (http_error(GatedRepoError), "accept its license at https://huggingface.co/some/model.*HF_TOKEN"),
        (http_error(RepositoryNotFoundError), "no such model, or it is private.*hf auth login"),
        (OSError("disk on fire"), "could not be loaded as a hub id or local directory.*disk on fire"),
    ],
    ids=["gated", "not found", "other"],
)
def test_what_the_hub_refuses_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, error: OSError, advice: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(base_model.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(ConfigError, match=f'model.name = "some/model": .*{advice}'):
        fresh(ModelConfig(name="some/model"), LORA, 1)


@pytest.mark.parametrize("own", [True, False], ids=["its own layout", "a known layout"])
def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: bool
) -> None:
    """transformers would ask on a terminal: "Do you wish to run the custom code? [y/N]"."""
    folder = write_model("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "own.Own")}
    config |= {"model_type": "own"} if own else {}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for load in (lambda: fresh(named(folder), LORA, 1), lambda: shape_of(named(folder), LORA)):
        if own:
            with pytest.raises(ConfigError, match=r"model\.name = "):
                load()
        else:
            load()
    assert not (tmp_path / "ran").exists()


def named(folder: Path) -> ModelConfig:
    return ModelConfig(name=str(folder))


def test_a_hub_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's own client, told to stay offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"hub cannot be reached.*hf download some/model --local-dir DIR"):
        fresh(ModelConfig(name="some/model"), LORA, 1)
