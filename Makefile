PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all bench

demo: .venv/done
	$(BIN)/python -m zoo.demo out

# Two processes of one thread: these networks are too small for threads, which wait for one another instead.
test: .venv/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not long"

# The rest: the authors' code beside ours, two processes, kills, fuzz.
test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m long

bench: .venv/done
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks

# A full install, tests included: one environment for every target. The marker is made last, so that a broken install is tried again.
.venv/done: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch .venv/done
