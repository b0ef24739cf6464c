# One command for each thing a person does.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

SCENARIO ?= default
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
COLLECTION := .ansible/collections/ansible_collections/walbasin/barman
INVENTORY := molecule/shared/inventory
TOOLS := shellcheck bzip2 lz4 mount xz-utils zstd
PACKAGES := postgresql openssh-server file gnupg zstd lz4 rsync chromium
LINTERS := lint-ansible lint-collection lint-python lint-shell lint-alerts
SHELL_FILES := files/barman-wal-restore files/barman-wal-gate molecule/shared/engine molecule/shared/demo tests/bare-debian tests/ansible-cores

UNIT := tests/unit files/walbasin --doctest-modules
# Tests wait more than they compute; unit tests less so.
SIDE_BY_SIDE := --numprocesses 4
# Some modules run ansible-playbook once for all their tests.
BY_MODULE := --numprocesses 3 --dist loadfile

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.ansible/collections
# Of the lab's hosts: 11, 12 or 13.
export DEBIAN ?= 12
export MOLECULE_GLOB := molecule/*/molecule.yml

# What a tool says goes to .cache/NAME.log. It is shown only when the tool fails.
quietly = mkdir -p .cache && ($(2)) >.cache/$(1).log 2>&1 || { cat .cache/$(1).log >&2; exit 1; }
# Debian's packages. Where there is no apt-get, the reader is told what to install.
apt = echo "installing $(1)"; command -v apt-get >/dev/null || { echo "This machine has no apt-get: install $(1) yourself." >&2; exit 1; }; \
    $(call quietly,apt,$(SUDO) apt-get update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes $(2) $(1))
pip = $(call quietly,pip,.venv/bin/pip install --disable-pip-version-check $(1))

.PHONY: help setup engine check lint $(LINTERS) unit coverage integration soak bench packages tools versions molecule test \
    test-all bare ansible-cores demo screenshots destroy dist docs changelog

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: .venv/.ready $(COLLECTION) ## the virtual environment with the pinned tools
# Debian keeps what venv needs, and ssh, in packages of their own.
.venv/.ready: requirements-dev.txt requirements-barman.txt
	@python3 -c 'import ensurepip' 2>/dev/null || { $(call apt,python3-venv); }
	@command -v ssh-keygen >/dev/null || { $(call apt,openssh-client); }
	@echo "preparing the virtual environment in .venv"
	@$(call quietly,venv,python3 -m venv .venv)
	@$(call pip,--requirement requirements-dev.txt)
	@$(call pip,--no-deps --requirement requirements-barman.txt)
	@touch $@
$(COLLECTION):
	@mkdir -p $(@D)
	@ln -sfn $(CURDIR) $@

check: setup tools ## before each commit, in a minute: linters and unit tests, without the slow ones of the role
	@$(MAKE) --jobs=2 --output-sync=target unit lint-python lint-shell lint-alerts UNIT="$(UNIT) --ignore tests/unit/test_role_refusals.py"

lint: setup tools ## all linters
	@$(MAKE) --jobs=2 --output-sync=target $(LINTERS)

lint-python:
	@ruff format --check --quiet
	@ruff check --quiet
	@mypy files/walbasin tests molecule/shared/callback_plugins molecule/screenshots console fabfile.py
	@# Used only where Python has them.
	@vermin --quiet --no-tips --target=3.8- --violations --exclude os.pidfd_open --exclude os.splice files roles/standby/files
	@yamllint --strict .
	@git ls-files -z | xargs -0 codespell

lint-shell:
	@for file in $(SHELL_FILES); do dash -n $$file || exit; done
	@shellcheck $(SHELL_FILES) .ci/run

lint-ansible:
	@$(NICE) ansible-lint --offline -q

lint-alerts:
	@.cache/promtool check rules files/monitoring/alerts.yml >/dev/null
	@.cache/promtool test rules tests/unit/alerts.yml >/dev/null

# What users install is the tarball. ansible-test wants it outside of a git work tree.
# The tests that are skipped fetch tools of their own from the internet;
# antsibull-changelog, ruff and yamllint look at the same.
lint-collection:
	@antsibull-docs lint-collection-docs --plugin-docs .
	@antsibull-changelog lint
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && export ANSIBLE_COLLECTIONS_PATH=$$folder && \
	$(call quietly,collection,set -ex; \
	    ansible-galaxy collection build --output-path $$folder .; \
	    ansible-galaxy collection install --offline --collections-path $$folder $$folder/*.tar.gz; \
	    cd $$folder/ansible_collections/walbasin/barman; \
	    ansible-doc --type role walbasin.barman.standby | cat; \
	    ansible-playbook --syntax-check --inventory localhost$(,) playbooks/*.yml; \
	    ansible-test sanity --python $$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
	        --skip-test changelog --skip-test pep8 --skip-test pylint --skip-test runtime-metadata --skip-test yamllint)
, := ,

tools: .cache/promtool
	@ls /usr/bin/{shellcheck,bzip2,lz4,mount,xz,zstd} >/dev/null 2>&1 || { $(call apt,$(TOOLS)); }
# Prometheus's own judge of rules, without the server. From Debian 13 on it has a
# package of its own.
.cache/promtool:
	@echo "fetching promtool"
	@mkdir -p .cache/prometheus
	@$(call quietly,promtool,cd .cache/prometheus && download() { apt-get download promtool || apt-get download prometheus; } && \
	    { download || { $(SUDO) apt-get update && download; }; } && dpkg-deb -x prom*.deb .)
	@mv .cache/prometheus/usr/bin/promtool $@ && rm -r .cache/prometheus

unit: setup tools ## unit tests
	@$(NICE) pytest $(UNIT) $(BY_MODULE)

coverage: setup tools ## which lines the unit tests reach
	@pytest $(UNIT) $(BY_MODULE) --cov --cov-report=term

# Real servers on this machine, from Debian's packages and npm's.
integration: setup packages versions ## integration tests: a real sshd, PostgreSQL and Barman on loopback
	@pytest tests/integration $(SIDE_BY_SIDE)

soak: setup packages ## a standby that lives on Barman alone, with random faults; MINUTES=30
	@MINUTES=$(or $(MINUTES),30) pytest tests/integration/test_soak.py -m soak -rP

bench: .venv/.bench packages ## how long PostgreSQL waits for WAL: ours, Barman's own client, pgBackRest, cp; QUICK=1
	@command -v pgbackrest >/dev/null || { $(call apt,pgbackrest); }
	@python -m tests.bench $(if $(QUICK),--rounds 1 --segments 16,--docs)
.venv/.bench: requirements-bench.txt | setup
	@$(call pip,--requirement requirements-bench.txt)
	@touch $@

packages:
	@ls /usr/sbin/sshd /usr/bin/{file,gpg,zstd,lz4,rsync,chromium} /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { $(call apt,$(PACKAGES)); }

# PostgreSQL 10 to 18, which no Debian has side by side.
versions: .cache/postgresql/.ready
.cache/postgresql/.ready: tests/integration/package.json
	@command -v npm >/dev/null || { $(call apt,npm,--no-install-recommends); }
	@echo "fetching PostgreSQL 10 to 18"
	@mkdir -p $(@D) && cp $< $(@D)
	@$(call quietly,npm,npm install --prefix $(@D) --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel error)
	@for package in $(@D)/node_modules/postgresql-*; do (cd $$package && node scripts/hydrate-symlinks.js) || exit; done
	@touch $@

test-all: packages versions ## all that make test does, and what takes longer: fresh machines, each ansible-core, every scenario of the lab, Debian 11 and 13, the benchmark
	@$(MAKE) bare
	@$(MAKE) bench QUICK=1
	@$(MAKE) ansible-cores
	@$(MAKE) molecule SCENARIO="recovery_conf two_barmans rebuild rebuild_newest faults day_two day_two_recovery_conf patroni"
	@$(MAKE) molecule SCENARIO=default DEBIAN=11
	@$(MAKE) molecule SCENARIO="default rebuild patroni" DEBIAN=13
	@pytest -m matrix $(SIDE_BY_SIDE)
	@$(MAKE) test

# The lab waits, linters and unit tests compute: one beside the other. The integration
# tests measure time, so they run alone, and last, so that their summary is the last
# thing that is printed. The engine is there: the lab, which takes longest, begins at
# once, and comes first.
test: setup tools engine packages versions ## everything that has to pass
	@$(MAKE) --jobs=3 --output-sync=line --old-file=engine NICE=nice molecule unit $(LINTERS)
	@pytest tests/integration $(SIDE_BY_SIDE)

bare: setup ## setup, lint and unit tests on a Debian 12 and a 13 that have git, make and python3, and no more
	@for debian in 12 13; do \
	    $(MAKE) engine DEBIAN=$$debian && echo "on a bare Debian $$debian:" && \
	    tests/bare-debian $$debian 'apt-get install --yes git make python3 >/dev/null && git init --quiet && git add . && make lint unit' || exit; \
	done

ansible-cores: setup ## deploy, check, verify and remove with every ansible-core that is promised, in the lab
	@$(MAKE) engine DEBIAN=13 && $(MAKE) engine DEBIAN=12 && tests/ansible-cores

dist: dist/barman-wal-restore dist/barman-wal-gate ## each program as one executable file
dist/%: files/% $(wildcard files/walbasin/*.py files/walbasin/*/*.py)
	@rm -rf .cache/dist && mkdir -p .cache/dist dist
	@cp -r files/walbasin .cache/dist/ && find .cache/dist -name __pycache__ -prune -exec rm -r {} +
	@echo 'import runpy; runpy.run_module("walbasin", run_name="__main__")' >.cache/dist/__main__.py
	@python3 -m zipapp --compress --output .cache/$*.pyz .cache/dist
	@cat $< .cache/$*.pyz >$@ && chmod 755 $@

