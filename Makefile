# speechmill: `make demo` shows it, `make test` proves it. Both do their own set-up.

BIN := $(CURDIR)/.venv/bin
# Jobs call `python`: the environment's must be the first on PATH.
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test setup report lint format lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup  ## set up, run the embedded demo from text to model card, say where the results are
	$(BIN)/snakemake --cores all
	$(BIN)/snakemake --report results/report.html
	@PYTHONPATH=workflow $(BIN)/python -m speechmill.card --show results/runs/demo_ru/model
	@echo "report: results/report.html"

test: lint  ## set up, lint, and run the tests
	$(BIN)/python -m pytest

setup:  ## make .venv from requirements.lock, install missing system programs; does nothing when done
	@bash envs/setup.sh

report: setup  ## write results/report.html from the results that are there
	$(BIN)/snakemake --report results/report.html

lint: setup  ## check style, types and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules

format: setup  ## mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow/rules

# The lock holds for every Python from 3.11 and every platform; pins that still fit stay as they are.
lock: setup  ## remake requirements.lock from requirements.in
	$(BIN)/uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock

clean:  ## remove the tools' caches; results/, work/ and .venv stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find workflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
