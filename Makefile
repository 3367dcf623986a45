# The README's two commands are `make demo` and `make test`; each sets up what it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test check static bench clean

help:
	@echo "make demo     the whole job on a real model, about five minutes; leaves runs/demo/report.html"
	@echo "make test     static checks and all tests"
	@echo "make check    ruff, types, import directions, fast tests"
	@echo "make install  the environment alone, demo model included"
	@echo "make bench    speed and quality tables of benchmarks/ (long)"

.venv/demo.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say which: make PYTHON=python3.11 …")'
	@echo "installing into .venv; the first time takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --editable ".[demo]"
	@touch $@

# curvlinops and its backpack ask for torchvision, which has no build for this torch without CUDA and breaks
# transformers' import; neither needs it for what the tests use, so they come without their own requirements.
.venv/dev.stamp: .venv/demo.stamp
	@$(PIP) --editable ".[demo,data,images,track,search,ray,quantised,dev]"
	@$(PIP) --no-deps curvlinops-for-pytorch backpack-for-pytorch
	@touch $@

install: .venv/demo.stamp

demo: .venv/demo.stamp
	@$(BIN)/layerlens demo

static: .venv/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: static
	@$(BIN)/python -m pytest -n 2 --dist worksteal

check: static
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/unit

# A peer that is measured beside the profile; it asks for no more than is there.
.venv/bench.stamp: .venv/dev.stamp
	@$(PIP) --no-deps uni-layer
	@touch $@

bench: .venv/bench.stamp
	@for suite in planning profile_speed startup stability; do $(BIN)/python benchmarks/$$suite.py || exit 1; done
	@$(BIN)/python benchmarks/memory.py --shapes bert-base --modes stream,memory --peers --max-memory 700MB

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
