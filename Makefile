# One command for each thing a person does.
.DEFAULT_GOAL := help
.PHONY: help setup engine lint unit integration soak bench packages versions molecule test test-all demo screenshots destroy dist readme
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

SCENARIO ?= default recovery_conf
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
COLLECTION := .ansible/collections/ansible_collections/walbasin/barman
INVENTORY := molecule/shared/inventory
PACKAGES := postgresql openssh-server gnupg zstd lz4 chromium

# Tests wait more than they compute.
SIDE_BY_SIDE := --numprocesses 4

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.ansible/collections
# Of the lab's hosts: 11, 12 or 13.
export DEBIAN ?= 12
export MOLECULE_GLOB := molecule/*/molecule.yml

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: .venv/.ready $(COLLECTION) ## the virtual environment with the pinned tools
.venv/.ready: requirements-dev.txt requirements-barman.txt
	@echo "preparing the virtual environment in .venv"
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-barman.txt
	@touch $@
$(COLLECTION):
	@mkdir -p $(@D)
	@ln -sfn $(CURDIR) $@

lint: setup .cache/promtool ## all linters
	@ruff format --check --quiet && ruff check --quiet
	@mypy files/walbasin tests molecule/shared/callback_plugins molecule/screenshots console fabfile.py
	@yamllint --strict .
	@ansible-lint --offline -q
	@.cache/promtool check rules files/monitoring/alerts.yml >/dev/null
	@.cache/promtool test rules tests/unit/alerts.yml >/dev/null
# Prometheus's own judge of rules, without the server.
.cache/promtool:
	@echo "fetching promtool"
	@mkdir -p .cache/prometheus && cd .cache/prometheus && { apt-get download -qq prometheus 2>/dev/null || { \
	    $(SUDO) apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg-deb -x prometheus_*.deb .
	@mv .cache/prometheus/usr/bin/promtool $@ && rm -r .cache/prometheus

unit: setup ## unit tests
	@pytest tests/unit $(SIDE_BY_SIDE)

# Real servers on this machine, from Debian's packages and npm's.
integration: setup packages versions ## integration tests: a real sshd, PostgreSQL and Barman on loopback
	@pytest tests/integration $(SIDE_BY_SIDE)

soak: setup packages ## a standby that lives on Barman alone, with random faults; MINUTES=30
	@MINUTES=$(or $(MINUTES),30) pytest tests/integration/test_soak.py -m soak -rP

bench: .venv/.bench packages ## how long PostgreSQL waits for WAL: ours, Barman's own client, pgBackRest, cp; QUICK=1
	@command -v pgbackrest >/dev/null || { \
	    echo "installing pgbackrest"; \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq pgbackrest >/dev/null; }
	@python -m tests.bench $(if $(QUICK),--rounds 1 --segments 16,--readme)
.venv/.bench: requirements-bench.txt | setup
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-warn-conflicts --requirement requirements-bench.txt
	@touch $@

packages:
	@ls /usr/sbin/sshd /usr/bin/{gpg,zstd,lz4,chromium} /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
	    echo "installing $(PACKAGES)"; \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null; }

# PostgreSQL 10 to 18, which no Debian has side by side.
versions: .cache/postgresql/.ready
.cache/postgresql/.ready: tests/integration/package.json
	@echo "fetching PostgreSQL 10 to 18"
	@command -v npm >/dev/null || { \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null; }
	@mkdir -p $(@D) && cp $< $(@D)
	@npm install --prefix $(@D) --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel error
	@for package in $(@D)/node_modules/postgresql-*; do (cd $$package && node scripts/hydrate-symlinks.js) || exit; done
	@touch $@

test-all: packages versions ## all that make test does, faults, day two, the lab with Debian 11 and 13, every size of segments with every PostgreSQL
	@$(MAKE) molecule SCENARIO="faults day_two day_two_recovery_conf"
	@$(MAKE) molecule SCENARIO=default DEBIAN=11
	@$(MAKE) molecule SCENARIO=default DEBIAN=13
	@pytest -m matrix $(SIDE_BY_SIDE)
	@$(MAKE) test

# pytest comes last, so that its summary is the last thing that is printed.
test: lint molecule packages versions ## everything that has to pass
	@pytest $(SIDE_BY_SIDE)

dist: dist/barman-wal-restore dist/barman-wal-gate ## each program as one executable file
dist/%: files/% $(wildcard files/walbasin/*.py)
	@rm -rf .cache/dist && mkdir -p .cache/dist dist
	@cp -r files/walbasin .cache/dist/ && rm -rf .cache/dist/walbasin/__pycache__
	@echo 'import runpy; runpy.run_module("walbasin", run_name="__main__")' >.cache/dist/__main__.py
	@python3 -m zipapp --compress --output .cache/$*.pyz .cache/dist
	@cat $< .cache/$*.pyz >$@ && chmod 755 $@

readme: setup ## write the README's table of role variables
	@python -m tests.readme

engine: ## a container engine and the lab's image
	@molecule/shared/engine

# Molecule calls a missing playbook "missing" and succeeds all the same.
molecule: setup engine versions ## the lab's scenarios, or one: make molecule SCENARIO=default DEBIAN=13
	@set -o pipefail; for scenario in $(SCENARIO); do \
	    log=.cache/molecule-$$scenario-$(DEBIAN).log; \
	    molecule test --scenario-name $$scenario 2>&1 | tee $$log && ! grep -E 'missing=[^0]' $$log || exit 1; \
	done

demo: setup engine ## the story of two outages; KEEP=1 keeps the lab
	@KEEP=$(KEEP) molecule/shared/demo

screenshots: packages ## draw the README's pictures of the console, in the lab
	@$(MAKE) molecule SCENARIO=screenshots

destroy: ## remove the lab that KEEP=1 left behind
	@ansible-playbook --inventory molecule/shared/inventory molecule/shared/destroy.yml
