# The only commands a newcomer needs: make fit, make test, make bench.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: fit test check fuzz cases bench image clean

fit: $(VENV)/.done          ## train configs/base.yaml, then score its best checkpoint on the test split
	$(BIN)/python -m lit_bert fit --config configs/base.yaml
	$(BIN)/python -m lit_bert test

test: check                 ## that, and the whole test suite
	$(BIN)/python -m pytest

check: $(VENV)/.done        ## lint, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/.done         ## random files, names, checkpoints, folders and requests: 10,000 of each; takes hours
	LIT_BERT_FUZZ=$(or $(INPUTS),10000) $(BIN)/python -m pytest --timeout=0 -m fuzz

cases: $(VENV)/.done        ## inputs that once went wrong, from a folder: make cases CASES=folder
	$(BIN)/python tests/cases.py $(or $(CASES),../shared/cases)

bench: $(VENV)/.bench       ## lit_bert beside what a user would pick instead; takes hours
	$(BIN)/python -m benchmarks

image: $(VENV)/.done        ## the steps of docker/serve.Dockerfile without Docker: make image FOLDER=my-classifier
	$(BIN)/python docker/try_image.py $(or $(FOLDER),my-classifier)

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[offline,report,export,files,serve,trackers,dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.done
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[offline,report,export,files,serve,trackers,dev,bench]'
	touch $@

clean:                      ## remove the virtual environment and the tools' caches; runs are kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
