# `make test` is enough in a fresh clone: it finds a Python, builds .venv from requirements.lock, runs the tests.

VENV := .venv
BIN := $(VENV)/bin
# A copy of the lock, written when all of it is installed: an interrupted or outdated .venv is built anew.
INSTALLED := $(VENV)/requirements.lock
INSTALLED_VLA := $(VENV)/requirements-vla.lock
# Two processes begin with half of the tests each, in order, so that few fixtures are made twice.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup setup-vla test test-fast test-vla lint type demo lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1	\2/p' Makefile | expand -t 16

setup:  ## build .venv unless it is up to date (PYTHON=... names the interpreter)
	@cmp -s requirements.lock $(INSTALLED) || { \
	    python=$$(.ci/find_python) && \
	    "$$python" -m venv --clear $(VENV) && \
	    $(BIN)/python -m pip install --no-deps -r requirements.lock && \
	    cp requirements.lock $(INSTALLED); \
	}

setup-vla: setup  ## add what SmolVLA requires to .venv
	@cmp -s requirements-vla.lock $(INSTALLED_VLA) || { \
	    $(BIN)/python -m pip install --no-deps -r requirements-vla.lock && \
	    cp requirements-vla.lock $(INSTALLED_VLA); \
	}

test: setup  ## run the tests
	$(PYTEST)

test-fast: setup  ## run those that take less than about half a second each
	$(PYTEST) -m "not slow"

test-vla: setup-vla  ## run SmolVLA's, which are skipped without `make setup-vla`
	$(PYTEST) tests/act/test_smolvla*.py tests/security/test_foreign_vlms.py

lint: setup  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## check types
	$(BIN)/pyright

demo: setup  ## see it work
	$(BIN)/python demo.py

lock:  ## resolve requirements.txt anew into requirements.lock
	.ci/lock

clean:  ## remove .venv and the caches, keep logs and data
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
