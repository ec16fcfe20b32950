# Every target sets up what it needs: `make demo` works in a fresh clone with Python 3.11 and git.
.PHONY: setup demo test check docs bench

# the first Python that is new enough; `make setup PYTHON=…` takes another
PYTHON = $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$name -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Luthier needs Python 3.11 or newer; found: $$(python3 --version 2>&1)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/luthier demo

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4

check: setup
	$(BIN)/ruff check src tests benchmarks cookbook
	$(BIN)/ruff format --check src tests benchmarks cookbook
	$(BIN)/mypy
	$(BIN)/lint-imports

# the generated tables of docs/recipes.md, and docs/adapters.md; tests say when they are stale
docs: setup
	$(BIN)/python -m luthier.workflow.docs

bench: setup
	$(BIN)/python benchmarks/run.py
