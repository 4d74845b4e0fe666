# make demo   the example project, from nothing to the answered question
# make ui     the example project in Dagster's UI, on http://127.0.0.1:3000
# make test   the tests; PYTEST_ARGS="-m 'ci and not slow'" those that take longer
# make lint   ruff, pyright, import-linter
# make bench  the benchmarks
# make faults trainings, questions, readers and sensors on one store at once, killed at random (ten minutes)
# make field  public training programs at real commits, cloned from GitHub, against an oracle
# make clean  remove what the others made
#
# Each sets up what it needs in .venv. Another interpreter: make test PYTHON=python3.12 (its environment: .venv-3.12).

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet --quiet
PYTEST_ARGS ?=
# Files are taken in their order, the long ones of the browser first; a file's tests share what they set up.
WORKERS ?= 2
FAULTS_SECONDS ?= 600

.PHONY: demo ui test lint bench faults field clean environment environment-lint
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(BIN)/python -m example_pipelines.digits.demo

ui: $(VENV)/.installed
	@test -d demo/digits || { echo "There is no demo project yet; make demo makes it."; exit 1; }
	@DAGSTER_HOME=$(CURDIR)/demo/dagster_home $(BIN)/dagster dev -h 127.0.0.1 -p 3000

# The tests start many processes; compiled modules save each of them a part of its start.
test: environment
	@$(BIN)/python -m compileall -q flor_dagster
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: environment-lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

# Everything at once, killed at random, held against an oracle.
faults: environment
	@$(BIN)/python -m tests.faults.soak --seconds $(FAULTS_SECONDS) $(FAULTS_ARGS)

# Needs the network, and torch: pip install torch in the environment.
field: environment
	@mkdir -p demo/field
	@FLOR_FIELD_RESULTS=$(CURDIR)/demo/field $(BIN)/python -m pytest -m "" tests/field
	@$(BIN)/python -m tests.field.table demo/field

bench: environment
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf demo .venv .venv-* .pytest_cache .ruff_cache .import_linter_cache .hypothesis

environment: $(VENV)/.installed-test
environment-lint: $(VENV)/.installed-lint

$(BIN)/python:
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "flor_dagster needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"

$(VENV)/.installed: $(BIN)/python pyproject.toml
	@echo "Installing flor_dagster and what it needs into $(VENV); this takes a minute or two"
	@$(PIP) install --editable ".[examples]"
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml
	@echo "Installing flor_dagster and what its tests need into $(VENV); this takes a minute or two"
	@$(PIP) install --editable ".[examples]" --group test
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(VENV)/.installed-test
	@$(PIP) install --editable ".[examples]" --group lint
	@touch $@
