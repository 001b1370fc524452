# Everything happens in .venv; it is made, and brought up to date when requirements.txt changes.
#
# make run                 the app, with the demo study if there is none: ARGS="--study DIR --port 8502"
# make test                lint, format and all tests: ARGS="-k metrics"
#
# PyPI's torch for Linux brings its CUDA libraries (several GB). Without an NVIDIA GPU:
# make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/requirements-installed

.PHONY: run test

run: $(STAMP)
	$(BIN)/python -m webapp $(ARGS)

test: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest $(ARGS)

$(STAMP): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'allinsam needs Python 3.11 or newer; found ' + sys.version.split()[0] + '. Choose one with make PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	@touch $(STAMP)
