# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# What is tested is the built wheel, unpacked here: it is what users get, and from the root Python would find half a package.
INSTALLED := build/installed
SOURCES := $(shell git ls-files '*.py' icf_deploy/data 2>/dev/null)

.PHONY: help env test lint types unit demo bench wheel clean

help:
	@echo "make demo   set up, colour real photos, show tables and pictures (demo/)"
	@echo "make test   set up, lint, type-check, test"
	@echo "make bench  set up, run the benchmark suites"
	@echo "make clean  remove what the others made"

env: $(VENV)/.ready
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

wheel: $(INSTALLED)/.ready
$(INSTALLED)/.ready: $(VENV)/.ready $(SOURCES) README.md LICENSE
	@rm -rf build/lib build/bdist.* build/wheel $(INSTALLED)
	$(BIN)/python -m pip wheel --quiet . --no-deps --no-build-isolation -w build/wheel
	$(BIN)/python -m zipfile -e build/wheel/*.whl $(INSTALLED)
	@touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)/.ready
	cd build && PYTHONSAFEPATH=1 MYPYPATH=$(CURDIR)/$(INSTALLED) $(CURDIR)/$(BIN)/python -m mypy --strict --config-file $(CURDIR)/pyproject.toml -p icf_deploy

# Most tests run side by side, a file in one process; those that time something come after them, with nothing beside them.
PYTEST = cd build && PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(INSTALLED) $(CURDIR)/$(BIN)/python -m pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(CURDIR)/tests
unit: $(INSTALLED)/.ready
	$(PYTEST) -m "not timing" -n $(WORKERS) --dist loadfile
	$(PYTEST) -m timing

test: lint types unit

demo: $(VENV)/.ready
	$(BIN)/python scripts/demo.py

bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt nncf # a peer
	$(BIN)/python scripts/bench.py

clean:
	rm -rf build demo .mypy_cache .ruff_cache .pytest_cache
