# Only a convenience: every target is one or two commands that also work without make (README, "Without make").
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
INSTALLED := $(VENV)/.installed
JOBS ?= 2
WORKERS := -n $(JOBS) --dist loadgroup --no-loadscope-reorder
.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly repro check format lint types imports words unit bench bench-table docs docs-check report doctor sweep ablation chaos clean-venv

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) tools/preflight.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt --group dev -e .
	@touch $@

setup: $(INSTALLED) ## make .venv with the locked versions and a local DVC remote
	@$(RUN) python -m so8t.cli init

demo: setup ## data to calibrated, quantised GGUF on this machine; prints where the report is
	$(RUN) dvc repro
	@$(RUN) so8t report-path

test: setup ## the whole test suite, the graph on a reduced profile included
	$(RUN) python -m pytest $(WORKERS) -m "not nightly and not gpu and not ollama"

repro: setup ## dvc repro
	$(RUN) dvc repro

nightly: setup ## the long tests: faults on the real graph, sweeps, three trained versions
	$(RUN) python -m pytest -m "nightly and not gpu and not ollama"

unit: setup ## unit and property tests only
	$(RUN) python -m pytest $(WORKERS) tests/unit tests/property -m "not slow and not gpu and not ollama"

check: setup lint types imports words docs-check ## every check that runs no test: format, ruff, mypy, layer rule, spelling, sizes, generated docs

format: ## rewrite the layout of the code
	$(RUN) ruff format .

lint: ## check the layout of the code, and ruff
	$(RUN) ruff format --check .
	$(RUN) ruff check .

words: ## check spelling, and look for private keys and large files
	$(RUN) codespell
	$(RUN) python -m tools.check_files

types: ## mypy --strict
	$(RUN) mypy

imports: ## check that imports point down (ARCHITECTURE.md)
	$(RUN) lint-imports

bench: setup ## run every benchmark; each appends to bench/results/
	for script in bench/*.py; do $(RUN) python $$script || exit 1; done

bench-table: setup ## the newest results of bench/results as a table
	$(RUN) python -m so8t.cli bench-table

docs: setup ## rewrite the generated pages of docs/ and the figures in README
	$(RUN) python -m tools.docs

docs-check: setup ## fail if one of those is stale
	$(RUN) python -m tools.docs --check

report: setup ## rebuild only the report
	$(RUN) dvc repro report

doctor: setup ## say what is missing on this machine and in this clone
	@$(RUN) so8t doctor

sweep: setup ## train with pet.lambda 0.01, 0.05 and 0.1, two at a time; table and plot
	$(RUN) so8t sweep pet.lambda 0.01 0.05 0.1

ablation: setup ## train with and without each part, 5 seeds, and write docs/ablation.md (hours; resumes when run again)
	$(RUN) so8t ablation

chaos: setup ## 24 faults over all stages, and the table of docs/reliability.md (15 min on two cores)
	$(RUN) python -m tests.pipeline.chaos --faults 24 --seed 1 --table docs/reliability.md
