# lossref: every target sets up what it needs in .venv. Needed beforehand: Python 3.11 or newer with venv, git, make.
#   make verify      the main job: every loss on every path against exact arithmetic
#   make test        everything that must hold before a commit
#   make help        the other targets

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,

# ── the environment ─────────────────────────────────────────────────────────────────────────────────────────────

$(VENV)/created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "lossref: there is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lossref: $(PYTHON) is $$($(PYTHON) --version); 3.11 or newer is needed. Name one: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "lossref: this Python cannot make virtual environments: its module ensurepip is missing."; \
	  echo "         Debian and Ubuntu keep it in a package of its own: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# .venv/with-A-B is up to date when the extras A and B of pyproject.toml are installed ("with-nothing": none).
$(VENV)/with-%: pyproject.toml | $(VENV)/created
	@echo "Installing lossref with the extras: $(subst -,$(comma) ,$*) (the first time this downloads)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable \
	  '.$(if $(filter nothing,$*),,[$(subst -,$(comma),$*)])'
	@touch $@

FOR_VERIFY := $(VENV)/with-cuda
FOR_TEST := $(VENV)/with-cuda-docs-notebooks-peers-test
FOR_DOCS := $(VENV)/with-docs
FOR_NOTEBOOKS := $(VENV)/with-notebooks
FOR_PEERS := $(VENV)/with-peers-test

# ── the two commands ────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: verify test
verify: $(FOR_VERIFY)  ## the main job: value and gradient of every loss, on every path, against exact arithmetic
	$(BIN)/lossref verify

# Cheap first; the summary of the test suite comes last.
test: lint types docs suite  ## everything that must hold: lint, types, docs with notebooks, all tests

# ── parts of `make test`, each a target of its own ──────────────────────────────────────────────────────────────

.PHONY: lint types docs suite
lint types suite: $(FOR_TEST)
docs: $(if $(filter test,$(MAKECMDGOALS)),$(FOR_TEST),$(FOR_DOCS))

lint:  ## ruff
	$(BIN)/ruff check .

types:  ## mypy
	$(BIN)/mypy

docs:  ## the Sphinx site: notebooks executed, warnings are errors
	$(BIN)/python docs/build.py

suite:  ## pytest with coverage; with the peers, the CUDA kernels in Numba's simulator, the mutations, the wheel
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered

# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: peers notebooks bench clean help
peers: $(FOR_PEERS)  ## compare with PyTorch, JAX/optax, SciPy, scikit-learn, ONNX, POT
	$(BIN)/python -m pytest -m peers

notebooks: $(FOR_NOTEBOOKS)  ## execute the tutorials
	$(BIN)/python -m pytest -c /dev/null --rootdir=. --nbmake tutorials

bench: $(FOR_VERIFY)  ## time the paths on this machine
	$(BIN)/lossref bench

clean:  ## remove what was built (.venv stays; remove it by hand)
	rm -rf build dist htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build
	find lossref cuda tests docs tutorials -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
