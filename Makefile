# make run   environment, training, evaluation, results, submission   (RECIPE=smoke|fast|handout, SEED=0, DEVICE=auto)
# make test  environment and the whole test suite
PYTHON ?= python3
RECIPE ?= fast
SEED ?= 0
DEVICE ?= auto
DATA ?= .
PY := .venv/bin/python

.PHONY: run test lint submission corpus clean

run: .venv/ready
	$(PY) scripts/reproduce.py --recipe $(RECIPE) --seed $(SEED) --device $(DEVICE) --data $(DATA) \
		$(if $(DATA_NAME),--data_name $(DATA_NAME))

test: .venv/ready
	$(PY) -m pytest -q -n 2 --dist loadfile

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

submission: .venv/ready
	$(PY) scripts/submission.py --data $(DATA)

corpus: .venv/ready
	$(PY) corpus/build.py
	$(PY) corpus/build.py --check

# Remove what was trained and written, but not the environment, the data or the results.
clean:
	rm -rf expt *.params *.predictions *.checkpoint assignment3.zip london_baseline_accuracy.txt

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
