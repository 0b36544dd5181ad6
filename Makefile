# Two commands: `make demo` and `make test`. Both make .venv first, pinned and hash-checked; nothing is installed elsewhere.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = .venv/bin/python -m pip install --quiet --require-hashes --no-deps
STAMP = .venv/.installed

# On a shared machine, threads that wait by spinning cost more than they gain.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint env lock clean

demo: $(STAMP)
	.venv/bin/python -m tools.demo --output output/demo

test: $(STAMP) lint
	.venv/bin/python -m pytest -q tests

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

env: $(STAMP)
	.venv/bin/python -m dense_d2.env

# Four steps: the installer, the libraries, Detectron2 (its setup imports torch), this project.
$(STAMP): requirements/build.txt requirements/lock.txt requirements/detectron2.txt pyproject.toml
	@echo "Installing into .venv: about 5 GB (PyTorch's ordinary CUDA build, which runs on a CPU too), a few minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "The pinned set is for Python 3.11, and $(PYTHON) is another: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements/build.txt
	$(PIP) --no-build-isolation -r requirements/lock.txt
	$(PIP) --no-build-isolation --use-pep517 -r requirements/detectron2.txt
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# After editing a requirements/*.in: needs uv.
lock:
	for name in build lock; do uv pip compile requirements/$$name.in --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --python-version 3.11 --python-platform x86_64-manylinux_2_28 --quiet -o requirements/$$name.txt; done

clean:
	rm -rf .venv output
