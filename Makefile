# Two commands are all there is to set up: make demo, make test. They need Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs linkcheck test test-all test-slow coverage servers test-servers label test-label viewer test-viewer check release-check clean

demo: $(VENV)/.demo
	$(BIN)/ldmsr run sample_data/dicom/mr_t1_sagittal demo_output --factor 2
	@echo "The new series and its report lie below demo_output; open report.html in a browser."

# Two tests at a time, each with one thread, so that two cores have enough to do and not more.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# All but what takes long, and but what needs servers, a viewer or MONAI Label: some minutes.
test: $(VENV)/.test
	$(PYTEST)

# What takes long too.
test-all: $(VENV)/.test
	$(PYTEST) -m "not (label or orthanc or slurm or viewer)"

# What takes long alone.
test-slow: $(VENV)/.test
	$(PYTEST) -m "slow and not (label or orthanc or slurm or viewer)"

# As make test, and how much of the package ran; less than what setup.cfg says fails.
coverage: $(VENV)/.test
	$(PYTEST) --cov --cov-report=term:skip-covered

# Orthanc, dcmtk and Slurm from the system's packages, as root.
servers:
	.ci/servers

# The tests that need these, a viewer or MONAI Label, away from any network; what is not installed is left out.
test-servers: $(VENV)/.test
	OMP_NUM_THREADS=1 .ci/isolated $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "label or orthanc or slurm or viewer"

# MONAI Label, in an environment of its own: its requirements and those of the tests do not go together.
LABEL := .venv-label

label: $(LABEL)/.label
	@echo "Start it: $(LABEL)/bin/ldmsr label --studies DIR"

$(LABEL)/.label: pyproject.toml requirements-label.txt constraints-label.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11) and 'MONAI Label is pinned for Python 3.11: make label PYTHON=python3.11')"
	$(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-label.txt
	$(LABEL)/bin/python -m monai_ldmsr.label.stand_ins
	touch $@

test-label: $(VENV)/.test
	.ci/isolated $(BIN)/python -m pytest -m label

# Orthanc, nginx and Chromium from the system's packages, as root, and the viewer OHIF from npm; then its tests, likewise.
viewer:
	.ci/viewer

test-viewer: $(VENV)/.test
	.ci/isolated $(BIN)/python -m pytest -m viewer

# The documentation as a site in build/docs: the notebook is run, any warning fails, and so does a link within the site that leads nowhere.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs
	$(BIN)/python docs/check_links.py build/docs
	@echo "The site: build/docs/index.html"

# Links to other sites, which takes a network.
linkcheck: $(VENV)/.docs
	$(BIN)/python -m sphinx -b linkcheck -q -D nb_execution_mode=off docs build/linkcheck

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check monai_ldmsr tests
	$(BIN)/mypy --strict monai_ldmsr

# Wheel and sdist, built, looked at, and used where no checkout is; leaves them in dist/.
release-check: $(VENV)/.test
	.ci/release

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[codecs]'
	touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@ $(VENV)/.demo

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo $(VENV)/.docs

clean:
	rm -rf $(VENV) $(LABEL) .viewer demo_output output build dist *.egg-info
