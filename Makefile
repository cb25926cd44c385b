PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup test lint types parity fit fit-xxl check nightly quickstart scoreboard scoreboard-quick clean

# Set-up: .venv in the checkout, versions from constraints.txt; repeated only when those change.
setup: .venv/.stamp

.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python %s is too old: run make PYTHON=python3.11" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e '.[test]'
	@touch $@

.venv/.stamp-parity: .venv/.stamp
	$(PIP) -e '.[parity]'
	@touch $@

.venv/.stamp-fit: .venv/.stamp
	$(PIP) -e '.[fit]'
	@touch $@

test: setup
	$(BIN)/pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck launch/*.sh

types: setup
	$(BIN)/pyright

# Live comparisons with transformers and PEFT, which need torch.
parity: .venv/.stamp-parity
	$(BIN)/pytest -q -m parity tests/parity

# Compiles for TPUs that are not here, which needs libtpu.
fit: .venv/.stamp-fit
	$(BIN)/pytest -q -m fit tests/test_fit_tpu.py

# The first three rows of docs/scale.md; each takes minutes.
XXL := $(BIN)/prompt-jax fit --gin.BACKBONE=random:t5_1_1_xxl
fit-xxl: .venv/.stamp-fit
	$(XXL) --gin_file=runs/xxl.gin --topology=v5e:4x4
	$(XXL) --gin_file=runs/xxl.gin --topology=v5e:2x2 --gin.BATCH_SIZE=16 \
	  --gin.MeshShape.fsdp=2 --gin.MeshShape.model=2
	$(XXL) --gin_file=runs/xxl_one_chip.gin --topology=v5e:1x1 \
	  --gin.BATCH_SIZE=8 --gin.Train.accumulate=1

# What CI runs.
check:
	$(MAKE) test
	$(MAKE) lint
	$(MAKE) types
	$(MAKE) parity
	$(MAKE) fit

# Every test but parity and fit, those that take minutes included.
nightly: setup
	$(BIN)/pytest -q -m "not parity and not fit"

quickstart: setup
	$(BIN)/prompt-jax train --gin_file=runs/quickstart.gin --model_dir=runs/quickstart

# Methods by tasks on the small backbones, cell by cell; needs the data folder PROMPT_JAX_DATA_DIR.
scoreboard: setup
	$(BIN)/python benchmarks/scoreboard.py

scoreboard-quick: setup
	$(BIN)/python benchmarks/scoreboard.py --quick

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
