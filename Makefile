# Two commands: `make demo` and `make test`. Both make .venv first, pinned and hash-checked; nothing is installed elsewhere.
PYTHON ?= python3.11
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
