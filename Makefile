# Every target that needs packages or .venv sets them up itself, and is safe to repeat.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check install setup lint lock clean

BIN := .venv/bin
COMMAND := /usr/local/bin/overweave
QUICK := $(wildcard tests/packets tests/unit)  # what takes long is begun first
SLOW := $(wildcard tests/vm tests/system tests/functional)

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## hosts and DPUs, two encapsulations, every pair reachable (KEEP=1 leaves the lab up)
	@.ci/setup --root
	@$(BIN)/python -m dataplane.lab.demo

test: ## everything: lint and all tests, on real servers and the lab (as root, about 20 minutes)
	@.ci/setup --root
	@$(MAKE) --no-print-directory lint
	@$(BIN)/pytest -n 2 $(QUICK)
	@$(BIN)/pytest -n 4 --no-loadscope-reorder $(SLOW)

check: ## lint, types, imports, unit and packet tests (as root, at most 60 seconds)
	@.ci/setup --root
	@$(MAKE) --no-print-directory lint
	@$(BIN)/pytest -n 2 $(QUICK)

install: ## overweave in /usr/local/bin and the CNI plugin in /opt/cni/bin, from here (as root)
	@.ci/setup
	@[ -L $(COMMAND) ] || [ ! -e $(COMMAND) ] || \
	  { echo "$(COMMAND) is no link of ours: move it away first" >&2; exit 1; }
	@$(BIN)/python -m dataplane.cni.install /opt/cni/bin
	@mkdir -p $(dir $(COMMAND)) && ln -sfn $(CURDIR)/$(BIN)/overweave $(COMMAND)
	@echo "installed $(COMMAND)"

setup: ## the Debian packages of packages.debian and .venv from requirements.lock
	@.ci/setup

lint:
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

lock: setup ## resolve the dependencies of pyproject.toml anew into requirements.lock
	@$(BIN)/uv --quiet --no-config pip compile --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' \
	  --group pyproject.toml:dev pyproject.toml --output-file requirements.lock

clean: ## remove .venv and what the tools cached in this checkout
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
