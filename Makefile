# Everything runs from .venv, which any target makes when it is missing. Only make and Python 3.11 or newer are assumed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := out/demo

.DEFAULT_GOAL := help
.PHONY: check clean demo docs format help test venv

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(READY) ## Prepare .venv (a download of some GB at first; instant afterwards)

# setuptools comes first so that the build needs no second, unpinned download of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "siftlens needs Python 3.11 or newer; name one: make venv PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-build-isolation --editable '.[dev]'
	@touch $@

demo: $(READY) ## Analyse a small ViT on bundled photographs, audit and prompt another, offline
	@rm -rf $(DEMO)
	@$(BIN)/siftlens demo --out $(DEMO)

test: $(READY) ## All checks: format, lint, types, layers, docs, tests
	@scripts/check

check: $(READY) ## The same without the tests
	@scripts/check static

docs: $(READY) ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY) ## Format the code and mend what the linter can
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) site out build dist src/siftlens.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
