# `make run` and `make test` need Python 3.11 or newer and nothing else; they make .venv once and reuse it.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= runs/quickstart-$(shell date +%Y%m%d-%H%M%S)

.PHONY: run test test-slow test-deployment check docs venv clean

venv: $(READY)

# The stamp is written last, so an interrupted installation is done again.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[train,export,flower,dev]'
	@touch $@

# The main job: scikit-learn's digits, federated, private, masked; ends with the path of the report.
run: $(READY)
	$(BIN)/sfd run experiments/quickstart/config.toml --out $(OUT) $(RUN_ARGS)

test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

# What takes longer than a commit should wait for; tests/SLOW.md has the last result.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# A SuperLink, four nodes, TLS, keys: real processes, really killed.
test-deployment: $(READY)
	$(BIN)/python -m pytest -m slow tests/deployment

# The site: pages, tutorials, API from the docstrings; into build/docs. Needs the extra docs.
docs: $(READY)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[train,export,flower,dev,docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "site: build/docs/index.html"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
