PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo lessons test test-all test-slow quick parity golden faults attacks lint gpu-quick gpu-check dist site clean

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

lessons: install  ## the eight lessons as files that open offline, in lessons/
	$(BIN)/python -m unnoise.studio.lessons lessons ../docs/maths.md

TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: install  ## the tests of everything, in minutes on two cores
	$(TEST) -m "not long and not slow and not gpu" tests/training tests

test-all: install  ## and the long ones: a browser, kills, attacks, notebooks, several ranks, real signals
	$(TEST) -m "not slow and not gpu" tests/faults tests/training tests

test-slow: install  ## the longer suites: digits quality, CIFAR-10 presets
	$(BIN)/python -m pytest -m slow

quick: install  ## what matters of every layer, in a minute or so: the tests that tests/quick.txt names
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal @tests/quick.txt

BASE ?= HEAD
ONLY ?=

parity: install  ## against the originals' own code: diffusers, and the peers in UNNOISE_PEERS
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/parity

golden: install  ## do the working tree and the commit BASE compute the same? ONLY=training, sampling or evaluation
	$(BIN)/python -m tests.golden $(BASE) $(if $(ONLY),--only $(ONLY))

faults: install  ## the full fault suite: kills, signals, full disks, damaged files, .. and its table (about 20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --full

attacks: install  ## bad input of every kind: nothing ends in a traceback, hangs or is silently wrong (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.attacks

lint: install  ## ruff, codespell and basedpyright
	$(BIN)/codespell *.md NOTICE docs src
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

CARD ?= h200
PEERS ?= peers
RESULTS := benchmarks/results

# needs torch, pytest and what pyproject.toml lists, but no network: it installs nothing
GPU := PYTHONPATH=src:. $(or $(wildcard $(BIN)/python),python3) -m

gpu-quick:  ## on a CUDA machine, in 5 minutes: what each option brings, then the tests marked gpu
	$(GPU) benchmarks.gpu_options --out $(RESULTS)/$(CARD)-options.json
	$(GPU) pytest -m gpu tests/gpu

gpu-check: gpu-quick  ## on a CUDA machine: every benchmark into benchmarks/results/$(CARD)-*.json too
	$(GPU) benchmarks.kernels --device cuda --out $(RESULTS)/$(CARD)-kernels.json
	for what in ceilings training sampling; do \
	  $(GPU) benchmarks.speed $$what --device cuda --batch 128 512 --peers $(PEERS) --out $(RESULTS)/speed-$$what-$(CARD).json || exit 1; done
	$(GPU) benchmarks.speed tables

dist: install  ## the source archive and the wheel, as a release has them
	$(BIN)/python -m hatchling build -d dist

SOURCE_URL := https://github.com/unnoise/unnoise/blob/main

site: install  ## the docs as a site, in build/site
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	rm -rf build && mkdir build && cp -r docs build && rm build/docs/*.py
	sed -i -E 's#\]\((\.\./)+(notebooks|benchmarks)/#](${SOURCE_URL}/\2/#g' $$(find build/docs -name '*.md')
	i=0; pages=$$($(BIN)/python -m unnoise.studio.lessons build/docs/lessons ../maths.html) || exit 1; \
	for page in $$pages; do i=$$((i+1)); \
	  sed -i -E "s#^\| ($$i [^|]+) \|#| [\1](lessons/$$(basename $$page)) |#" build/docs/lessons.md; done
	$(BIN)/zensical build --strict --clean

clean:  ## remove what make made (not runs/)
	rm -rf .venv .pytest_cache .ruff_cache dist build
