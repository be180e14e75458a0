# `make` alone lists the targets. From a bare machine with Python 3.11 to 3.14, pip and make.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Where it is set, every process of a test run compiles what it imports anew.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
# Processes of the test run; each starts servers and workers of its own.
JOBS ?= 6
ARGS ?=
# Requests in the backlog.
N ?= 1000000
# Tests are checked strictly too, but a test or a fixture need not say its own types; one that is strict may keep its marks.
UNTYPED := --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-untyped-decorators \
  --allow-subclassing-any --implicit-reexport --no-warn-unused-ignores

.PHONY: help install demo test test-fast test-compose test-faults test-oldest test-rabbitmq test-runtimes test-zoo lint format release bench bench-budget bench-backlog bench-http lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv from the lock and put the project in it (PYTHON=... chooses the interpreter)

demo: install ## from nothing to real predictions, answered by two workers
	$(BIN)/mutirao demo $(ARGS)

test: install ## run the tests, in random order (ARGS="-k tensors -n 0" for some of them)
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: install ## run the tests that start no process, in under a minute
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not long and not processes and not zoo" tests/unit tests/contract tests/packaging $(ARGS)

test-compose: install ## run the containers for real, scale them under load, take them down (needs Docker)
	$(BIN)/pytest -n 0 -p no:randomly tests/compose $(ARGS)

test-faults: install ## kill workers hundreds of times under load and account for every request (half an hour; MUTIRAO_FAULT_SEED=...)
	$(BIN)/pytest -n 0 -p no:randomly -m long tests/faults $(ARGS)

test-runtimes: install ## test the runtimes of libraries that the lock does not have (torch; installs it under .cache/ where it is missing)
	.ci/runtimes $(ARGS)

test-zoo: install ## add every estimator of scikit-learn and 100 shapes of them, and compare each answer with the estimator's own
	$(BIN)/pytest -n 0 -p no:randomly -m zoo tests/zoo $(ARGS)

test-rabbitmq: install ## run the integration tests with RabbitMQ for a broker (needs Debian's rabbitmq-server, or another)
	@[[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] || command -v rabbitmq-server > /dev/null || \
	  { echo "RabbitMQ is not installed: apt-get install rabbitmq-server (it need not run: the tests start their own)"; exit 1; }
	MUTIRAO_TEST_BROKER=amqp $(BIN)/pytest -n 0 -p no:randomly tests/integration tests/contract $(ARGS)

test-oldest: install ## run what scikit-learn takes part in with the oldest libraries that a worker may have (Python 3.11)
	.ci/oldest

lint: install ## one definition of clean: ruff, format, mypy --strict, which room imports which, no registry host or machine path
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy $(UNTYPED) tests $(wildcard benchmarks examples) .ci/release.py
	$(BIN)/lint-imports --no-cache --no-logo
	.ci/no-hosts

format: install ## put the code in its form, and repair what ruff can
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

release: install ## check that version, changelog, wheel and image labels agree, and build into dist/ (see CONTRIBUTING.md)
	$(BIN)/python .ci/release.py

bench: install ## measure this system, plain Celery and the bare model side by side (ARGS=--quick)
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-budget: install ## where a request's time goes, in microseconds by step
	$(BIN)/python benchmarks/budget.py $(ARGS)

bench-backlog: install ## serve a backlog of N requests and see whether anything grows with it (N=50000 for a quick one)
	$(BIN)/python benchmarks/backlog.py --requests $(N) $(ARGS)

bench-http: install ## measure the gateway and MLServer side by side (ARGS=--quick); installs MLServer under benchmarks/out/
	$(BIN)/python benchmarks/bench_http.py $(ARGS)

lock: ## resolve requirements.txt again (ARGS=--upgrade for the newest of everything)
	.ci/lock $(ARGS)

clean: ## remove .venv, caches and what was built; data in .mutirao/ and models/ stay
	rm -rf $(VENV) .cache dist benchmarks/out .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find producer worker tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# A .venv that came along with a copied checkout, or has another interpreter than was named, is made anew (see .ci/venv).
ifneq ($(shell cat $(VENV)/.home 2>/dev/null)$(PYTHON),$(CURDIR))
.PHONY: $(VENV)/.locked
endif

$(VENV)/.locked: requirements.txt
	@.ci/venv
	@touch $@

# The lock has the build backend, so nothing is fetched here.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
