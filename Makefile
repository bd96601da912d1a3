# make demo: set-up and the main job.  make test: set-up and the tests.  make check: style, types, import rules.
# make docs: the site of README.md and docs/, in site/; without a network once it was made.
# make test-all: the slow tests too, all or by part (PART="models tasks"); an hour or two on two cores.
.PHONY: setup demo test test-all check docs bench clean
.DEFAULT_GOAL := help

# Where this is set, every process that imports torch and jax compiles them anew: ten seconds each time.
unexport PYTHONDONTWRITEBYTECODE

XP := .venv/bin/xp
# Two processes, which take groups of tests in the order of tests/conftest.py; xdist would begin with the most numerous.
PYTEST := .venv/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

help:
	@grep '^# make' Makefile | sed 's/^# //; s/  make/\nmake/g'

setup: .venv/.ready

.venv/.ready: pyproject.toml tools/setup.sh
	@bash tools/setup.sh
	@touch $@

demo: setup
	$(XP) +experiment=multi_horizon -m

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/python tools/import_circles.py
	.venv/bin/python tools/structure.py --check

test: setup check
	$(PYTEST) -m "not slow"

# Everything, or the parts that are named: make test-all PART="models tasks"
PART ?= $(notdir $(patsubst %/,%,$(sort $(dir $(wildcard tests/*/*.py)))))
test-all: setup check
	$(PYTEST) --hypothesis-profile=random $(addprefix tests/,$(PART))

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --strict

.venv/.docs: .venv/.ready
	@bash tools/setup.sh --group docs
	@touch $@

bench: setup
	for b in startup raycast loader step_overhead octo; do .venv/bin/python benchmarks/$$b.py || exit 1; done

clean:
	rm -rf .venv .tools site .pytest_cache .ruff_cache .hypothesis
