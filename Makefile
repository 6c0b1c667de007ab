# The commands of this project; each makes what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-all test-published check bench crash faults cluster-test-packages study-gpt study-bert study-vit clean
.DELETE_ON_ERROR:

# Pinned installs: pyproject.toml says what is needed, constraints.txt which versions.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,parity]'
	touch $@

$(VENV)/.installed-plot: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plot]'
	touch $@

# ARGS: flags of train.py, such as ARGS="--train.steps 20"
train: $(VENV)/.installed
	$(BIN)/python train.py $(ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Each process gets its part of the files, in order, and helps the others at the end: what a file's tests share is made
# once. Three on two cores, as tests of several processes wait for each other.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal --durations=40 --durations-min=5

test: $(VENV)/.installed-test
	$(PYTEST) -m "not exhaustive"

# The compiler for GPUs (250 MB), in a folder of its own: in the environment, JAX would look for GPUs at every start.
# Tests that compile for GPUs put the folder on the path of processes of their own.
$(VENV)/.installed-aot: $(VENV)/.installed-test
	rm -rf $(VENV)/aot
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --target $(VENV)/aot \
		$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["aot"])')
	touch $@

# Open MPI 5, in a folder of its own: its mpirun would come before the system's on the path. --target loses its libraries.
$(VENV)/.installed-openmpi5: $(VENV)/.installed-test
	rm -rf $(VENV)/openmpi5
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --ignore-installed \
		--prefix $(VENV)/openmpi5 \
		$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["openmpi5"])')
	touch $@

# Slurm and Open MPI 4, for the tests that start a real cluster on this machine; as root, on Debian. Without them, or
# without root, `test-all` skips these tests and says why.
cluster-test-packages:
	apt-get update -qq
	apt-get install -y --no-install-recommends slurm-wlm munge openmpi-bin

# What is exhaustive (matrices over meshes and processes, long kills, compiling for GPUs), and nothing that `test` runs.
test-all: $(VENV)/.installed-test $(VENV)/.installed-aot $(VENV)/.installed-openmpi5
	$(PYTEST) -m exhaustive

# Published weights: REAL_WEIGHTS=DIR, where DIR/minilm and DIR/smollm2-135m are Hugging Face folders of all-MiniLM-L6-v2
# and SmolLM2-135M-Instruct.
test-published: $(VENV)/.installed-test
	$(if $(REAL_WEIGHTS),,$(error give REAL_WEIGHTS=DIR, a folder with minilm and smollm2-135m))
	REAL_WEIGHTS="$(REAL_WEIGHTS)" $(BIN)/python -m pytest -q tests/published

bench: $(VENV)/.installed-test
	$(BIN)/python tools/bench.py

crash: $(VENV)/.installed
	$(BIN)/python tools/crash.py

# Every fault in every phase of a job, an hour: ARGS="--selected" for a few of them.
faults: $(VENV)/.installed-test
	$(BIN)/python -m tests.cluster.faults $(ARGS)

# A scaling study from the plan to the page, some 25 minutes on two cores: studies/gpt, studies/bert, studies/vit, which
# reads a folder with Fashion-MNIST's idx files: make study-vit FASHION=FOLDER. Again: goes on.
study-gpt study-bert study-vit: study-%: $(VENV)/.installed-plot
	test -e studies/$*/study.json || $(BIN)/python tools/scaling.py plan studies/$* --preset $*-scaling --jobs 2 $(PLAN-$*)
	$(BIN)/python tools/scaling.py run studies/$* --jobs 2
	$(BIN)/python tools/scaling.py fit studies/$*
	$(BIN)/python tools/scaling.py report studies/$*

SIZES := --sizes 6 --shape.layers 2 --shape.head-widths 8 --shape.multiple 8
PLAN-gpt := --budgets 5e11 1.25e12 3.2e12 8e12 --tokens-per-param 30 --span 3 $(SIZES)
PLAN-bert := --budgets 4e11 8e11 1.6e12 3.2e12 --tokens-per-param 30 --span 2.8 $(SIZES)
FASHION := fashion-mnist
PLAN-vit := --data.path $(FASHION) --budgets 1.5e11 3e11 6e11 1.2e12 --tokens-per-param 300 --span 3 --sizes 6 \
	--shape.layers 2 --shape.head-widths 4 --shape.multiple 4

clean:
	rm -rf $(VENV) build *.egg-info
