# Everything here works in a fresh clone: each target makes the environment that it needs, in .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
# `make test ARGS="-k copy_up -x"`; with ARGS="-n 0 --pdb" one after the other
ARGS ?=
# The tests wait more than they compute. Those of one xdist_group share something that is slow to make.
TESTS := tools/run-tests -n 2 --dist loadgroup --benchmark-disable

.PHONY: help venv demo test-packages test test-long bench bench-check bench-compare check clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST)

venv: $(VENV)/.made  ## the environment: system packages, .venv with the package and its tools

$(VENV)/.made: pyproject.toml unionfs/__init__.py tools/system-packages tools/find-python
	@PYTHON=$$(tools/find-python) tools/system-packages
	@tools/make-venv $(VENV)
	@touch $@

$(VENV)/.bench: $(VENV)/.made
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

demo: $(VENV)/.made  ## see copy-on-write at work on a real mount
	@$(VENV)/bin/python demo/run.py

test-packages: $(VENV)/.made
	@PYTHON=$(VENV)/bin/python tools/system-packages test

test: test-packages  ## the tests, in under ten minutes
	$(TESTS) -m "not long" $(ARGS)

test-long: test-packages  ## the tests that take longer, too
	$(TESTS) $(ARGS)

bench: $(VENV)/.made  ## micro benchmarks: the wire format, lookup, copy-up, …
	$(VENV)/bin/python -m pytest bench/micro $(ARGS)

bench-check: $(VENV)/.made  ## have they become slower than the saved medians?
	$(VENV)/bin/python -m bench.check $(ARGS)

bench-compare: $(VENV)/.bench  ## whole mounts, against the kernel's overlay and what else is installed (root, 25 minutes)
	$(VENV)/bin/python -m bench.compare $(ARGS)

check: $(VENV)/.made  ## ruff, and mypy in strict mode
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:  ## remove what the targets above made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
