# `make` lists the targets. Each sets itself up: Python 3.11 or newer and make are all that it needs.

PYTHON      ?=
SIM_SECONDS ?= 120
SEED        ?=
SEEDS       ?= $(if $(SEED),1,1000)
MIX         ?=
ARGS        ?=
URL         ?=
SECONDS     ?=
TIMES       ?=
KILLS       ?=
COVERAGE    ?= 100
DATABASE    ?=
CACHE       ?=
PORT        ?= 8000
WORKERS     ?= 3

VENV      := .venv
BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
INSTALLED := $(VENV)/.installed
CORE      := src/unstale/core

NEW_ENOUGH := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

SHELL       := /bin/sh
MAKEFLAGS   += --no-print-directory
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo demo-redis shop services test sim-ci sim soak torture torture-behind own-writes lint format bench bench-redis bench-outbox bench-capture bench-django bench-behind bench-shop docs clean

help: ## list the targets and their variables
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=/path/to/python3.12 chooses the interpreter; else the first of python3.11 to python3.14, python3."

setup: $(INSTALLED) ## make .venv and install the package with what its tests need

demo: $(INSTALLED) ## the same work without a cache, with two common kinds, and with this one [URL=...] [ARGS=...]
	@$(BIN)/unstale demo $(if $(URL),--url "$(URL)") $(ARGS)

demo-redis: $(INSTALLED) ## the same on a Redis of its own, which is gone afterwards [ARGS=...]
	@$(BIN)/python examples/private_redis.py $(BIN)/unstale demo --url {url} $(ARGS)

shop: $(INSTALLED) ## the example application, on http://127.0.0.1:8000 [DATABASE=...] [CACHE=...] [PORT=8000] [WORKERS=3]
	@PYTHONPATH="examples$${PYTHONPATH:+:$$PYTHONPATH}" exec $(BIN)/python -m shop --port $(PORT) --workers $(WORKERS) \
		$(if $(DATABASE),--database "$(DATABASE)") $(if $(CACHE),--cache "$(CACHE)")

services: ## install the servers and programs that the tests need, with apt
	@missing=""; \
	for pair in redis-server:redis-server redis-cli:redis-tools openssl:openssl psql:postgresql mariadb-install-db:mariadb-server node:nodejs npm:npm gcc:build-essential; do \
		command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair#*:}"; \
	done; \
	if [ -z "$$missing" ]; then echo "All there: redis-server, redis-cli, openssl, psql, mariadb, node, npm, gcc."; exit 0; fi; \
	as=""; [ "$$(id -u)" = 0 ] || as="sudo"; \
	if ! command -v apt-get >/dev/null; then echo "Install these by hand:$$missing"; exit 1; fi; \
	if [ -n "$$as" ] && ! sudo -n true 2>/dev/null; then \
		echo "Run: sudo apt-get install --no-install-recommends$$missing"; exit 1; \
	fi; \
	$$as apt-get update -q && $$as apt-get install -q -y --no-install-recommends$$missing

test: $(INSTALLED) ## all tests, branch coverage of the core, the simulator [SIM_SECONDS=120, 0: without]
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m tests.halves
	@$(BIN)/python -m coverage combine --quiet
	@echo "Branch coverage of $(CORE), which must be $(COVERAGE) %:"
	@$(BIN)/python -m coverage report --include='$(CORE)/*' --fail-under=$(COVERAGE) \
		|| { echo "Cover the lines and branches named above, or take them out."; exit 1; }
	@$(MAKE) sim-ci

sim-ci: $(INSTALLED)
	@if [ "$(SIM_SECONDS)" != 0 ]; then $(BIN)/python -m unstale.testing.sim --seconds $(SIM_SECONDS); fi

sim: $(INSTALLED) ## simulate many random schedules, or replay one [SEEDS=1000] [SEED=7] [MIX=name]
	@$(BIN)/python -m unstale.testing.sim --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) $(if $(MIX),--mix "$(MIX)")

