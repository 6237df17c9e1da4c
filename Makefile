# make demo | test | lab | check | notebooks. PYTHON picks the interpreter (3.11 or newer) that makes .venv.
# TORCH=cpu installs PyTorch's build for CPUs, which is smaller, from the index that PyTorch documents.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
DEMO := runs/demo
CPU_INDEX := https://download.pytorch.org/whl/cpu
# What is never imported need not be compiled, which takes a minute. What is imported is compiled
# once, not by each process anew, which would take it twice as long to start.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
  $(if $(filter cpu,$(TORCH)),--extra-index-url $(CPU_INDEX))
# uv installs faster; where it is missing, or cannot install, pip does.
UV := $(shell command -v uv)
INSTALL = $(if $(UV),uv pip install --quiet --python $(BIN)/python \
  $(if $(filter cpu,$(TORCH)),--torch-backend cpu) $(1) ||) $(PIP) $(1)

.PHONY: help setup dev try demo test check lab notebooks clean

help:
	@echo "make try    show a small trained model a clip and its reversal; write runs/demo/try.html"
	@echo "make demo   the same, then train a small ablation on real video files and write runs/demo/report.html"
	@echo "make test   run the tests"
	@echo "make lab    open JupyterLab on lesson 01"
	@echo "make check  ruff and mypy"
	@echo "make notebooks [ONLY='02 05']   run the lessons and store what they show"
	@echo "make setup  install what the demo and the lessons need; make dev adds what tests need"

# Stamps depend on pyproject.toml, so that a changed requirement is installed on the next call.
setup: .venv/stamp
dev: .venv/stamp-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + \
	  "; call make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv

.venv/stamp: pyproject.toml | .venv/bin/python
	$(call INSTALL,--editable .)
	@touch $@

.venv/stamp-dev: pyproject.toml | .venv/bin/python
	$(call INSTALL,--editable ".[dev]")
	@touch .venv/stamp $@

$(DEMO)/data/dataset.json: .venv/stamp
	$(BIN)/posmlp data make moving-digits --train 2800 --val 280 --test 560 $(DEMO)/data

try: .venv/stamp
	$(BIN)/posmlp try --out $(DEMO)/try.html

demo: .venv/stamp  # clips are made beside `try`, as each keeps one core busy
	@$(MAKE) --no-print-directory --jobs 2 --old-file .venv/stamp try $(DEMO)/data/dataset.json
	$(BIN)/ablations run ablations/grids/demo.yaml --data $(DEMO)/data --out $(DEMO)/grid \
	  --workers $(WORKERS) --device cpu
	$(BIN)/ablations report $(DEMO)/grid --out $(DEMO)/report.html --look-inside

test: .venv/stamp-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: .venv/stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: .venv/stamp
	$(BIN)/jupyter lab notebooks/01_video_model.ipynb

notebooks: .venv/stamp-dev
	$(BIN)/python notebooks/lessons/make_notebooks.py --jobs $(WORKERS) $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf .venv runs
