# The front door. Needs only Python >= 3.11 and make: everything else lands in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SOURCES := gateway beckn_specs ml registry seeds fluxeon tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz check format bench lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(STAMP) ## create .venv and install everything, pinned by hash

$(STAMP): requirements/all.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/all.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup ## real load in, a signed, confirmed, completed and audited order out
	$(BIN)/fluxeon demo $(ARGS)

test: setup ## run the tests: quick ones, all of them with ALL=1, a part with T=path
	$(BIN)/python -m pytest $(if $(ALL),,-m "not slow") $(or $(T),tests) $(ARGS)

fuzz: setup ## the seeded fuzzer for longer (CASES=n, SEED=n)
	FLUXEON_FUZZ_CASES=$(or $(CASES),50000) FLUXEON_FUZZ_SEED=$(or $(SEED),$$(date +%s)) \
	    $(BIN)/python -m pytest tests/fuzz $(ARGS)

check: setup ## format, lint, strict types, import direction
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources in the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: setup ## benchmarks (B=name for one); prints tables, writes bench.json
	$(BIN)/fluxeon bench $(B)

lock: ## resolve the pinned requirements anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --all-extras --group dev \
	    pyproject.toml -o requirements/all.txt

clean: ## remove what was built
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache bench.json
