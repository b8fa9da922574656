# moesim: everything a newcomer needs. `make demo` and `make test` create .venv by themselves.
PYTHON ?= python3
VENV   := .venv
TORCH  := .venv-capture
BIN    := $(VENV)/bin

.PHONY: demo test test-capture lint bench docs gallery demo-page clean
demo: $(VENV)/.ready
	$(BIN)/moesim demo

test: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

test-capture: $(TORCH)/.ready
	$(TORCH)/bin/pytest -n0 tests/unit/traces/test_capture*.py

lint: $(VENV)/.ready-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

docs: $(VENV)/.ready-docs
	$(BIN)/python -m sphinx -b html -W --keep-going -q -d build/doctrees docs build/docs
	@echo "wrote build/docs/index.html"

gallery: $(VENV)/.ready
	$(BIN)/python docs/_ext/gallery.py

demo-page: $(VENV)/.ready
	$(BIN)/python docs/_ext/demo.py

%/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "moesim needs Python 3.11 or newer")'
	$(PYTHON) -m venv $*

$(VENV)/.ready: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.ready-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/.ready

$(VENV)/.ready-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@ $(VENV)/.ready

$(TORCH)/.ready: pyproject.toml | $(TORCH)/bin/python
	$(TORCH)/bin/pip install --quiet --disable-pip-version-check --editable '.[test,capture]'
	touch $@

clean:
	rm -rf $(VENV) $(TORCH) build docs/_generated *.egg-info runs .mypy_cache .ruff_cache .pytest_cache
