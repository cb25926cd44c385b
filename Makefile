PYTHON ?= python3
NEWEST ?= python3.13
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# uv installs three times as fast as pip, which does it where uv cannot: uv reads no pip.conf.
UV := $(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python -c constraints.txt

# Two processes. One of them runs all tests of a file, so that its fixtures are made once.
PYTEST := $(BIN)/pytest -q -n 2 --dist loadfile

.PHONY: setup test lint types parity fit fit-xxl check docs dist nightly quickstart scoreboard scoreboard-quick clean

# Set-up: .venv in the checkout, versions from constraints.txt; repeated only when those change.
setup: $(VENV)/.stamp

# A PYTHON on the command line replaces an environment that was made without it.
ifeq ($(origin PYTHON),command line)
$(VENV)/.stamp: $(VENV)/.$(notdir $(PYTHON))

$(VENV)/.$(notdir $(PYTHON)):
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
endif

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python %s is too old: run make PYTHON=python3.11" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) uv
	$(UV) -e '.[test]' || $(PIP) -e '.[test]'
	@touch $@

$(VENV)/.stamp-parity: $(VENV)/.stamp
	$(PIP) -e '.[parity]'
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.stamp-fit: $(VENV)/.stamp
	$(PIP) -e '.[fit]'
	@touch $@

test: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck launch/*.sh

types: setup
	$(BIN)/pyright

# Live comparisons with transformers and PEFT, which need torch.
parity: $(VENV)/.stamp-parity
	$(PYTEST) -m parity tests/parity

# Compiles for TPUs that are not here, which needs libtpu.
fit: $(VENV)/.stamp-fit
	PROMPT_JAX_OPTIMIZED=1 $(BIN)/pytest -q -m fit tests/test_fit_tpu.py

# The first three rows of docs/scale.md; each takes minutes.
XXL := $(BIN)/prompt-jax fit --gin.BACKBONE=random:t5_1_1_xxl
fit-xxl: $(VENV)/.stamp-fit
	$(XXL) --gin_file=runs/xxl.gin --topology=v5e:4x4
	$(XXL) --gin_file=runs/xxl.gin --topology=v5e:2x2 --gin.BATCH_SIZE=16 \
	  --gin.MeshShape.fsdp=2 --gin.MeshShape.model=2
	$(XXL) --gin_file=runs/xxl_one_chip.gin --topology=v5e:1x1 \
	  --gin.BATCH_SIZE=8 --gin.Train.accumulate=1

# What is checked before a release, with `nightly`. CI runs the first three.
check:
	$(MAKE) test
	$(MAKE) lint
	$(MAKE) types
	$(MAKE) parity
	$(MAKE) fit

# The documentation, strictly: a stale generated page, a link that leads nowhere or a missing anchor
# fails. The commands of the pages run in tests/test_docs_commands.py.
docs: $(VENV)/.stamp-docs
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/soft_prompt.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The files of a release into dist/, built twice and compared; RELEASING.md.
dist: $(VENV)/.stamp
	$(PIP) -e '.[release]'
	$(BIN)/python .ci/dist.py

# Every test, those that take minutes included; then the quick ones with the newest Python and JAX, in
# an environment of their own.
nightly: setup
	PROMPT_JAX_OPTIMIZED=1 $(PYTEST) -m "not parity and not fit"
	$(MAKE) parity
	$(MAKE) fit
	$(MAKE) test VENV=.venv-newest PYTHON=$(NEWEST)

# `setup` installs the extra `quickstart` too, by way of `test`.
quickstart: setup
	$(BIN)/prompt-jax train --gin_file=runs/quickstart.gin --model_dir=runs/quickstart

# Methods by tasks on the small backbones, cell by cell; needs the data folder PROMPT_JAX_DATA_DIR.
scoreboard: setup
	$(BIN)/python benchmarks/scoreboard.py

scoreboard-quick: setup
	$(BIN)/python benchmarks/scoreboard.py --quick

clean:
	rm -rf .venv .venv-newest build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
