# make demo   the main job on an embedded default: five experiments on the CPU, no download at run time
# make test   the whole test suite
# make check  what must hold before a change lands: lint, types, import layers, docs, tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo

.PHONY: demo test check lint types layers docs schema clean

demo: $(STAMP)
	@$(BIN)/autoexp init $(DEMO) --profile cpu > /dev/null
	@cd $(DEMO) && $(abspath $(BIN))/autoexp start --loops 5 --json > /dev/null
	@echo "A workspace in $(DEMO)/: data, a baseline, five experiments."
	@echo "Ctrl-C leaves them running. To type the commands that are named at the end:"
	@echo "  cd $(DEMO) && . $(abspath $(BIN))/activate"
	@cd $(DEMO) && $(abspath $(BIN))/autoexp watch
	@echo
	@echo "To go on:"
	@echo "  cd $(DEMO) && . $(abspath $(BIN))/activate && autoexp resume --loops 5"

# More workers than cores: much of the time tests wait, for the disk, a deadline, another process. A worker takes tests in a
# row, so that what the tests of a file share is made once. They start thousands of commands: where Python is told to write
# no bytecode, each would compile all of the source again, which takes longer than the rest of its start.
test: $(STAMP)
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest -n 4 --dist worksteal

check: lint types layers docs test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python docs/generate.py --check

schema: $(STAMP)
	$(BIN)/autoexp propose --schema > schemas/proposal.schema.json

# The constraints name the torch that development and CI use; users get what they have, from 2.9 on.
$(STAMP): pyproject.toml constraints.txt
	@echo "Making the environment $(VENV): torch is large, this takes some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .pytest_cache .ruff_cache
