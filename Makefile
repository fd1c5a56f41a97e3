# Two commands: `make demo` and `make test`. Each sets up what it needs on a machine with Python 3.11 and make.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo deploy-demo test test-faults test-engine lint bench reproduce pretrain clean

help:
	@echo "make demo      fine-tune the embedded model privately with Flower's simulation engine (about 3 minutes)"
	@echo "make deploy-demo  TLS, registered SuperNodes, real processes on loopback; everything is stopped again"
	@echo "make test      linters, types, import contract and tests"
	@echo "make test-faults  processes killed and lied to, for real (slow; not part of make test)"
	@echo "make test-engine  every strategy once through the real flwr run (minutes; not part of make test)"
	@echo "make bench     speed, as ratios within one run"
	@echo "make reproduce recompute the paper's Table 3 and Figure 1 (docs/reproduction)"
	@echo "make pretrain  rebuild the embedded model from its facts (common/demo/assets)"
	@echo "make clean     remove the environment and caches; results/ stays"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/dr-encoder run --preset demo

deploy-demo: $(READY)
	$(BIN)/python -m server_app.deployment.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-faults: $(READY)
	$(BIN)/python -m pytest -m faults tests/faults tests/test_inbound.py

test-engine: $(READY)
	$(BIN)/python -m pytest -m engine tests/end_to_end

bench: $(READY)
	$(BIN)/python -m benchmarks.speed

reproduce: $(READY)
	$(BIN)/python -m benchmarks.reproduction --out docs/reproduction

pretrain: $(READY)
	$(BIN)/python -m common.demo.build

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
