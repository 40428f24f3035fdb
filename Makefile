# Each target installs what it needs into .venv, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WHEELS := .venv/wheels/.complete
DOCS := .venv/.docs-installed
TESTS := --numprocesses $(shell echo $$(($$(nproc) + 1))) --maxprocesses 8 --dist loadfile --no-loadscope-reorder # some wait

.PHONY: sweep help test test-long test-all store-test vulnerabilities chaos lint types docs ui bench cluster-test clean

sweep: $(INSTALLED)  ## sweep digits, log to MLflow, draw the map (OPTIONS="--seeds 5")
	$(BIN)/python sweeps/ib.py $(OPTIONS)

help:  ## the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1: \2/p' Makefile

ui: $(INSTALLED)  ## the MLflow UI on http://localhost:5000, or PORT=6000; OPTIONS="--login" asks for a password
	$(BIN)/raybd ui $(if $(PORT),--port $(PORT)) $(OPTIONS)

test: $(INSTALLED)  ## the tests that every change must pass
	$(BIN)/pytest $(TESTS) -m "not calibration and not server and not long"

test-long: $(INSTALLED)  ## those of them that take half a minute or more each, most of them on Ray
	$(BIN)/pytest $(TESTS) -m "long and not calibration and not server"

test-all: $(INSTALLED)  ## the tests, and long checks of power and coverage
	$(BIN)/pytest $(TESTS)

store-test: $(INSTALLED)  ## stores on servers: PostgreSQL, artifacts in S3; skipped where PostgreSQL is not installed
	$(BIN)/pytest tests/servers -m server -rs

vulnerabilities: $(INSTALLED)  ## known holes of the pinned packages, where the database of them can be reached
	test -x .venv/pip-audit/bin/pip-audit || { $(BIN)/python -m venv .venv/pip-audit && \
	  .venv/pip-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	.venv/pip-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

chaos: $(INSTALLED)  ## the table of faults: 14 minutes at most; fails where a trial is lost, doubled or changed
	$(BIN)/python -m tests.chaos

lint: $(INSTALLED)  ## ruff, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

types: $(INSTALLED)  ## mypy, strictly
	$(BIN)/mypy

docs: $(DOCS)  ## the pages of docs/ and the reference of the Python API as a site: build/site/index.html
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet --jobs auto docs build/site
	@echo "the site: build/site/index.html"

bench: $(INSTALLED)  ## both sides of every speed claim
	$(BIN)/python -m tests.benchmarks

cluster-test: $(WHEELS)  ## ray submit on three machines made of namespaces, one of which dies; needs root (see tests/cluster)
	$(BIN)/python -m tests.cluster

# What the machines install from, since they reach no registry; and what the launching side needs.
$(WHEELS): $(INSTALLED)
	rm -rf .venv/wheels
	$(BIN)/python -m pip download --quiet --disable-pip-version-check -c constraints.txt --dest .venv/wheels \
	  '.[cluster]' 'setuptools>=77'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --find-links .venv/wheels \
	  -c constraints.txt -e '.[cluster]'
	touch $@

$(DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## forget the installation
	rm -rf .venv
