"""A model, a run's adapter and benchmarks, all on this disk."""

from pathlib import Path

import pytest
import torch

from common.model.adapted import AdaptedModel
from tests.support.benchmark_files import save_model, save_run, save_tasks
from workbench.evaluation.adapter import load_adapter
from workbench.evaluation.adapter_settings import adapter_config


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="package")
def adapter(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("results") / "run", model)


@pytest.fixture(scope="package")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tasks(tmp_path_factory.mktemp("tasks") / "own")


@pytest.fixture(scope="package")
def loaded(adapter: Path) -> tuple[AdaptedModel, torch.Tensor]:
    return load_adapter(adapter, adapter_config(adapter, {}))
