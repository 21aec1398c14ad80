# make run | test | chaos | test-tools | check | bench | bench-peers | lock
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 1
ROUNDS ?= 1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test chaos test-tools check bench bench-peers lock clean

$(VENV)/run.stamp: requirements/run.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing turnout into $(VENV) (about 300 MB the first time)"
	@$(PIP) --require-hashes -r requirements/run.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: requirements/test.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing turnout and its test tools into $(VENV)"
	@$(PIP) --require-hashes -r requirements/test.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/run.stamp

# DEMO_TRAFFIC=1 sends customers and shows live who answers them.
run: $(VENV)/run.stamp
ifdef DEMO_TRAFFIC
	@$(BIN)/python configs/demo/traffic.py
else
	@$(BIN)/turnout serve --config configs/demo/gateway.yaml --workers $(WORKERS)
endif

check: $(VENV)/test.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# A real Prometheus for the tests, where PATH has none.
test-tools: $(VENV)/test.stamp
	@$(BIN)/python -m tests.prometheus_server

# A real Triton for the tests, about 75 MB; without it they say why they are skipped.
TRITON := .tools/triton
$(TRITON).stamp: requirements/triton.txt | $(VENV)/test.stamp
	@rm -rf $(TRITON) && mkdir -p $(TRITON)
	@echo "installing Triton for the tests into $(TRITON)"
	@if $(PIP) --no-deps --only-binary :all: --require-hashes --target $(TRITON) -r $< 2> $(TRITON)/why; then touch $@; \
	  else echo "Triton could not be installed, its tests will be skipped: $$(tail -n 1 $(TRITON)/why)"; fi

# Two halves at the same time; one alone, or a part: `.venv/bin/python -m pytest tests/routing`.
test: check test-tools $(TRITON).stamp
	@$(BIN)/python -m tests

# Every drill on three replicas, with a line for each; ONLY="redis" for some, ROUNDS=5 for more. `make test` has a short form.
chaos: $(VENV)/test.stamp
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --only "$(ONLY)"

# What the benchmark compares with: Debian's programs (as root), and Python's each in an environment of its own, 1.6 GB.
BENCH_PEERS := envoy fastapi litserve mlserver bentoml triton
bench-peers: $(BENCH_PEERS:%=.bench/%.stamp)
	@sh loadtests/bench/peers/debian.sh

.bench/%.stamp: loadtests/bench/peers/%.txt
	@echo "installing $* into .bench/$*"
	@test -x .bench/$*/bin/python || $(PYTHON) -m venv .bench/$*
	@if .bench/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<; then touch $@; \
	  else echo "$* could not be installed: the benchmark will call it missing"; fi

# ROWS="proxy mirror" runs these alone, QUICK=1 gives a first look; without ROWS the figures of the project come first.
bench: $(VENV)/test.stamp
ifndef ROWS
	@status=0; $(BIN)/python -m loadtests.figures || status=1; \
	  $(BIN)/python -m loadtests.bench $(if $(QUICK),--quick) || status=1; exit $$status
else
	@$(BIN)/python -m loadtests.bench $(ROWS) $(if $(QUICK),--quick)
endif

# The locks hold versions and hashes, no index address. They are universal: one file for every platform.
lock: $(VENV)/test.stamp
	@$(PIP) uv
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra build pyproject.toml -o requirements/run.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra build --extra test pyproject.toml -o requirements/test.lock

clean:
	rm -rf $(VENV) .tools .bench .mypy_cache .ruff_cache .hypothesis
