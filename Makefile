# Thin: each target sets up what it needs, then calls one tool.
#   make run      a node on 127.0.0.1:8080 with MiniClaw, and the counter of the README
#   make example  a node with the counter alone
#   make demo     a conversation with MiniClaw and what is behind it, on a node of its own, in under a minute
#   make test     checks and all tests          make check    linters and types only
#   make bench    the benchmarks, one by one    make clean    the environment and caches of this folder
#   make torture  kills nodes with durable actors, for as many random programs as PROGRAMS, from the seed SEED on
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PROGRAMS ?= 3000
SEED ?= 0

.PHONY: run example demo test check unit bench torture setup clean

setup: $(READY)

$(READY): pyproject.toml scripts/setup
	VENV=$(VENV) sh scripts/setup
	@touch $@

run: $(READY)
	$(BIN)/plexspaces serve --example app-config.toml

example: $(READY)
	$(BIN)/plexspaces serve --example

demo: $(READY)
	$(BIN)/python scripts/demo

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

torture: $(READY)
	PLEXSPACES_TORTURE_PROGRAMS=$(PROGRAMS) PLEXSPACES_TORTURE_SEED=$(SEED) \
		$(BIN)/pytest -q --tb=short tests/integration/test_durable_kill.py -k random_programs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
