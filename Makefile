# Everything is installed into .venv; nothing else on the machine is touched.
#   make demo      embed and analyse music, and look at what came out
#   make test      lint, types and the fast tests: after each change
#   make test-all  the same and all other tests: before a release, and in CI
#   make build     a wheel and a source distribution in dist/
#   make docs      the documentation as a site in site/
#   make soak      kills, faults and hostile input, for about 90 minutes; see docs/robustness.md
# `make demo` installs what the demo needs, and the others the rest of the development tools.
# Another interpreter: make setup PYTHON=python3.12
# PyTorch without CUDA on Linux, a far smaller download:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
# By file, so that what the tests of a file share is made once.
PYTEST_ARGS ?= -n 2 --dist loadfile
# The markers of tests that `make test` leaves out; pyproject.toml says what they mean.
MARKED := pages or processes or compiles or browser or statistics or soak
SOAK_ARGS ?=

CUDA := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
	nvidia-nvshmem-cu13 triton

BIN := .venv/bin
# Files that say what is installed.
FOR_DEMO := .venv/.demo
FOR_ALL := .venv/.all

.PHONY: setup setup-locked demo test test-all build docs soak lint lock licences clean

setup: $(FOR_ALL)

$(FOR_DEMO): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "There is no $(PYTHON) here; name a Python 3.11 or newer: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("musicfm needs Python 3.11 or newer, and $(PYTHON) is Python %d.%d; name another: make setup PYTHON=python3.12" % sys.version_info[:2])'
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[plot,render]'
	@touch $@

$(FOR_ALL): $(FOR_DEMO)
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

# The same, but every file that is downloaded has to have its hash in requirements-ci.lock; only
# PyTorch, which comes without CUDA from its own index, is known by its version alone.
setup-locked:
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps \
		--index-url https://download.pytorch.org/whl/cpu "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps --require-hashes -r requirements-ci.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $(FOR_DEMO) $(FOR_ALL)

demo: $(FOR_DEMO)
	$(BIN)/python examples/demo.py

lint: $(FOR_ALL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest $(PYTEST_ARGS) -m "not ($(MARKED))"

# Few of them are long: a process that has done its own takes over what others have left.
test-all: test
	$(BIN)/pytest $(PYTEST_ARGS) --dist worksteal -m "$(MARKED)"

build: $(FOR_ALL)
	$(BIN)/python -m build --no-isolation

docs: $(FOR_ALL)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Without PyTorch, what CUDA needs, and LanceDB; see "Changing versions" in CONTRIBUTING.md.
lock: $(FOR_ALL)
	printf '%s\n' $(CUDA) lancedb | UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml \
		--all-extras --constraints constraints.txt --universal --python-version 3.11.5 \
		--generate-hashes --no-annotate --no-emit-package torch --excludes /dev/stdin \
		--output-file requirements-ci.lock >/dev/null

licences: $(FOR_ALL)
	$(BIN)/python tools/licences.py

soak: $(FOR_ALL)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m soak $(SOAK_ARGS)

clean:
	rm -rf .venv demo build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
