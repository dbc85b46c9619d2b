# `make` lists what there is to make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUPPLY := .venv-supply
LOCKS := deploy/locks
# From a lock nothing is resolved: its packages alone, each held to its hash. Modules compile when first imported,
# and that is kept, whatever the environment says: else every start compiles them again.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := python -m pip install --quiet --disable-pip-version-check --no-compile
LOCKED := $(INSTALL) --no-deps --require-hashes --requirement
# The build of torch is the machine's choice, so it is in no lock but its own.
TORCH := $(shell sed -nE 's/^ *"(torch==[0-9.]+)",/\1/p' pyproject.toml)
# One resolution for every platform and Python that we run on.
COMPILE = $(SUPPLY)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock' $(ARGS)
# With what builds the project, without torch and what it brings of CUDA: torch.txt has them. Without the package
# by which OpenVINO reports its use to its makers: it works without.
PIN = echo 'setuptools>=77' | $(COMPILE) pyproject.toml - \
	--no-emit-package openvino-telemetry $$(sed -nE 's/^((torch|triton|nvidia|cuda)[a-z0-9-]*)==.*/--no-emit-package \1/p' $(LOCKS)/torch.txt)

# What `make gpu` brings along and writes.
GPU := build/gpu

# Some at a time, as most of them wait for processes; those stay together that share something dear.
PARALLEL := --numprocesses 5 --dist loadgroup
# Where there are more threads than cores, those of torch take twice the time by waiting busily for each other.
test test-all: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all faults fuzz soak lint bench gpu gpu-wheels growth docs pages lock audit sbom clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.user  ## Screen synthetic X-rays through the whole system, in a data directory of its own
	@$(BIN)/pneumoscreen demo $(ARGS)

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-all: $(VENV)/.dev  ## Run the tests, with those that take long
	$(BIN)/python -m pytest $(PARALLEL) -m 'not bench' $(ARGS)

faults: $(VENV)/.dev  ## Kill, stop and lie to real processes, a hundred times over
	FAULTS=100 $(BIN)/python -m pytest tests/faults -m 'not bench' $(ARGS)

fuzz: $(VENV)/.dev  ## Read twenty thousand damaged files
	FUZZ=20000 $(BIN)/python -m pytest tests/faults/test_fuzz.py -s $(ARGS)

soak: $(VENV)/.dev  ## Put a million images through, with faults at random
	SOAK=1000000 $(BIN)/python -m pytest tests/faults/test_soak.py -m bench -s $(ARGS)

lint: $(VENV)/.dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## Time screening against plain fastai
	$(BIN)/python -m pytest tests/bench -m bench -s $(ARGS)

growth: $(VENV)/.dev  ## Time the job table at up to a million images, and draw it in docs/images
	GROWTH=1000000 GROWTH_PICTURE=docs/images $(BIN)/python -m pytest tests/bench/test_growth.py -m bench -s $(ARGS)

gpu-wheels:  ## Pack what a GPU machine without a network lacks, for `make gpu` there, in build/gpu
	$(PYTHON) -m tests.gpu.packages collect $(GPU)/packages.tar.xz

# In our environment if there is one, else with the machine's own torch and what was packed.
gpu:  ## Check and time everything on a GPU, or rehearse it on the CPU; results in build/gpu/results
	@if [ -x $(BIN)/python ]; then \
		$(BIN)/python -m tests.gpu.run $(ARGS); \
	else \
		$(PYTHON) -m tests.gpu.packages unpack $(GPU)/packages.tar.xz $(GPU)/site && \
		PYTHONPATH=$(CURDIR):$(CURDIR)/$(GPU)/site $(PYTHON) -m tests.gpu.run $(ARGS); \
	fi

docs: $(VENV)/.dev  ## Write the reference pages again: commands, settings, error codes, image files
	$(BIN)/python docs/reference.py
	WRITE_PAGES=1 $(BIN)/python -m pytest -q tests/worker/decoding/test_kinds.py -k page

pages: $(VENV)/.dev  ## Run the commands of the pages for people, and write into them what they print now
	$(BIN)/python -m tests.docs.pages $(ARGS)

lock: $(SUPPLY)/.done  ## Pin every package with its hashes in deploy/locks; ARGS=--upgrade takes newer ones
	echo $(TORCH) | $(COMPILE) - --output-file $(LOCKS)/torch.txt
	$(PIN) --constraints $(LOCKS)/torch.txt --extra dev --output-file $(LOCKS)/dev.txt
	$(PIN) --constraints $(LOCKS)/dev.txt --extra local --output-file $(LOCKS)/local.txt
	$(PIN) --constraints $(LOCKS)/dev.txt --extra worker --extra cpu --extra remote --output-file $(LOCKS)/worker.txt
	$(PIN) --constraints $(LOCKS)/dev.txt --extra remote --output-file $(LOCKS)/scheduler.txt
	$(COMPILE) --group supply --output-file $(LOCKS)/supply.txt

# Strict: a package that could not be looked up is no clean one.
audit: $(SUPPLY)/.done  ## Look up every pinned package in the database of known vulnerabilities
	@for lock in $(LOCKS)/*.txt; do \
		echo $$lock; $(SUPPLY)/bin/pip-audit --strict --disable-pip --requirement $$lock || exit; done

sbom: $(SUPPLY)/.done  ## Write what `make demo` installs, with versions and licences, to sbom.json (CycloneDX)
	$(MAKE) VENV=.venv-sbom .venv-sbom/.user
	$(SUPPLY)/bin/cyclonedx-py environment --gather-license-texts --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json .venv-sbom/bin/python
	rm -rf .venv-sbom

clean:  ## Remove the virtual environments
	rm -rf $(VENV) $(SUPPLY)

$(VENV)/.user: pyproject.toml $(LOCKS)/local.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(LOCKED) $(LOCKS)/local.txt
	$(BIN)/$(INSTALL) $(TORCH)
	$(BIN)/$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.user $(LOCKS)/dev.txt
	$(BIN)/$(LOCKED) $(LOCKS)/dev.txt
	@touch $@

$(SUPPLY)/.done: $(LOCKS)/supply.txt
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/$(LOCKED) $(LOCKS)/supply.txt
	@touch $@
