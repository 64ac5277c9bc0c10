# Two commands: `make demo` and `make test`. Both make `.venv` first, from Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test lint types site check check-cluster quick check-float32 reproduce bench bench-float32 bench-long bench-scale soak soak-archive wheels clean

demo: $(VENV)/installed
	$(BIN)/flawmap demo

test: lint types site check check-cluster

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev
	$(BIN)/mypy

# The documentation as a site, in site/; a broken link fails it.
site: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Tests, doctests of the source, and the commands that the documentation shows.
check: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto -m "not cluster"

# The tests that start Ray, on several machines in name, or several processes of one training: minutes.
check-cluster: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto -m cluster tests

# The inner loop: everything but what is marked slow.
quick: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto -m "not slow and not cluster"

# The tests of what computes, as on a processor without AVX-512 and bfloat16: the automatic precision is float32 there.
FLOAT32 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=
NUMERIC := bootstrap borders calibration convolution corruption detector engines evaluation features hardware methods metrics models \
	new_method regions rows scan ssim ssim_kernel tiling training vae variants
check-float32: $(VENV)/installed-dev
	$(FLOAT32) $(BIN)/python -m pytest -n auto $(NUMERIC:%=tests/test_%.py)

# The paper's experiments on real images, then SSIM and l2 on NanoTWICE for as long as the paper trained, then
# the systems of the literature: hours.
# Goes on where it was stopped. FLAWMAP_DATA names the data sets' folder.
SQUEEZENET := $(FLAWMAP_DATA)/weights/squeezenet1_0_imagenet.safetensors
reproduce: $(VENV)/installed-dev
	$(BIN)/flawmap reproduce all --data $(FLAWMAP_DATA) -o docs/reproduction \
		--features $(SQUEEZENET) --feature-network squeezenet
	$(BIN)/flawmap reproduce figure6 --data $(FLAWMAP_DATA) -o docs/reproduction/paper --preset paper \
		--sets nanotwice --methods l2,ssim --seeds 1
	$(BIN)/flawmap reproduce literature --data $(FLAWMAP_DATA) -o docs/reproduction/literature \
		--features $(SQUEEZENET) --feature-network squeezenet --jobs 2

# Every table of docs/performance.md but the long ones, in twenty minutes. Wants a quiet machine.
bench: $(VENV)/installed-dev
	@for name in startup losses step engines inspection latency folder metrics disk; do \
		echo; echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

# The same, as on a processor without AVX-512 and bfloat16.
bench-float32: $(VENV)/installed-dev
	$(FLOAT32) $(MAKE) bench

# Hours: when training leaves its plateau, huge images, memory, and minutes to a quality (FLAWMAP_DATA names the data sets' folder).
bench-long: $(VENV)/installed-dev
	$(BIN)/python benchmarks/plateau.py
	$(BIN)/python benchmarks/huge.py
	$(BIN)/python benchmarks/memory.py $(FLAWMAP_DATA)
	$(BIN)/python benchmarks/quality.py $(FLAWMAP_DATA)

# Archives on Ray beside one process, and what a cluster may give: docs/scale.md. Wants a quiet machine.
bench-scale: $(VENV)/installed-dev
	$(BIN)/python benchmarks/scale.py

# Damaged image files of every format, for an hour or MINUTES=N: each gives an image or an error with its name.
MINUTES ?= 60
soak: $(VENV)/installed-dev
	nice $(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

# Tiny images, 200,000 or IMAGES=N, on Ray: the memory of all processes as it goes, and no row lost.
IMAGES ?= 200000
soak-archive: $(VENV)/installed-dev
	nice $(BIN)/python benchmarks/archive_soak.py --images $(IMAGES)

# Everything that a machine without internet needs, for this kind of processor and Python: see docs/going-live.md.
wheels: $(VENV)/installed
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet -c constraints.txt -w wheels '.[serve,export]'

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flawmap needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev,tensorboard,export,kernels,serve,parquet,ray]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache flawmap-demo
