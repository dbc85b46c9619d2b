# `make` lists what there is to make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all faults fuzz lint bench docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.user  ## Screen synthetic X-rays through the whole system, in a data directory of its own
	@$(BIN)/pneumoscreen demo $(ARGS)

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/.dev  ## Run the tests, with those that take long
	$(BIN)/python -m pytest -m 'not bench' $(ARGS)

faults: $(VENV)/.dev  ## Kill, stop and lie to real processes, a hundred times over
	FAULTS=100 $(BIN)/python -m pytest tests/faults -m 'not bench' $(ARGS)

fuzz: $(VENV)/.dev  ## Read twenty thousand damaged files
	FUZZ=20000 $(BIN)/python -m pytest tests/faults/test_fuzz.py -s $(ARGS)

lint: $(VENV)/.dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## Time screening against plain fastai
	$(BIN)/python -m pytest tests/bench -m bench -s $(ARGS)

docs: $(VENV)/.dev  ## Write the reference pages again: commands, settings, error codes
	$(BIN)/python docs/reference.py

clean:  ## Remove the virtual environment
	rm -rf $(VENV)

# torch comes first and alone: beside other requests an installer may look for another build of it.
$(VENV)/.user: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
