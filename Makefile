# Every target sets the environment up first when it is missing or out of date.
# Without make (Windows): py scripts\bootstrap.py, then .venv\Scripts\lucida demo

PYTHON ?= python3
# Tests start hundreds of processes: without compiled files each would compile torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
STAMP := .venv/lucida-stamp

# Processes that share the tests, one thread each; 0 for this one alone.
JOBS ?= 2
SHARED := -n $(JOBS) --dist worksteal

.PHONY: setup demo test quick elsewhere slow gpu bench lint format docs

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/bootstrap.py
	$(PYTHON) scripts/bootstrap.py

demo: $(STAMP)
	$(BIN)/lucida demo

test quick: export OMP_NUM_THREADS = 1
test: $(STAMP)
	$(BIN)/python -m pytest $(SHARED)

# About a minute, while writing: rules of the house, recipes, data, masks and other contracts.
QUICK := tests/core tests/world tests/contract $(wildcard tests/data/test_*.py) tests/model/test_masks.py \
	tests/test_architecture.py tests/test_options.py

quick: $(STAMP)
	$(BIN)/python -m pytest -q $(SHARED) $(QUICK)

# The tests as on other machines; PROFILE=plain runs one of them.
elsewhere: $(STAMP)
	$(BIN)/python scripts/elsewhere.py $(PROFILE) -- $(SHARED)

slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

# Everything that only a GPU can tell, in nine minutes: the tests marked gpu, and figures in gpu.json.
gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

bench: $(STAMP)
	@for script in $$(grep -l '^if __name__' benchmarks/*.py); do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

# The site of the documentation, in build/site; a link that leads nowhere is an error.
docs: $(STAMP)
	$(BIN)/python -c 'import material, mkdocstrings' 2> /dev/null || \
		$(BIN)/python -m pip install -q --no-compile -c .venv/constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
