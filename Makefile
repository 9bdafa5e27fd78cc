# Everything a person types. Each target sets up what is missing first.
VENV := .venv
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true
.DEFAULT_GOAL := help
.PHONY: help setup repro test lint ui clean lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## virtual environment with the pinned packages

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found on PATH" >&2; exit 1; }
	@echo "setting up $(VENV) (a few GB, minutes; once)"
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup ## the whole pipeline: data, plan, training, search, tables, report
	@# A dvc that was killed while it wrote its lock file left it empty, and no later one starts.
	@test -s .dvc/tmp/rwlock || rm -f .dvc/tmp/rwlock
	@dvc repro

test: setup ## the tests
	@python -m pytest -n 2 --dist loadfile

lint: setup ## ruff, mypy, import-linter
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports

ui: setup ## MLflow's page on the tracked runs, at http://127.0.0.1:5000
	@ecocseg ui

clean: ## remove results, prepared data and caches; raw data and the environment stay
	@rm -rf results data/processed data/fetched .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache

lock: ## pin the newest versions that pyproject.toml allows (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --extra embeddings --extra dev --no-annotate \
	  --no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock
