# speechmill: `make demo` runs the demo, `make test` runs all tests. Both do the set-up first.

BIN := $(CURDIR)/.venv/bin
# For programs that are called by name, such as lmplz.
export PATH := $(BIN):$(PATH)
# `python -m` imports nothing from the working directory.
export PYTHONSAFEPATH := 1

REPORT := results/report.html
REPORT_OPTIONS := --report $(REPORT) --report-stylesheet workflow/report/report.css --report-after-run

.DEFAULT_GOAL := help
.PHONY: help demo recipe report plan adopt test bench gpu-kit setup lint format raise-version record-code lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: setup  ## run the demo from speech to model card, and print where the results are
	$(BIN)/snakemake --cores all $(REPORT_OPTIONS)
	@PYTHONPATH=workflow $(BIN)/python -m speechmill.dag.outcome results/runs/demo_ru
	@echo "report  $(REPORT)"

recipe: setup  ## write config/recipes/NAME.yaml for the recordings in FOLDER=… in LANGUAGE=en; BASE=… is another base
	@PYTHONPATH=workflow $(BIN)/python -m speechmill.recipe.recipe "$(FOLDER)" "$(LANGUAGE)" \
		--name "$(NAME)" --base "$(BASE)"

CONFIG := config/config.yaml

adopt: setup  ## after an upgrade: mark CONFIG's results of release FROM=0.1.0 as current, except of raised stages
	SPEECHMILL_ADOPT=$(FROM) $(BIN)/snakemake --touch --cores all --configfile $(CONFIG)

FROM := 0.1.0

# With --report-after-run: a separate `snakemake --report` lacks all rules after a checkpoint rule that is out of date.
report: setup  ## create the missing results of CONFIG, and collect all of them in results/report.html
	$(BIN)/snakemake --cores all --configfile $(CONFIG) $(REPORT_OPTIONS)
	@echo "report  $(REPORT)"

plan: setup  ## estimate the disk space and time of CONFIG=config/recipes/NAME.yaml; downloads nothing
	@PYTHONPATH=workflow $(BIN)/python -m speechmill.dag.forecast $(CONFIG)

# Workflow tests run one file per process at a time, the slowest first; see tests/workflow/conftest.py.
test: lint  ## run the linters and all tests
	@bash envs/setup.sh browser slurm gradio
	$(BIN)/python -m pytest tests/unit --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest tests/workflow --numprocesses 3 --dist loadfile --no-loadscope-reorder

bench: setup  ## print the speed of the stages relative to other implementations; ONLY=train runs one benchmark
	@PYTHONPATH=workflow:tests $(BIN)/python -m benchmarks $(ONLY)

gpu-kit: setup  ## write gpu-kit/, with which tests/gpu/run.sh checks a machine with a GPU
	@PYTHONPATH=workflow:tests $(BIN)/python -m gpu.prepare gpu-kit

setup:  ## create .venv from requirements.lock, and install missing system programs
	@bash envs/setup.sh

lint: setup  ## check style, types, formatting, and the order of the packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=workflow $(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: setup  ## format the code, and write the configuration's schema and reference
	PYTHONPATH=workflow $(BIN)/python -m speechmill.config.document
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow/Snakefile workflow/rules

raise-version: setup  ## after a change that can change results: make STAGES="finetune plan" run again for all users
	PYTHONPATH=workflow $(BIN)/python -m speechmill.dag.versions --raise $(STAGES)

record-code: setup  ## after a change that changes no results: record the code of all stages; nothing runs again
	PYTHONPATH=workflow $(BIN)/python -m speechmill.dag.versions

# The lock file is valid for every Python from 3.11 on and every platform; existing pins are kept where possible.
lock: setup  ## write requirements.lock from requirements.in
	$(BIN)/uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock

clean:  ## delete the caches of the tools; keeps results/, work/ and .venv
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find workflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
