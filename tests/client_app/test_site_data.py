"""The node configuration of a site's own data."""

from typing import Any

import pytest

from client_app import site_data
from client_app.node_config import PolicyRefusal
from client_app.site_data import SiteData
from common.config import ModelConfig

OWN: dict[str, Any] = {"data-path": "/data/site.jsonl"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_its_defaults_are_the_safe_ones() -> None:
    found = SiteData.from_node_config(OWN)
    assert found == SiteData("/data/site.jsonl", "columns", "prompt", "completion", "", True, 512, 64, 32, 0, ("demo",))


WRONG: list[tuple[str, Any, str]] = [
    ("data-path", "site.jsonl", "data-path: write an absolute file name"),
    ("data-path", 3, "data-path: write an absolute file name"),
    ("data-format", "xml", "data-format = 'xml': write one of alpaca, ceval, chat, columns"),
    ("data-format", "chat", 'data-format = "chat": write chat-template too'),
    ("prompt-column", "", "prompt-column = '': write a text in quotes"),
    ("chat-template", "secret.jinja", "chat-template: write an absolute file name"),
    ("append-eos", "yes", "append-eos = 'yes': write true or false"),
    ("max-length", 1, "max-length = 1: write at least 2"),
    ("max-batch-size", 0, "max-batch-size = 0: write at least 1"),
    ("max-local-steps", 2.5, "max-local-steps = 2.5: write a whole number"),
    ("max-local-epochs", -1, "max-local-epochs = -1: write a number of at least 0"),
    ("models", "org/name", "models: write names separated by commas"),
    ("models", "secret/name@main", "models: write names separated by commas"),
    ("models", 3, "models = 3: write a text in quotes"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_what_is_wrong_is_named_with_what_is_right_and_without_paths(key: str, value: Any, said: str) -> None:
    with pytest.raises(PolicyRefusal) as refusal:
        SiteData.from_node_config(OWN | {key: value})
    assert said in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_hub_model_is_the_pinned_commit_in_the_local_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(site_data, "snapshot_download", lambda *names, **how: asked.append((names, how)) or "/cache/x")
    own = SiteData.from_node_config(OWN | {"models": f"/models/llama, org/name@{COMMIT}"})
    assert own.model(ModelConfig(name="/models/llama")).name == "/models/llama"
    assert own.model(ModelConfig(name="org/name", dtype="bfloat16")) == ModelConfig(name="/cache/x", dtype="bfloat16")
    assert asked == [(("org/name",), {"revision": COMMIT, "local_files_only": True})]
