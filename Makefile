# Everything a user runs. STACK chooses the OpenMMLab line, PYTHON the interpreter to build from.
STACK ?= onedl
TASK ?= det
PYTHON ?=
PYTEST_ARGS ?=
ROW ?=
JOBS ?= 2

VENV := $(if $(filter onedl,$(STACK)),.venv,.venv-$(STACK))
RUN := $(VENV)/bin/python

# Tests are many small tensors: one thread each is fastest, and steady beside other work. A file stays
# in one process, which shares what its tests prepare. Files go in alphabetical order, so that whole
# programs (tests/e2e) come early and no process is left alone with them.
test test-all faults: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help env demo task test test-all faults check-gpu lint docs dist clean lock

help:
	@echo 'make env    make or repair the environment ($(VENV))'
	@echo 'make demo   train, test and draw a pruned model on demo data (TASK=det|seg|cls)'
	@echo 'make test   lint, type-check and run the test suite (at most 12 minutes on two cores)'
	@echo 'make test-all  the same with the checks marked slow'
	@echo 'make check-gpu  on a GPU: the tests marked gpu, and a training step of the EVA-02 cascade'
	@echo 'make faults  put every fault into data, configs, files and hosts, and write how each ends'
	@echo '            into docs/reliability.md; ROW=name runs one'
	@echo 'make lint   ruff and mypy only'
	@echo 'make docs   write the generated tables and build the documentation into build/site'
	@echo 'make dist   build wheel and sdist into dist/ and check them'
	@echo 'make clean  remove environments, caches, demo data and runs'
	@echo 'Options: STACK=onedl|openmmlab  PYTHON=/path/to/python  PYTEST_ARGS="-k name"  JOBS=2'

env:
	@PYTHON='$(PYTHON)' sh tools/env.sh $(STACK)

demo: task env
	@$(RUN) tools/demo.py --task $(TASK)

# Before the environment is made, which may take minutes.
task:
	@case '$(TASK)' in det|seg|cls) ;; *) \
	echo 'make demo: TASK=$(TASK) is not available; available: det, seg, cls' >&2; exit 2;; esac

# Other runtimes load libraries and thread pools of their own: their tests get processes of their own.
OTHER_RUNTIMES := $(addprefix tests/,contract/test_exported_reducers.py e2e/test_export_tool.py \
	unit/test_export_forms.py)
# A process that crashed is not started anew, since its files would wait for it for ever: the run ends
# and names the test. One that hangs is ended with a traceback (pyproject.toml).
PARALLEL := -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
OR_NONE := || [ $$? -eq 5 ]  # a -k of PYTEST_ARGS may select none of them

test: SELECTION := -m 'not slow'
test test-all: env $(if $(filter onedl,$(STACK)),lint)
	$(RUN) $(PARALLEL) $(addprefix --ignore ,$(OTHER_RUNTIMES)) $(SELECTION) $(PYTEST_ARGS) $(OR_NONE)
	$(RUN) $(PARALLEL) $(OTHER_RUNTIMES) $(SELECTION) $(PYTEST_ARGS) $(OR_NONE)

check-gpu: env
	@$(RUN) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make check-gpu: torch sees no GPU")'
	$(RUN) -m pytest -m gpu $(PYTEST_ARGS)
	$(RUN) benchmarks/speed.py memory model configs/cropr_eva02_cascade_coco.py --device cuda

faults: env
	PYTHONPATH=. $(RUN) tests/faults $(if $(ROW),--row '$(ROW)')

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy cropr_mm tools benchmarks docs/tables

# The tools of the site run in an environment of their own, which uv makes in seconds and keeps.
MKDOCS := $(VENV)/bin/uv tool run -q -p $(RUN) --from mkdocs --with-requirements requirements/docs.txt mkdocs

docs: env
	PYTHONPATH=docs:benchmarks $(RUN) -m tables
	@NO_MKDOCS_2_WARNING=1 $(MKDOCS) build --strict
	@echo 'build/site/index.html written'

dist: env
	rm -rf dist
	$(VENV)/bin/uv build -q --no-build-isolation -p $(RUN) -o dist
	$(VENV)/bin/uvx -q twine check --strict dist/*

clean:
	rm -rf .venv .venv-* .venv*.lock build dist *.egg-info data/demo work_dirs
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Re-resolve the pins of both stacks from requirements/*.in (see requirements/README.md).
lock: env
	sh requirements/lock.sh $(VENV)/bin/uv
