# Needs Python ≥ 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests share nothing, so they run side by side; more at a time would want more memory than they save time.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-fast rehearse check format clean help

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##|^[a-z-]+: +##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "attnbench needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (set PYTHON=/path/to/python3.11)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)   ## install, look at the machine, sweep the quick scenario and write its report
	-$(BIN)/attnbench doctor
	$(BIN)/attnbench sweep scenarios/quick.yaml --report

test: $(STAMP)   ## install and run the test suite
	$(PYTEST) -m 'not rehearsal'

test-fast: $(STAMP)  ## the tests that take no more than a few seconds each
	$(PYTEST) -m 'not slow and not rehearsal'

rehearse: $(STAMP)  ## the scripts of benchmarks/ and the workflow of docs/ci.md, played briefly on real processes
	$(PYTEST) -m rehearsal

check: $(STAMP)  ## lint, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:           ## remove what was built and installed (results are kept)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
