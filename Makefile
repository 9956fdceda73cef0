# Each target sets up what it needs in .venv. For a CPU build of torch:
#   make setup TORCH_INDEX_URL=<index of CPU wheels>
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX_URL ?=
PROMPT ?= a red mug
ONE_STEP ?= outputs/one-step/make
# Tests at the same time, each in a process of its own.
JOBS ?= 2

.PHONY: setup demo demo-full compare one-step test test-slow test-e2e test-full lint clean

$(VENV)/.ready: setup.py constraints.txt
	@$(PYTHON) threestudio_asd/requirements.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) \
		--constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

setup: $(VENV)/.ready

demo: setup
	$(BIN)/threestudio-asd demo --prompt "$(PROMPT)"

# NeRF, geometry and texture.
demo-full: setup
	$(BIN)/threestudio-asd demo --full --prompt "$(PROMPT)"

# Goes on from the cells that are there; the page is outputs/compare/2d/index.html.
compare: setup
	$(BIN)/threestudio-asd compare --config compare/2d

# A generator of one step, beside its teacher in 25; a training that was stopped goes on.
one-step: setup
	$(BIN)/threestudio-asd one-step train --config tiny/sida reals.count=2048 out=$(ONE_STEP)
	$(BIN)/threestudio-asd one-step evaluate $(ONE_STEP)/model --samples 512 --steps 1 --scales 1 4 \
		--out $(ONE_STEP)/evaluation

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: setup lint
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

# What makes the suite too long, and what runs on the pretended device.
test-slow: setup
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal -m slow
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal -m on_device

test-e2e: setup
	$(BIN)/pytest -m e2e

test-full: setup
	$(BIN)/pytest -m full

clean:
	rm -rf $(VENV) build dist *.egg-info
