# Each target installs what it needs into .venv, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WHEELS := .venv/wheels/.complete

.PHONY: sweep test test-all lint types ui bench cluster-test clean

sweep: $(INSTALLED)  ## sweep digits, log to MLflow, draw the map (OPTIONS="--seeds 5")
	$(BIN)/python sweeps/ib.py $(OPTIONS)

ui: $(INSTALLED)  ## the MLflow UI on http://localhost:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

test: $(INSTALLED)
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "not calibration"

test-all: $(INSTALLED)  ## the tests, and long checks of power and coverage
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

types: $(INSTALLED)
	$(BIN)/mypy

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

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
