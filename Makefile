# Each target but gpu needs Python >= 3.11 and nothing else: it makes .venv once and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each: what the tests compute is too small for threads to share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo gpu test test-fast lint clean

demo: $(VENV)/.installed
	$(BIN)/python -m utils.demo

# With PYTHON where that is given, whose torch knows the card; else .venv's, else the Python here. Nothing is installed.
gpu: RUN := $(if $(and $(filter file,$(origin PYTHON)),$(wildcard $(BIN)/python)),$(BIN)/python,$(PYTHON))
gpu:
	@$(RUN) -c 'import torch' 2>/dev/null || \
		{ echo "error: $(RUN) has no torch; set PYTHON=/path/to/python, or run make test first" >&2; exit 2; }
	$(RUN) -m benchmarks.gpu

test: lint
	$(PYTEST)

test-fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python >= 3.11 is needed, $$($(PYTHON) --version) found; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .mypy_cache
