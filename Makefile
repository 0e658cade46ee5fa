# Everything is installed into .venv; nothing else on the machine is touched.
#   make demo    embed and analyse music, and look at what came out
#   make test    lint, types and tests: what CI runs
#   make soak    kills, faults and hostile input, for about 90 minutes; see docs/robustness.md
# Another interpreter: make setup PYTHON=python3.12
# PyTorch without CUDA on Linux, a far smaller download:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2
SOAK_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test soak lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "There is no $(PYTHON) here; name a Python 3.11 or newer: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("musicfm needs Python 3.11 or newer, and $(PYTHON) is Python %d.%d; name another: make setup PYTHON=python3.12" % sys.version_info[:2])'
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest $(PYTEST_ARGS)

soak: $(STAMP)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m soak $(SOAK_ARGS)

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
