# `make verify` and `make test` are what people type; each sets up .venv first if that is needed.

PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE =# collection is twice as fast with the caches
PROCESSES ?= 2
BIN := .venv/bin
SHARED := -n $(PROCESSES) --dist worksteal# by pytest-xdist; PROCESSES=0 for one process
INSTALLED := .venv/installed

.PHONY: verify test findings power bench notebook lint format lock clean

verify: $(INSTALLED)  ## hold every installed oracle against the reference
	@$(BIN)/python -m pytest tests/verification -v $(SHARED) --hypothesis-profile ci --report report

test: $(INSTALLED)  ## the project's whole own test suite, the verification included
	@$(BIN)/python -m pytest $(SHARED) --hypothesis-profile ci

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
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) .ci/install
	@touch $@
