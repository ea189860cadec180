# Everything a developer types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
SPEC := pyproject.toml plugins/fer_hw3/pyproject.toml constraints.txt
export PYTHONHASHSEED := 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-browser chromium test-transformers quick lint type docs docs-serve bench clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## Install into .venv and explain a face: the main job
	$(BIN)/explainkit run fer_hw3 saliency

test: $(VENV)/.test ## Install what tests need and run them all
	$(BIN)/python -m pytest

quick: $(VENV)/.test ## The tests without the slow ones
	$(BIN)/python -m pytest -m 'not slow and not browser'

test-browser: chromium docs $(VENV)/.browser ## Open the site and the reports in headless Chromium
	$(BIN)/python -m pytest -m browser tests/browser

chromium:
	@{ command -v chromium && command -v chromedriver; } > /dev/null \
	|| { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } \
	|| { echo "expected chromium and chromedriver on PATH, and apt-get did not install them:" \
	"do it as an administrator (Debian: apt-get install chromium chromium-driver)" >&2; exit 1; }

test-transformers: $(VENV)/.transformers ## The architectures of the transformers package
	$(BIN)/python -m pytest tests/methods/attention/test_transformers.py

lint: $(VENV)/.lint ## Style, as CI checks it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.lint ## Types, strictly
	$(BIN)/mypy

docs: $(VENV)/.docs ## Run the gallery, then build the documentation site into site/
	$(BIN)/explainkit gallery build --out docs/gallery
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: $(VENV)/.docs ## Serve the documentation while writing it
	$(BIN)/python -m mkdocs serve

bench: $(VENV)/.test ## Measure speed and memory beside bare loops and the peers installed
	$(BIN)/python benchmarks/bench_gradient.py
	$(BIN)/python benchmarks/bench_cam.py
	$(BIN)/python benchmarks/bench_tail.py
	$(BIN)/python benchmarks/bench_perturbation.py
	$(BIN)/python benchmarks/bench_perturbation.py --error
	$(BIN)/python benchmarks/bench_perturbation.py --sharing
	$(BIN)/python benchmarks/bench_maximize.py
	$(BIN)/python benchmarks/bench_csv.py
	$(BIN)/python benchmarks/bench_train.py

clean: ## Remove the environment and everything built
	rm -rf $(VENV) site build dist docs/gallery explainkit-out

$(VENV)/.demo: $(SPEC)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e . -e plugins/fer_hw3
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) -e '.[test]' -e plugins/fer_hw3
	touch $@

$(VENV)/.browser: $(VENV)/.test
	$(PIP) -e '.[browser]'
	$(PIP) --no-deps axe-playwright-python  # for the axe-core inside; it would bring a browser
	touch $@

$(VENV)/.transformers: $(VENV)/.test
	$(PIP) -e '.[transformers]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) -e '.[lint]'
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) -e '.[docs,superpixels]'
	touch $@
