PY := .venv/bin/python
ONLY ?= all
DEMO_SECONDS ?= 0

.PHONY: demo test check unit faults bench lock clean help

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 10

demo: ## a Modbus meter becomes a Device that kubectl shows and sets (DEMO_SECONDS=30 ends by itself)
	@build/prepare demo && exec $(PY) -m tests.demo --seconds $(DEMO_SECONDS)

test: ## everything: gates, then all tests against real parts
	@build/prepare test && $(MAKE) --no-print-directory check && $(PY) -m pytest

check: ## the gates: lint, format, types, imports
	@.venv/bin/ruff check -q . && .venv/bin/ruff format -q --check . && .venv/bin/mypy --no-error-summary && .venv/bin/lint-imports --no-cache >/dev/null || { .venv/bin/lint-imports --no-cache | tail -30; exit 1; }

unit: ## only the fast tests
	@$(PY) -m pytest tests/unit -q

faults: ## 200 kills of each kind at random moments (FAULT_SEED repeats a run)
	@FAULT_ROUNDS=200 $(PY) -m pytest tests/faults -s

bench: ## figures, one JSON line each (ONLY=name for one)
	@$(PY) -m tests.bench $(ONLY)

lock: ## pin the dependencies anew
	@build/lock

clean: ## remove what was made in this checkout
	@rm -rf .venv dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
