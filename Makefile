# The commands README names. `make demo` and `make test` need Python (3.11 or newer, with venv) and make, nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The distribution's own interpreter first: services and other users can read it.
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test test-kubernetes lint docs bench fleet pictures package requirements clean

help:  ## Show the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/runtime.stamp  ## A simulated GPU node lives through a bad hour in about a minute
	@$(BIN)/gpuwarden demo

test: $(VENV)/dev.stamp  ## The whole test suite, with the real components it can get
	@tests/install-packages.sh
	$(BIN)/python -m pytest

test-kubernetes: $(VENV)/dev.stamp  ## The Kubernetes back end on a real control plane (root; builds it once from Debian's source, five minutes)
	@tests/kubernetes/build.sh build/kubernetes
	$(BIN)/python tests/kubernetes/lab.py build/kubernetes

lint: $(VENV)/dev.stamp  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

docs: $(VENV)/dev.stamp  ## Write anew what is generated: runbooks, metrics, dcgm fields, alert texts, coverage (minutes)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_dcgm.py
	$(BIN)/python docs/generate_alerts.py
	$(BIN)/python docs/generate_coverage.py

bench: $(VENV)/dev.stamp  ## Measure what README and docs/performance.md promise
	$(BIN)/python tests/bench/bench.py

fleet: $(VENV)/dev.stamp  ## 200 simulated hosts under a wave of faults, and 10,000 random host-hours (takes half an hour)
	GPUWARDEN_FLEET_HOSTS=200 $(BIN)/python -m pytest -s tests/remediation/test_fleet_wave.py
	$(BIN)/python tests/remediation/random_hours.py 10000

pictures: $(VENV)/dev.stamp  ## Draw every dashboard with Grafana's own components into build/pictures (needs node, npm, prometheus, chromium)
	$(BIN)/python tests/pictures/draw.py

package: $(VENV)/dev.stamp  ## Build the wheel and the source archive into dist/
	@rm -rf dist
	$(BIN)/python -m hatchling build
	@ls -l dist

requirements:  ## Write the hash-pinned requirements anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --extra dev --extra kubernetes --extra web -o requirements-dev.txt pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --extra build -c requirements-dev.txt -o requirements.txt pyproject.toml

clean:  ## Remove what the other commands created
	rm -rf $(VENV) dist build tests/pictures/node_modules .mypy_cache .ruff_cache .pytest_cache

$(VENV)/venv.stamp:
	@if [ -z "$(PYTHON)" ]; then echo "gpuwarden needs Python 3.11 or newer; none was found." >&2; exit 1; fi
	@"$(PYTHON)" -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment;" \
		"on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/runtime.stamp: $(VENV)/venv.stamp requirements.txt pyproject.toml
	@echo "setting up $(VENV) (once)..."
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp requirements-dev.txt
	@echo "setting up $(VENV) for development (once)..."
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@
