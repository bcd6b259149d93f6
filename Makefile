# make setup | demo | test | check | report | reproduce | reference | images | lock
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup demo test check report reproduce reference faults images lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: setup
	$(PYTHON) farm/run.py problem=4 profile=smoke

test: setup
	$(PYTHON) -m pytest --numprocesses 2

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

report: setup
	$(VENV)/bin/farm report

# The whole sheet, as far as this machine can hold it; the same command goes on. make reproduce WITH='profile=smoke'
reproduce: setup
	$(VENV)/bin/farm reproduce $(WITH)

# docs/reference-report.md anew, from the rows in analysis/reference
reference: setup
	$(PYTHON) -m analysis.joined analysis/reference docs/reference-report.md

# Random faults, half an hour by default: make faults MINUTES=30 SEED=4
MINUTES := 30
SEED := $(shell date +%s)
faults: setup
	$(PYTHON) tests/faults/campaign.py --minutes $(MINUTES) --seed $(SEED)

# Resolve anew from pyproject.toml, in a fresh environment, and write down what was found.
lock:
	rm -rf build/lock && python3 -m venv build/lock
	build/lock/bin/python -m pip install --quiet setuptools wheel '.[dev]'
	build/lock/bin/python -m pip freeze --all --exclude experiment-farm | grep -v '^pip==' > requirements.lock

# Both images for real, and the demo in each: 20 to 40 minutes, 25 GB, root on Debian 12 (docker/images.sh).
images: setup
	docker/images.sh

clean:
	rm -rf $(VENV) build
