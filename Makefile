PY := .venv/bin/python
ONLY ?= all
DEMO_SECONDS ?= 0

.PHONY: demo test check lint unit faults bench lock clean help

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 10

demo: ## a Modbus meter becomes a Device that kubectl shows and sets (DEMO_SECONDS=30 ends by itself)
	@build/prepare demo && exec $(PY) -m tests.demo --seconds $(DEMO_SECONDS)

test: ## everything: the gates, then every test against real parts
	@build/prepare test && $(MAKE) --no-print-directory lint && $(PY) -m pytest

check: lint unit ## the gates: lint, format, types, imports, unit tests

lint: ## lint, format, types, import law
	@.venv/bin/ruff check -q . && .venv/bin/ruff format -q --check . && .venv/bin/mypy --no-error-summary && .venv/bin/lint-imports --no-logo --no-cache

unit: ## one package at a time, a minute or two
	@$(PY) -m pytest -q tests/unit

faults: ## 200 kills of each kind at random moments (FAULT_SEED repeats a run)
	@FAULT_ROUNDS=200 $(PY) -m pytest tests/faults -s

bench: ## figures, one JSON line each (ONLY=name for one)
	@$(PY) -m tests.bench $(ONLY)

lock: ## pin the dependencies anew
	@build/lock

clean: ## remove what was made in this checkout
	@rm -rf .venv dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
