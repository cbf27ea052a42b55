# Every target sets up what it needs (tools/setup.sh): system packages with apt, Python packages in .venv.

TOPOLOGY ?= topologies/default.yaml
BACKEND ?= netns
ARGS ?=

BIN := .venv/bin
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help lab-up lab-down test test-large check lint types schema format bench conformance interop scale mutants bpf packages images clean for-labs for-checks for-tests for-bench for-netns for-docker with-docker

help: ## Show this list.
	@echo 'make TARGET [TOPOLOGY=$(TOPOLOGY)] [BACKEND=$(BACKEND)] [ARGS=…]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS="$$(printf '\t')" read -r target what; do printf '  %-10s %s\n' "$$target" "$$what"; done

lab-up: for-labs for-$(BACKEND) ## Bring a lab up and check who reaches whom. It stays up.
	@$(BIN)/teredo-lab up $(TOPOLOGY) --backend $(BACKEND) --check $(ARGS)

lab-down: ## Take all of your labs down. Nothing of them is left.
	@if [ -x $(BIN)/teredo-lab ]; then $(BIN)/teredo-lab down --all; else echo 'nothing was up: there is no .venv yet'; fi

# Most tests wait more than they compute, so some run at a time. Those that look at the whole machine come after them, alone.
# Exit code 5 of pytest: ARGS wants none of these.
test: for-tests with-docker ## Run all tests. ARGS goes to pytest: ARGS='-k relay -x'.
	@$(BIN)/pytest -n 3 --dist worksteal --durations 12 -m 'not alone and not large' $(ARGS); first=$$?; \
	$(BIN)/pytest --durations 12 -m 'alone and not large' $(ARGS); second=$$?; \
	case $$first-$$second in 0-0 | 0-5 | 5-0) ;; *) exit 1 ;; esac

test-large: for-tests with-docker ## Run the tests that are too large for `test`: the RFC's matrix in 326 containers.
	@$(BIN)/pytest -m large $(ARGS)

check: lint types schema ## Run ruff and mypy, and see whether generated files are fresh.

lint: for-checks ## Part of check: ruff's rules and formatting.
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: for-checks ## Part of check: mypy --strict.
	@$(BIN)/mypy

schema: for-checks ## Part of check: whether the JSON Schema of topologies is fresh.
	@$(BIN)/teredo-lab schema --check

format: for-checks ## Format the code, and mend what ruff can mend.
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: for-bench with-docker ## Measure how fast labs come up, and servers are. ARGS goes to the benchmark: ARGS='--only containers'.
	@$(BIN)/python -m lab.bench $(ARGS)

conformance: for-tests ## Run all tests, look at our programs and Miredo from outside, and write docs/conformance.md.
	@mkdir -p .cache
	@$(BIN)/pytest -q --requirements .cache/outcomes.json $(ARGS)
	@$(BIN)/teredo-lab conformance --json > .cache/ours.json
	@$(BIN)/teredo-lab conformance --program miredo --json > .cache/miredo.json || test $$? -eq 1
	@$(BIN)/python tools/conformance.py .cache/outcomes.json .cache/ours.json .cache/miredo.json

interop: for-labs with-docker ## Run ours and Miredo's with each other, with both backends, and write docs/interop.md.
	@$(BIN)/teredo-lab interop --backend netns --backend docker --markdown docs/interop.md $(ARGS)

scale: for-tests ## Simulate a million clients, and some hundred as state machines; renew docs/scale.md and its curves.
	@$(BIN)/teredo-lab scale --machines 500 --plot docs --markdown docs/scale.md $(ARGS)

mutants: for-tests ## Break the rules of lab/teredo one by one, and see whether a test notices (mutmut; half an hour).
	@$(BIN)/pip install --quiet 'mutmut>=3.8'
	@$(BIN)/mutmut run --max-children 2 && $(BIN)/mutmut results

bpf: for-tests ## Compile the kernel data path (lab/datapath/teredo.bpf.c), which is in the package as an object.
	@tools/bpf.sh

packages: ## Install the system packages only, as root; never starts a daemon of theirs.
	@tools/setup.sh packages

images: ## Build the images for BACKEND=docker, with an engine and a base image. ARGS goes to docker build.
	@tools/images.sh $(ARGS)

clean: ## Take all of your labs down, then remove .venv, caches and what was built.
	-@$(MAKE) --no-print-directory lab-down
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

for-labs:
	@tools/setup.sh run

for-checks:
	@tools/setup.sh check

for-netns:

for-docker:
	@tools/engine.sh up

# The containers' tests say why they are skipped where there can be no engine.
with-docker:
	-@tools/engine.sh up && tools/engine.sh compose && tools/images.sh

for-bench:
	@tools/setup.sh bench

for-tests:
	@tools/setup.sh test
