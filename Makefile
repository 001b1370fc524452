# Everything happens in .venv; it is made, and brought up to date when requirements.txt changes.
#
# make run                 the app, with the demo study if there is none: ARGS="--study DIR --port 8502"
# make test                lint, format and all tests: ARGS="-k metrics"; WORKERS=0 for a debugger
#
# PyPI's torch for Linux brings its CUDA libraries (several GB). Without an NVIDIA GPU:
# make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python)
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/requirements-installed

.PHONY: run test

run: $(STAMP)
	$(BIN)/python -m webapp $(ARGS)

# A thread for each worker. Who has no test left takes of the other's.
test: export OMP_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

$(STAMP): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'allinsam needs Python 3.11 or newer; found ' + sys.version.split()[0] + '. Choose one with make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	@touch $(STAMP)
