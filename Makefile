# Thin: each target sets up what it needs, then calls one tool.
#   make run      a node on 127.0.0.1:8080 with the example application
#   make test     checks and all tests          make check    linters and types only
#   make bench    the benchmarks, one by one    make clean    the environment and caches of this folder
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test check unit bench setup clean

setup: $(READY)

$(READY): pyproject.toml scripts/setup
	VENV=$(VENV) sh scripts/setup
	@touch $@

run: $(READY)
	$(BIN)/plexspaces serve --example

test: check
	$(BIN)/pytest $(PYTEST_ARGS)

unit: $(READY)
	$(BIN)/pytest -q tests/unit tests/contract

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
