# Everything starts here: `make run` needs Python 3.11 or newer and make, nothing else. `make help` lists the rest.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
STAMP_RUN := $(VENV)/.installed-run
STAMP_DEV := $(VENV)/.installed-dev
EXPLORER := transport/static/explorer/manifest.json
EXPLORER_SOURCES := $(shell find web/explorer -name node_modules -prune -o -type f -print 2>/dev/null)
UNTIMED := tests/acceptance/test_cli.py tests/acceptance/test_fuzz.py
PATIENT := $(patsubst %,tests/acceptance/test_%.py,chaos deliveries_chaos audiences_chaos workflows_chaos import \
	explorer_browser compose_proxy sse_forwarding websocket_fuzz deliveries_run deliveries_stopping)
LOCK := uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header
.DEFAULT_GOAL := help
.PHONY: run test check bench explorer lock help

# the providers on this machine need a mail server's library that nothing else needs
run: $(if $(SENDORA_FAKE_PROVIDERS),$(STAMP_DEV),$(STAMP_RUN)) $(EXPLORER)  ## start everything on this machine (PORT, SENDORA_DATA_DIR)
	@exec $(BIN)/python cli.py run

# what is tried from outside measures times, and so has the machine for itself; but for what measures none, and for what
# mostly waits
test: $(STAMP_DEV) $(EXPLORER)  ## the whole suite, on a PostgreSQL and a Valkey of its own
	@$(BIN)/python -m pytest -n auto tests/unit tests/integration tests/migration $(UNTIMED)
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(PATIENT)
	@$(BIN)/python -m pytest tests/acceptance $(addprefix --ignore=,$(UNTIMED) $(PATIENT))

check: $(STAMP_DEV)  ## linters, types, import rules, locks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/locks.py

bench: $(STAMP_DEV)  ## the benchmarks, beside their peers
	@for name in fan_out append batch latency idle webhooks push replay workflows funnels trends audiences request_checks; do $(BIN)/python -m benchmarks.$$name || exit 1; done

explorer:  ## build GraphiQL anew (needs Node 20 or newer)
	cd web/explorer && npm ci && npm run build

lock: $(STAMP_DEV)  ## resolve pyproject.toml into both lock files (needs uv)
	$(LOCK) --output-file requirements.lock pyproject.toml
	$(LOCK) --output-file requirements-dev.lock --extra dev pyproject.toml

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

$(BIN)/python:
	@test -n "$(PYTHON)" || \
		{ echo "Python 3.11 or newer is needed: install it, or name it: make run PYTHON=/path/to/python3"; exit 2; }
	@echo "Making $(VENV) ..."
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv"; exit 2; }

$(STAMP_RUN): requirements.lock | $(BIN)/python
	@echo "Installing what requirements.lock names (once) ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(STAMP_DEV): requirements-dev.lock | $(BIN)/python
	@echo "Installing what requirements-dev.lock names (once) ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@ $(STAMP_RUN)

# Never fails: without Node, or without the npm registry, the page itself says what it lacks.
$(EXPLORER): $(EXPLORER_SOURCES)
	@if command -v npm >/dev/null 2>&1; then \
		echo "Building GraphiQL (once) ..."; \
		(cd web/explorer && npm ci --silent --fetch-retries=0 && npm run --silent build) >/dev/null 2>&1 || \
			echo "GraphiQL was not built; everything else works. To see why: make explorer"; \
	fi
