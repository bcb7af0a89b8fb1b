# Each target works as the first and only command on a fresh machine with Python 3.11+ and make.

PROFILE ?= quick
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
# The first of these that is Python 3.11 to 3.13
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
RESULTS := $(or $(PAPERLIB_RESULTS),results)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: setup reproduce report notebooks test fuzz browser-test lint bench clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or make PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Train, evaluate and draw everything of a profile: results/PROFILE/. Goes on where it stopped.
reproduce: $(READY)
	$(BIN)/snakemake --cores $(CORES) --config profile=$(PROFILE)

# The executed notebook of the tables, without its code, as one page: results/PROFILE/report.html
report: $(READY) $(RESULTS)/$(PROFILE)/notebooks/06_tables.ipynb
	$(BIN)/jupyter nbconvert --to html --no-input --embed-images \
		--output-dir $(RESULTS)/$(PROFILE) --output report $(lastword $^)

# Execute all notebooks in place: they are committed with what they show.
notebooks: $(READY)
	$(BIN)/python scripts/execute_notebooks.py

test: $(READY)
	$(BIN)/python -m pytest

# Random and mutated input, some 35,000 examples.
fuzz: $(READY)
	$(BIN)/python -m pytest tests/test_fuzz.py --hypothesis-profile=fuzz

# Notebook 09 in JupyterLab in Chromium; CHROMIUM=/path/to/it, or `playwright install chromium`.
browser-test: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]'
	PAPERLIB_BROWSER_TEST=1 $(BIN)/python -m pytest tests/browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/explorer.py
	$(BIN)/python benchmarks/table.py

# What was computed stays in data/ and results/.
clean:
	rm -rf $(VENV) .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
