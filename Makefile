# Everything runs in .venv, which `make setup` makes; no target installs anything twice.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
GPU := $(shell command -v nvidia-smi 2>/dev/null)
comma := ,
EXTRAS ?= dev,eval,sweep,deepspeed,onnx$(if $(GPU),$(comma)liger)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup quickstart glue test test-fast test-parity test-gpu test-liger venv-transformers4 test-transformers4 check bench bench-gpu format docs lock clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed ## Make .venv and install the package with what the tests need

# Without an NVIDIA GPU: the CPU build of torch, from wherever pip already looks, else from
# PyTorch's own index; never a CUDA build of several GB.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ -n "$(GPU)" ] || [ "$$(uname -s)" = Darwin ]; then \
		$(PIP) "torch>=2.11"; \
	else \
		$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(PIP) --retries 1 "torch==$(TORCH)+cpu" 2>/dev/null \
		|| $(PIP) --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple "torch==$(TORCH)+cpu"; \
	fi
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

quickstart: setup ## Train a small NeoBERT on the World Factbook: five to eight minutes on two cores
	$(BIN)/python -m neobert.train experiment=quickstart

TASKS ?= factbook_sections
ENCODER ?= output/quickstart
glue: setup ## Fine-tune the quickstart's encoder and report: make glue TASKS=cola,rte ENCODER=RUN
	$(BIN)/python -m neobert.train -m experiment=glue_tutorial glue.task_name=$(TASKS) \
		glue.pretrained_model_path=$(ENCODER) seed=0,1
	$(BIN)/python -m neobert.tools.glue_report output/glue

# In two processes; the tests of a file share fixtures, so they stay together.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
test: setup ## Lint, types and the whole test suite, what is exported on transformers 4 too
	$(MAKE) --no-print-directory check
	$(MAKE) --no-print-directory test-transformers4
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: setup ## The tests that take under 20 s each
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow'

test-parity: setup ## Does a test fail for each key of the contract whose effect is taken away? KEYS='wandb.*'
	$(BIN)/python tests/parity.py $(KEYS)

test-gpu: setup ## The tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

venv-transformers4: .venv-transformers4/.installed ## A second environment: that of .venv, but transformers 4.57

# A .pth file puts the packages of .venv behind its own, which are transformers 4 and what it pins.
.venv-transformers4/.installed: $(VENV)/.installed
	$(BIN)/python -m venv --clear .venv-transformers4
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$(.venv-transformers4/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth
	.venv-transformers4/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
		"transformers>=4.57,<5" "huggingface-hub>=0.34,<1" "tokenizers>=0.22,<=0.23.0"
	@touch $@

test-transformers4: venv-transformers4 ## What is exported, on transformers 4
	.venv-transformers4/bin/python -m pytest tests/export/test_modeling_neobert.py

# Beside .venv, since Triton takes a gigabyte that nothing else on a CPU needs.
.venv-liger/.installed: $(VENV)/.installed
	$(PIP) --no-deps --target .venv-liger/packages liger-kernel triton
	@touch $@

test-liger: .venv-liger/.installed ## Liger's kernels against ours, in Triton's interpreter: no GPU needed
	PYTHONPATH=.venv-liger/packages $(BIN)/python -m pytest tests/ops/test_liger.py

check: setup ## ruff, format, mypy, import-linter, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy neobert benchmarks docs/generate.py
	$(BIN)/lint-imports
	$(BIN)/codespell neobert benchmarks conf tests docs README.md CONTRIBUTING.md CHANGELOG.md

bench: setup ## Our training against HF Trainer on this CPU: docs/benchmarks/cpu.md, under ten minutes
	$(BIN)/python -m benchmarks.pretraining

bench-gpu: setup ## The same on one NVIDIA GPU: docs/benchmarks/gpu.md, under ten minutes
	$(BIN)/python -m benchmarks.pretraining --gpu

format: setup ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Regenerate docs/configuration.md and docs/parity.md
	$(BIN)/python docs/generate.py

# torch is left out, and triton, which comes with it: which build is right depends on the machine.
LOCKED := $(foreach extra,dev eval sweep deepspeed corpora onnx,--extra $(extra))
lock: .venv-lock/bin/uv ## Write requirements.lock: all versions with hashes, torch apart; UPGRADE=1 for the newest
	printf 'torch\ntriton\n' > .venv-lock/excluded.txt
	.venv-lock/bin/uv pip compile pyproject.toml $(LOCKED) --universal --python-version 3.11 --generate-hashes \
		--constraint constraints.txt --excludes .venv-lock/excluded.txt $(if $(UPGRADE),--upgrade) \
		--custom-compile-command "make lock" --output-file requirements.lock --quiet

.venv-lock/bin/uv:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet uv

clean: ## Remove caches and build outputs; runs and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find neobert benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
