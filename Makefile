PYTHON ?= python3
BIN := .venv/bin
INSTALL := pip install --quiet --disable-pip-version-check
NOT_LONG := -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

.PHONY: demo test test-all test-oldest test-newest bench reproduce wheels

demo: .venv/done
	$(BIN)/python -m zoo.demo out

# Two processes of one thread: these networks are too small for threads, which wait for one another instead.
test: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python $(NOT_LONG)

# The rest: the authors' code beside ours, two processes, kills, fuzz.
test-all: .venv/done-all test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

# The tests of `make test` on the lower bounds that pyproject.toml states.
test-oldest: .venv-oldest/done
	OMP_NUM_THREADS=1 .venv-oldest/bin/python $(NOT_LONG)

# And on what is newest today, above the upper bounds too.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/$(INSTALL) -e '.[test]'
	.venv-newest/bin/$(INSTALL) --upgrade --pre lightning pytorch-lightning torchmetrics
	OMP_NUM_THREADS=1 .venv-newest/bin/python $(NOT_LONG)

bench: .venv/done
	$(BIN)/$(INSTALL) -e '.[bench]'
	$(BIN)/python -m benchmarks

# Each family's reproduce recipe, trained from nothing; fails where a figure is outside what its recipe expects.
reproduce: .venv/done
	$(BIN)/python -m benchmarks.reproduce

# What a release uploads: a wheel and an sdist of each distribution.
wheels: .venv/done
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist weights

# One environment for every target but test-oldest and test-newest. The marker is made last, so that a broken install is tried again.
.venv/done: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) -e '.[test]'
	touch .venv/done

.venv/done-all: .venv/done
	$(BIN)/$(INSTALL) -e '.[test-all]'
	touch .venv/done-all

.venv-oldest/done: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/$(INSTALL) -e '.[test]' -c tests/oldest.txt
	touch .venv-oldest/done
