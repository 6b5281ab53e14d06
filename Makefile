PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test test-slow faults lint gpu-check clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: .venv/installed  ## virtual environment with everything the tests need

demo: install  ## train on the embedded digits and write a grid of samples
	$(BIN)/unnoise train digits --out runs/demo
	$(BIN)/unnoise sample runs/demo --num 100 --out runs/demo/demo-samples
	@echo "look at runs/demo/demo-samples/grid.png"

test: install  ## everything that runs in minutes
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: install  ## the longer suites: digits quality, CIFAR-10 presets
	$(BIN)/python -m pytest -m slow

faults: install  ## the full fault suite: kills, signals, full disks, damaged files, .. and its table (about 20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --full

lint: install  ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

gpu-check: install  ## the tests marked gpu and the throughput benchmark, on a CUDA machine
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/kernels.py --device cuda --out benchmarks/results/h200-kernels.json

clean:  ## remove what make made (not runs/)
	rm -rf .venv .pytest_cache .ruff_cache dist