docs: setup ## write docs/role-variables.md
	@python -m tests.docs

changelog: setup ## write CHANGELOG.md from changelogs/fragments
	@antsibull-changelog release --update-existing --refresh-fragments

engine: ## a container engine and the lab's image
	@molecule/shared/engine

molecule: $(addprefix lab-,$(SCENARIO)) ## the lab's scenarios, or one: make molecule SCENARIO=default DEBIAN=13
# Molecule calls a missing playbook "missing" and succeeds all the same.
lab-%: setup engine versions
	@set -o pipefail; log=.cache/molecule-$*-$(DEBIAN).log; \
	    molecule test --scenario-name $* 2>&1 | tee $$log && ! grep -E 'missing=[^0]' $$log

demo: setup engine ## the story of two outages; KEEP=1 keeps the lab; PATRONI=1: of a cluster that leads itself
	@KEEP=$(KEEP) PATRONI=$(PATRONI) molecule/shared/demo

screenshots: packages ## draw the pictures of the console in docs/, in the lab
	@$(MAKE) molecule SCENARIO=screenshots

destroy: ## remove the lab that KEEP=1 left behind; PATRONI=1: that one
	@ansible-playbook --inventory molecule/shared/inventory $(if $(PATRONI),--inventory molecule/patroni/inventory) molecule/shared/destroy.yml