soak: $(INSTALLED) ## work for an hour: nothing grows, nothing is stale beyond the bound [SECONDS=3600] [URL=...]
	@$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),3600) $(if $(URL),--url "$(URL)")

torture: $(INSTALLED) ## torture the sources of truth: nothing is stale beyond the bound [SECONDS=60] [URL=...] [ARGS=...]
	@$(BIN)/python -m tests.torture --seconds $(or $(SECONDS),60) $(if $(URL),--url "$(URL)") $(ARGS)

own-writes: $(INSTALLED) ## read one's own writes through other workers while the replica lags [TIMES=10000] [URL=...]
	@$(BIN)/python -m tests.own_writes --times $(or $(TIMES),10000) $(if $(URL),--url "$(URL)")

torture-behind: $(INSTALLED) ## kill the processes of a write-behind: nothing is lost or doubled [KILLS=200] [ARGS=...]
	@$(BIN)/python -m tests.torture_behind --kills $(or $(KILLS),200) $(ARGS)

lint: $(INSTALLED) ## formatting, ruff, mypy --strict
	@$(BIN)/python -m ruff format --check --quiet . || { echo "Run 'make format'."; exit 1; }
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy src tests $(wildcard benchmarks)

format: $(INSTALLED) ## format the code and apply ruff's safe fixes
	@$(BIN)/python -m ruff check --fix-only --quiet .
	@$(BIN)/python -m ruff format .

bench: $(VENV)/.installed-bench ## measure against other caches, in one run [ARGS=...]
	@$(BIN)/python -m benchmarks.run $(ARGS)

bench-redis: $(VENV)/.installed-bench ## measure the Redis engine, on private servers of its own [ARGS=...]
	@$(BIN)/python -m benchmarks.run --only redis $(ARGS)

bench-outbox: $(VENV)/.installed-bench ## measure the outbox, on private servers of its own [ARGS=...]
	@$(BIN)/python -m benchmarks.run --only outbox $(ARGS)

bench-capture: $(VENV)/.installed-bench ## measure change capture, on private servers of its own [ARGS=...]
	@$(BIN)/python -m benchmarks.run --only capture $(ARGS)

bench-django: $(VENV)/.installed-bench ## measure Django's backends, on a private Redis [ARGS=...]
	@$(BIN)/python -m benchmarks.run --only django $(ARGS)

bench-behind: $(VENV)/.installed-bench ## measure write-behind, on files and a private Redis [ARGS=...]
	@$(BIN)/python -m benchmarks.run --only behind $(ARGS)

bench-shop: $(VENV)/.installed-bench ## measure the example application with and without a cache [ARGS=...]
	@$(BIN)/python -m benchmarks.run --only shop $(ARGS)

docs: $(VENV)/.installed-docs ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Built: site/index.html"

clean: ## remove .venv and all that the targets wrote
	@rm -rf $(VENV) .shop site build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed anew when pyproject.toml changes; the code itself is linked, not copied.
$(INSTALLED): pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		for candidate in python3.11 python3.12 python3.13 python3.14 python3; do \
			if "$$candidate" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
		done; \
	fi; \
	if [ -z "$$python" ]; then \
		echo "unstale needs Python 3.11 to 3.14, and none was found. Install one (Debian, Ubuntu:" >&2; \
		echo "'apt install python3 python3-venv') or name yours: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -c '$(NEW_ENOUGH)'; then \
		echo "unstale needs Python 3.11 to 3.14; $$python is not." >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
		version=$$("$$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
		echo "$$python cannot make virtual environments. On Debian and Ubuntu: apt install $$version-venv" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "Making $(VENV) with $$("$$python" --version) ..."; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo "Installing unstale and what its tests need into $(VENV) ..."
	@$(PIP) install --editable '.[cli,dev]'
	@touch $@

$(VENV)/.installed-%: $(INSTALLED)
	@echo "Installing what 'make $*' needs ..."
	@$(PIP) install --editable '.[$*]'
	@touch $@
