# One command for each thing a person does.
.DEFAULT_GOAL := help
.PHONY: help setup engine lint unit integration molecule test demo destroy dist
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

SCENARIO ?= default
COLLECTION := .ansible/collections/ansible_collections/walbasin/barman
INVENTORY := molecule/shared/inventory

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.ansible/collections
export MOLECULE_GLOB := molecule/*/molecule.yml

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: .venv/.ready $(COLLECTION) ## the virtual environment with the pinned tools
.venv/.ready: requirements-dev.txt
	@echo "preparing the virtual environment in .venv"
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@
$(COLLECTION):
	@mkdir -p $(@D)
	@ln -sfn $(CURDIR) $@

engine: ## a container engine and the lab's image
	@molecule/shared/engine

# Molecule calls a missing playbook "missing" and succeeds all the same.
molecule: setup engine ## one Molecule scenario: make molecule SCENARIO=default
	@mkdir -p .cache
	@set -o pipefail; molecule test --scenario-name $(SCENARIO) 2>&1 | tee .cache/molecule-$(SCENARIO).log
	@! grep -E 'missing=[^0]' .cache/molecule-$(SCENARIO).log

demo: setup engine ## the story of two outages; KEEP=1 keeps the lab
	@KEEP=$(KEEP) molecule/shared/demo

destroy: ## remove the lab that KEEP=1 left behind
	@ansible-playbook --inventory molecule/shared/inventory molecule/shared/destroy.yml
