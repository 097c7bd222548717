# `make run` and `make test` work on a fresh machine with Python 3.11+ and make: they set up .venv first.

PYTHON ?= python3
PY := .venv/bin/python
CONFIG ?= experiments/configs/mini.py
FLAGS ?=
# On a machine with an accelerator, at the first `make run`: JAX=cuda12, cuda13 or tpu.
JAX ?=

# Large pages for malloc: XLA's big fresh buffers cost a third of the training time in page faults without them (Linux only).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: install run test test-slow lint docs notebooks clean

install: .venv/installed

run: .venv/installed
	$(PY) experiments/run.py --config $(CONFIG) $(FLAGS)

# Two files at a time, which two cores have room for; what must end within a second is tried alone.
ALONE := tests/executor/test_infrastructure.py
test: .venv/installed-dev
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile --ignore=$(ALONE) $(FLAGS)
	$(PY) -m pytest -m "not slow" $(ALONE)

test-slow: .venv/installed-dev
	$(PY) -m pytest -m slow $(FLAGS)

lint: .venv/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# tensorflow-datasets annotates what the builder inherits with names that it does not export: pdoc would warn of each.
docs: .venv/installed-dev
	$(PY) docs/configuration.py
	$(PY) -m pdoc --docformat google --output-directory build/docs rlef_jax executor '!rlef_jax.datasets.mini_contest.builder'

# From nothing, with the settings that stand in them: about fifteen minutes on two CPU cores.
notebooks: .venv/installed-dev
	rm -rf notebooks/runs
	$(PY) notebooks/execute.py notebooks/*.ipynb

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlef_jax needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(PY) -m pip install --quiet -r requirements.txt $(if $(JAX),"jax[$(JAX)]")
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(PY) -m pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
