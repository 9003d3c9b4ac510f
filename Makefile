# make demo   install, and run the main job on a data set that ships with the package
# make test   install with everything optional, and run the whole suite
# The rest is for those who change the code: make lint, docs, verdicts, evidence.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Small networks are slower on two threads than on one; the processes share the cores instead.
export OMP_NUM_THREADS = 1

.PHONY: demo test lint docs verdicts evidence clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-all: $(VENV)/installed
	$(PIP) -e ".[all,docs,test]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/holdfast study

test: $(VENV)/installed-all
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(VENV)/installed-all
	$(BIN)/mkdocs build --strict --quiet

# The tables of verdicts come from the evidence files; CI fails when they disagree.
verdicts: $(VENV)/installed
	$(BIN)/python -m holdfast.papers.table README.md docs/verdicts.md

evidence: $(VENV)/installed
	$(BIN)/holdfast reproduce --all --record; test $$? -eq 0 -o $$? -eq 3
	$(MAKE) verdicts

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .import_linter_cache
