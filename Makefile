# make toy: from nothing to a trained BLOOM that writes; make test: the tests. Both make the virtual environment first.
PYTHON ?= python3
BIN := .venv/bin

toy: .venv/ready
	$(BIN)/python train.py configs/bloom.py
	$(BIN)/python sample.py runs/bloom-toy --prompt "Once upon a time" --tokens 200

test: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-test: .venv/ready requirements-test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

.PHONY: toy test
