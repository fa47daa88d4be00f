# speechmill: `make demo` shows it, `make test` proves it. Both do their own set-up.

BIN := $(CURDIR)/.venv/bin
# Jobs call `python`: the environment's must be the first on PATH.
export PATH := $(BIN):$(PATH)

REPORT := results/report.html
REPORT_OPTIONS := --report $(REPORT) --report-stylesheet workflow/report/report.css --report-after-run

.DEFAULT_GOAL := help
.PHONY: help demo report plan test bench setup lint format lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup  ## set up, run the embedded demo from speech to model card, say where the results are
	$(BIN)/snakemake --cores all $(REPORT_OPTIONS)
	@PYTHONPATH=workflow $(BIN)/python -m speechmill.dag.outcome results/runs/demo_ru
	@echo "report  $(REPORT)"

CONFIG := config/config.yaml

# After a run, be it one of no jobs: a report by itself lacks the rules behind a plan that would have to be made again.
report: setup  ## make what is missing of CONFIG's results, and write them all into one page, results/report.html
	$(BIN)/snakemake --cores all --configfile $(CONFIG) $(REPORT_OPTIONS)
	@echo "report  $(REPORT)"

plan: setup  ## say what CONFIG=config/recipes/NAME.yaml will take in disk and time, before anything is fetched
	@PYTHONPATH=workflow $(BIN)/python -m speechmill.dag.forecast $(CONFIG)

# Unit tests share the cores; whole workflows take them all themselves, and one set of results between them.
test: lint  ## set up, lint, and run the tests
	@bash envs/setup.sh browser slurm
	$(BIN)/python -m pytest tests/unit --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest tests/workflow

bench: setup  ## print how fast the stages are, as ratios against peers; ONLY=train for one of tests/benchmarks
	@PYTHONPATH=workflow:tests $(BIN)/python -m benchmarks $(ONLY)

setup:  ## make .venv from requirements.lock, install missing system programs; does nothing when done
	@bash envs/setup.sh

lint: setup  ## check style, types and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: setup  ## mend what can be mended by itself, and write the configuration's schema and reference anew
	PYTHONPATH=workflow $(BIN)/python -m speechmill.config.document
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
