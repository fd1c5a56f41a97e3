"""A tuned model that every test of its use asks: it has learned to answer B."""

from pathlib import Path

import pytest

from tests.support.benchmark_files import save_model, save_run

CARD = """---
base_model: org/base
library_name: peft
license: unknown
tags:
- base_model:adapter:org/base
- lora
---

# LoRA adapter of org/base

## Privacy

ε covers what this adapter tells of one client's examples.

## How to load it

Load the adapter.

## License

Not stated.
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), chat=True)


@pytest.fixture(scope="session")
def adapter(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = save_run(tmp_path_factory.mktemp("results") / "run", model)
    (found / "README.md").write_text(CARD, encoding="utf-8")
    return found
