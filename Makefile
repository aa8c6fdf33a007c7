# SPDX-License-Identifier: MIT
# make bench          measure this machine           (RIVALS=1 also times torch; SUITE=standard; ARGS="--op gemv")
# make test           test roofbench                 (TORCH_INDEX=... an index with torch's CPU wheels)
# make lint           style and types
# make gpu            measure an NVIDIA or AMD GPU with the torch and triton of PYTHON, no network; see results/
# make wheel          build sdist and wheel, try both in clean environments

PYTHON ?= python3
SUITE ?= quick
ARGS ?=
RIVALS ?=
TORCH_INDEX ?=
BIN := .venv/bin

ifeq ($(OS),Windows_NT)
$(error roofbench does not run on native Windows: install WSL2 (wsl --install) and run make there)
endif

.PHONY: bench test lint wheel gpu clean

bench:
	@$(PYTHON) tools/make_venv.py bench $(if $(RIVALS),--rivals) --index "$(TORCH_INDEX)"
	$(BIN)/python -m pytest bench/ --benchmark-only --suite $(SUITE) $(ARGS)

test:
	@$(PYTHON) tools/make_venv.py test --index "$(TORCH_INDEX)"
	$(BIN)/python -m pytest $(ARGS)

lint:
	@$(PYTHON) tools/make_venv.py lint --index "$(TORCH_INDEX)"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.c csrc/*.cu csrc/*.h tests/wrong/*.c kernelsim/runtime/*.[ch]pp kernelsim/runtime/*/*.[ch]pp

wheel:
	@$(PYTHON) tools/make_venv.py lint --index "$(TORCH_INDEX)"
	$(BIN)/python tools/check_wheel.py

gpu:
	$(PYTHON) tools/measure_gpu.py --suite $(or $(filter-out quick,$(SUITE)),standard) $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info roofbench/*.so roofbench/_cpu.c
