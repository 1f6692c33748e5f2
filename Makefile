# Targets for people and CI. uv is used if it is installed, otherwise python3 -m venv and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
LOCK := requirements.lock

# Bytecode is kept, even if the environment says otherwise: each worker and each process that a test starts would compile
# the same modules again, and each worker rewrite the assertions of all tests.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test soak check lint types mypy pyright wheel bench lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   install into $(VENV), then run the demo"
	@echo "make test   install the test dependencies, then run the tests"
	@echo "make check  run everything that CI runs: lint, types, tests, wheel"
	@echo "make soak   run the tests in their long form, which takes hours"
	@echo "make bench  run the benchmarks; BENCH=--quick: a smoke test, BENCH=--markdown: tables in Markdown"
	@echo "make clean  remove all generated files"

demo: $(VENV)/.installed
	$(BIN)/threadledger demo

test: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n auto --dist worksteal

# The long form of the tests that `make test` runs small: the whole fault matrix, 10,000 examples of each property, hundreds of
# kills and storms, all real conversations. It takes hours.
soak: $(VENV)/.tested
	THREADLEDGER_SOAK=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

check: lint
	$(MAKE) -j2 types # each of the two checkers uses one core
	$(MAKE) test
	$(MAKE) wheel

lint: $(VENV)/.checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: mypy pyright

mypy: $(VENV)/.checked
	$(BIN)/mypy

pyright: $(VENV)/.checked
	$(BIN)/pyright --pythonpath $(BIN)/python

# Build the wheel once, then run the tests against it in a separate environment that cannot import the source folders.
wheel: $(VENV)/.checked
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --outdir build/wheel .
	$(BIN)/python tests/against_wheel.py build/wheel

bench: $(VENV)/.tested
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/store.py $(BENCH)
	$(BIN)/python benchmarks/exchange.py $(BENCH)
	$(BIN)/python benchmarks/branches.py $(BENCH)
	$(BIN)/python benchmarks/serve.py $(BENCH)
	$(BIN)/python benchmarks/replay.py $(BENCH)
	$(BIN)/python benchmarks/audit.py $(BENCH)
	$(BIN)/python benchmarks/bulk.py $(BENCH)
	$(BIN)/python benchmarks/concurrency.py

lock:
	uv pip compile pyproject.toml --all-extras --group dev --universal --no-annotate --no-header --no-emit-index-url \
		--python-version 3.11 --output-file $(LOCK)

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
ifdef UV
	uv venv --quiet --seed --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
endif

ifdef UV
INSTALL := uv pip install --quiet --python $(BIN)/python --constraint $(LOCK)
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(LOCK)
endif

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(LOCK)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(INSTALL) --group test
	@touch $@

$(VENV)/.checked: $(VENV)/.tested
	$(INSTALL) --group dev
	@touch $@
