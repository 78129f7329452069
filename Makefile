# make reports   regenerate reports/*.html      make test   run the tests      make lab   JupyterLab in notebooks/
# make test-studies   run the tests that are slow: those of whole notebooks, trainings, browsers and installation
# make torture   the tests of kills, full disks and two at once, with ten times as many kills
# make bench     speed and memory, beside the field's usual way (PHOTOS="FOLDER --weights mobilenet_v2.pth": on photographs)
# make photographs   get the first real set (products in a shop, MIT licence), run the study on it: reports/photographs
# make backbones train Toytown's backbones where data/backbones is not what dagf/study/backbones.yaml says (hours)
# PROFILE=smoke|cpu|gpu chooses the scale of the study. Needs Python >= 3.11 with venv.

PYTHON ?= python3
PROFILE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Test files in several processes, in the order of tests/conftest.py: the longest begins first.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: reports photographs backbones test test-studies torture lab lint bench check clean distclean
.DELETE_ON_ERROR:

reports: $(READY)
	$(BIN)/dagf report --profile $(PROFILE)

check: $(READY)
	$(BIN)/dagf report --profile $(PROFILE) --check

photographs: $(READY)
	$(BIN)/dagf data get grocery
	$(BIN)/dagf report --profile photographs --benchmark grocery

backbones: $(READY)
	$(BIN)/dagf backbones

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not study"

test-studies: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m study

torture: $(READY)
	DAGF_KILLS=200 $(BIN)/python -m pytest tests/test_faults.py

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks $(PHOTOS)

# Rebuilt when missing, and when what it is made from has changed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing: install it first (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "setting up $(VENV): a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf data/cache data/scratch data/collections

# Trained runs and the environment, too: `make reports` then starts from nothing.
distclean: clean
	rm -rf $(VENV) data/toytown-* data/runs
