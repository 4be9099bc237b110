# make demo | test | test-all | mlflow | lint | setup.   PYTHON=python3.12 and pip's own settings are respected.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-all mlflow lint setup clean

demo: setup  ## cohort, two trainings, evaluation, report, packed bundle: runs/demo
	$(BIN)/python -m rtda.pipeline.demo

test: setup  ## the fast tests, minutes
	$(BIN)/python -m pytest -m "not slow and not data and not gpu"

test-all: setup  ## with slow tests and those on real images (RTDA_DATA)
	$(BIN)/python -m pytest

mlflow: runs/mlflow.db setup  ## the tracking UI on what the demo and your own trainings in this folder made
	cd runs && MLFLOW_DISABLE_TELEMETRY=true $(abspath $(BIN))/mlflow ui --backend-store-uri sqlite:///mlflow.db

runs/mlflow.db:
	@echo "$@ is not there yet: make demo makes it, and so does rtda train in this folder" >&2; false

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy pipeline transforms

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:  ## all but runs, which are yours
	rm -rf $(VENV) build dist *.egg-info
