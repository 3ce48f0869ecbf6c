# Every target sets the environment up first when it is missing or out of date.
# Without make (Windows): py scripts\bootstrap.py, then .venv\Scripts\lucida demo

PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
STAMP := .venv/lucida-stamp

# Processes that share the tests, one thread each; 0 for this one alone.
JOBS ?= 2
SHARED := -n $(JOBS) --dist worksteal

.PHONY: setup demo test elsewhere slow bench lint format

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/bootstrap.py
	$(PYTHON) scripts/bootstrap.py

demo: $(STAMP)
	$(BIN)/lucida demo

test: export OMP_NUM_THREADS = 1
test: $(STAMP)
	$(BIN)/python -m pytest $(SHARED)

# The tests as on other machines; PROFILE=plain runs one of them.
elsewhere: $(STAMP)
	$(BIN)/python scripts/elsewhere.py $(PROFILE) -- $(SHARED)

slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

bench: $(STAMP)
	@for script in $$(grep -l '^if __name__' benchmarks/*.py); do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
