"""Fixtures that every test shares: what is slow to make is made once per session."""

import signal
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch

from common.model.adapted import AdaptedModel, load_adapted_model
from server_app.strategies import two_stage
from tests.support.seeded import seed_randomness
from tests.support.tiny import Files, tiny_config, write_files

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """The marker of ``tests/support/false_alarms.py``."""
    config.addinivalue_line("markers", "statistical(rate, source): fails for right code in a share ``rate`` of draws")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data files that tests write leave nothing in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Private and public examples as JSONL files."""
    return write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def seeded() -> Iterator[None]:
    """Cohorts and noise that are the same whenever a run of the module is repeated."""
    with pytest.MonkeyPatch.context() as patch:
        seed_randomness(patch)
        yield


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learned AutoEncoder is trained for a few steps: where only its path matters, not what it has learnt."""
    monkeypatch.setattr(two_stage, "ADAM_STEPS", 5)


@pytest.fixture(scope="session")
def adapted(files: Files) -> AdaptedModel:
    """The embedded model with the tiny adapter: the very object that runs in this process use."""
    config = tiny_config(files, Path())
    return load_adapted_model(config.model, config.lora, config.seed)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Signals do what they do in a new process, whatever ran here before or started this one; as before afterwards."""
    fresh = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
