# make toy: from nothing to a trained BLOOM that writes; make test: the tests. Both make the virtual environment first.
PYTHON ?= python3
BIN := .venv/bin

toy: .venv/ready
	$(BIN)/python train.py configs/bloom.py
	$(BIN)/python sample.py runs/bloom-toy --prompt "Once upon a time" --tokens 120 --temperature 0.3
	@echo 'next: source .venv/bin/activate && python sample.py runs/bloom-toy --prompt "One day," --temperature 0.3'

# two files at a time, the longest first; a test that stands still for 200 s says where, and fails
test: .venv/ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_parallel.py tests/test_train.py tests/test_prepare.py tests -n 2 --dist loadfile --max-worker-restart 0 \
		-o faulthandler_timeout=200 -o faulthandler_exit_on_timeout=true

# the commands of README.md and docs/, in their order, in a copy of the repository
docs-check: .venv/ready-test
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-extras.txt
	$(BIN)/python tools/docs_check.py

# docs/pictures/*.svg, from the program's own functions
pictures: .venv/ready-test
	$(BIN)/python tools/pictures.py

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-test: .venv/ready requirements-test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

.PHONY: toy test docs-check pictures
