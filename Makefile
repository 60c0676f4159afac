PYTHON ?= python3
SEED ?= 1
RUN_DIR ?= runs/mt3-seed$(SEED)
# Further flags of mtrl train.
FLAGS ?=
VENV := .venv
STAMP := $(VENV)/installed
DOCS_STAMP := $(VENV)/installed-docs

.PHONY: train test slow full docs clean

# Trains anew each time: a run in RUN_DIR is replaced.
train: $(STAMP)
	$(VENV)/bin/mtrl train --suite mt3 --seed $(SEED) --run-dir "$(RUN_DIR)" --overwrite $(FLAGS)

test: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n auto

# The tests that take many seconds each: trainings, sweeps, kills of whole runs.
slow: $(STAMP)
	$(VENV)/bin/python -m pytest -n auto --slow -m slow

# All tests, and the full-size forms of tests: kill sweeps, fuzzing, whole episodes. Takes hours.
full: $(STAMP)
	$(VENV)/bin/python -m pytest -n auto --full

# The site in build/site; a broken link is an error. Pages keep their paths, so that links hold on a code host too.
docs: $(DOCS_STAMP)
	rm -rf build/pages && mkdir -p build/pages/benchmarks
	cp -R README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs build/pages
	cp -R benchmarks/results build/pages/benchmarks
	$(VENV)/bin/zensical build --clean --strict

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "Python 3.11 to 3.13 is needed; choose one with PYTHON=..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian, apt-get install python3-venv"; exit 2; }
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(DOCS_STAMP)

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache
