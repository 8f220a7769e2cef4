# Works with GNU make 3.81 and newer (macOS has 3.81).

PYTHON = python3
SET = laptop
TORCH_INDEX =

VENV = .venv
PY = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed
UNFINISHED = $(VENV)/.unfinished
LOG = $(VENV)/pip.log

# Free megabytes that the set-up needs: without an index for the small build, pip on Linux may bring torch with all of CUDA.
NEED_MB := $(if $(TORCH_INDEX),4000,$(if $(filter Linux,$(shell uname -s)),10000,4000))

export PYTHONUNBUFFERED = 1

.DEFAULT_GOAL := help
.PHONY: help setup findings test test-slow bench site refresh robustness calibrate

help:
	@echo 'make findings    set up, run every notebook, print what was found   (SET=quick: a few minutes)'
	@echo 'make test        set up and run the tests'
	@echo 'make test-slow   run the tests that take long'
	@echo 'make bench       time this library beside its peers'
	@echo 'make site        build the pages from the committed reference run, executing nothing: build/site/index.html'
	@echo 'make refresh     compute the committed reference run again, as far as it is behind (all of it: about an hour)'
	@echo 'make calibrate   measure how often every rule is wrong, where the truth is known (goes on where it stopped; about 3 hours on 2 cores)'
	@echo 'make robustness  try the headline claims under other words, framings, seeds and spellings (goes on where it stopped; about 80 minutes)'
	@echo 'make setup       set up only: make .venv and install what requirements.lock names'
	@echo ''
	@echo 'SET=laptop       parameter set for findings: quick, laptop, or a file in papermill_runs/parameters'
	@echo 'PYTHON=python3   the Python (3.11 or newer) to make .venv with'
	@echo 'TORCH_INDEX=URL  where to take torch from; for the small build without CUDA:'
	@echo '                 make findings TORCH_INDEX=https://download.pytorch.org/whl/cpu'

setup: $(INSTALLED)

findings: $(INSTALLED)
	@$(PY) -m sandbagging run all --set $(SET) --run mine-$(SET)

# Two test processes of one thread each: most of the time goes into starting kernels, which use no second core.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

test-slow: $(INSTALLED)
	$(PY) -m pytest -m slow

bench: $(INSTALLED)
	@for script in tests/benchmarks/bench_*.py; do echo "$$script"; $(PY) "$$script" || exit 1; done

site: $(INSTALLED)
	@$(PY) notebooks/site/build.py

# Everything at once: what is nested in the reference run, and the run itself, side by side.
refresh: $(INSTALLED)
	@$(PY) -m sandbagging refresh

# How often every rule is wrong, where the truth is known; no part of refresh, as is the next.
calibrate: $(INSTALLED)
	@$(PY) -m sandbagging calibrate --jobs 2

# Its runs are many, and only their table is committed.
robustness: $(INSTALLED)
	@$(PY) -m sandbagging robustness

# .installed is written last. .unfinished tells a killed installation, which is then started from nothing.
# torch goes first and by pip, so that TORCH_INDEX decides its build; the lock then finds it in place.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed and '$(PYTHON)' is older or missing: install one, or name it, as in make PYTHON=python3.12." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) -m venv does not work here: run \`sudo apt install python3-venv\`, then make again." >&2; exit 1; }
	@if [ ! -e $(PY) ]; then free=`df -Pk . | awk 'NR == 2 { print int($$4 / 1024) }'`; [ "$$free" -ge $(NEED_MB) ] || { \
	  echo "The set-up needs $(NEED_MB) MB of disk and $$free MB are free here: free some space, then make again (make help shows a smaller build of torch)." >&2; exit 1; }; fi
	@if [ -e $(UNFINISHED) ]; then echo 'The last installation did not end; starting again.'; rm -rf $(VENV); fi
	@[ -e $(PY) ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv does not work here: run \`sudo apt install python3-venv\`, then make again." >&2; exit 1; }
	@rm -f $(INSTALLED); touch $(UNFINISHED)
	@echo 'Installing what requirements.lock names; the first time this takes some minutes.'
	@pip="$(PY) -m pip install --disable-pip-version-check"; \
	{ $$pip `grep '^torch==' requirements.lock` $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  && $$pip -r requirements.lock \
	  && $$pip --quiet --no-deps --no-build-isolation -e .; } 2>$(LOG) || { \
	  if grep -q 'No space left' $(LOG); then echo "The disk is full: free some space, then make again." >&2; \
	  elif grep -qE 'NewConnectionError|NameResolution|resolution|timed out|Max retries|ProxyError|Network is unreachable|Connection' $(LOG); then \
	    echo "The packages could not be fetched: connect to the network, then make again." >&2; \
	  else echo "The packages could not be installed: read why in $(LOG), then make again." >&2; fi; \
	  exit 1; }
	@rm -f $(UNFINISHED); touch $@
