# The menu of everyday commands. make and git are all that has to be there first (Debian: apt-get install make git);
# each command does its own set-up, and what a command does stands in tox.ini.

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

LAB ?= bookinfo-egress
DRIVER ?= netns
ENGINE ?=
SCENARIO ?=
# The recipes read these from the environment, so that a quote or a blank in a value needs no care.
export LAB DRIVER ENGINE SCENARIO

TOX := .venv/bin/tox -q run

.PHONY: help setup lab test test-k3d lint prove bench clean

help:
	@echo 'make lab      stand a lab up, run its scenarios, print each flow with its verdict, take it down'
	@echo '              LAB=$(LAB) DRIVER=$(DRIVER) ENGINE=$(ENGINE) SCENARIO=$(SCENARIO)  choose what runs'
	@echo 'make test     every test: unit, live and the scenarios'
	@echo 'make test-k3d a lab on a real cluster of k3d; needs k3d, Docker and images (docs/k3d.md)'
	@echo 'make lint     style and types'
	@echo 'make prove    the long proofs (repetition, fuzzing, soak)'
	@echo 'make bench    the measurements of speed'
	@echo 'make clean    remove what set-up and runs made in this folder'
	@echo
	@echo 'Each of them first sets up what is missing (.ci/setup); the first time takes some minutes.'

test prove: SETUP_FOR = for-tests
setup:
	@.ci/setup $(SETUP_FOR)

lab: setup
	@.venv/bin/egresslab test -v --lab "$$LAB" $${DRIVER:+--driver "$$DRIVER"} $${ENGINE:+--engine "$$ENGINE"} \
	    $${SCENARIO:+-k "$$SCENARIO"}

test: setup
	@$(TOX) -e unit,live,docker

test-k3d: setup
	@$(TOX) -e k3d

lint: setup
	@$(TOX) -e lint

prove: setup
	@$(TOX) -e prove

bench: setup
	@$(TOX) -e bench

clean:
	rm -rf .venv .tox .tools out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
