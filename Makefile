# `make verify` and `make test` are what people type; each sets up .venv first if that is needed.
# core, oracle and nightly are for CI: each has an environment of its own, in .venvs.

PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE =# collection is twice as fast with the caches
PROCESSES ?= 2
OPTIONS ?=# more of pytest's
PROFILE ?= ci# of Hypothesis: dev, ci or nightly
PINS ?= pinned# of core and oracle: pinned, oldest, newest or prerelease
UPSTREAM ?= newest# of nightly: newest or prerelease
BIN := .venv/bin
INSTALLED := .venv/installed
CORE = .venvs/core-$(PINS)-$(notdir $(PYTHON))
ORACLE = .venvs/$(NAME)-$(PINS)-$(notdir $(PYTHON))
SHARED := -n $(PROCESSES) --dist worksteal# by pytest-xdist; PROCESSES=0 for one process
REPORT := --report report --junitxml report/junit.xml
VERIFY := -m pytest tests/verification -v $(SHARED) $(REPORT)

.PHONY: verify test core oracle nightly summary findings power bench notebook lint format lock clean

verify: $(INSTALLED)  ## hold every installed oracle against the reference
	@$(BIN)/python $(VERIFY) --hypothesis-profile $(PROFILE) $(OPTIONS)

test: $(INSTALLED)  ## the project's whole own test suite, the verification included
	@$(BIN)/python -m pytest $(SHARED) --hypothesis-profile $(PROFILE) $(OPTIONS)

core:  ## the verification without frameworks: make core PYTHON=python3.13 PINS=oldest
	@$(MAKE) --no-print-directory $(CORE)/installed
	@$(CORE)/bin/python $(VERIFY) --hypothesis-profile $(PROFILE) $(OPTIONS)

oracle: named  ## the verification of one oracle, with nothing else installed: make oracle NAME=jax
	@$(MAKE) --no-print-directory $(ORACLE)/installed
	@$(ORACLE)/bin/python $(VERIFY) --hypothesis-profile $(PROFILE) --oracle $(NAME) $(OPTIONS)

nightly: named  ## that for hours, of the newest release, or of UPSTREAM=prerelease
	@$(MAKE) --no-print-directory oracle PINS=$(UPSTREAM) PROFILE=nightly

summary:  ## print the last report's summary, for a pull request
	@cat report/summary.md 2>/dev/null || echo "No report was written."

findings: $(INSTALLED)  ## run the script of every known framework defect, say what it shows
	@$(BIN)/python -m tests.support.findings

power: $(INSTALLED)  ## which check catches which planted fault, how soon; figures
	@$(BIN)/python -m tests.benchmarks.power

bench: $(INSTALLED)  ## figures, never pass or fail
	@$(BIN)/python -m tests.benchmarks

notebook: $(INSTALLED)  ## run docs/conv_backward.ipynb and keep what it shows
	@$(BIN)/python -m tests.support.notebook

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock:  ## remake constraints.txt from the newest versions that pyproject.toml allows
	@rm -rf .venv && PYTHON=$(PYTHON) .ci/install unpinned
	@$(BIN)/pip freeze --all --exclude-editable | sed 's/+[a-z0-9.]*$$//' > constraints.tmp
	@mv constraints.tmp constraints.txt && touch $(INSTALLED)

clean:
	rm -rf .venv .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

named:
	@[ -n "$(NAME)" ] || { echo "NAME is missing: make oracle NAME=pytorch" >&2; exit 2; }

$(INSTALLED): pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) .ci/install
	@touch $@

$(CORE)/installed: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) VENV=$(CORE) EXTRAS=test .ci/install $(PINS)
	@touch $@

$(ORACLE)/installed: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) VENV=$(ORACLE) EXTRAS=$(NAME),test .ci/install $(PINS)
	@touch $@
