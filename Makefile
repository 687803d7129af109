# `make demo` and `make test` are the two set-up commands; each installs what it needs, once.
#
#   make demo    the main job, end to end, in real processes          (under 3 minutes on a fresh machine)
#   make test    make check, then the whole test suite
#   make check   format, lint, types, import contracts
#   make bench   figures as ratios against a peer in the same run
#   make soak    the long runs: minutes to hours, outside CI
#   make docs    writes the generated pages of docs/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
PYTEST := $(BIN)/pytest
export PIP_DISABLE_PIP_VERSION_CHECK := 1

DEMO_PACKAGES := e2fsprogs
TEST_PACKAGES := $(DEMO_PACKAGES) gcc libc6-dev iproute2 libiscsi-bin qemu-utils qemu-block-extra tshark \
	user-mode-linux tgt chromium fonts-noto-cjk postgresql prometheus qemu-system-x86 fio cpio
BENCH_PACKAGES := $(TEST_PACKAGES) libiscsi-dev
INSTALL_INPUTS := setup.cfg pyproject.toml setup.py constraints.txt $(shell find fcsim iscsi_target tools -name '*_kernel.p*')

.PHONY: demo test check format bench soak docs clean fast-tests slow-tests

demo: $(VENV)/.demo
	@$(BIN)/sancredit demo $(DEMO_FLAGS)

test: check fast-tests slow-tests

check: $(VENV)/.test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fast-tests: $(VENV)/.test
	@$(PYTEST) -q -n $(JOBS) -m "not slow and not lab and not soak"

slow-tests: $(VENV)/.test
	@$(PYTEST) -q -n $(JOBS) -m "(slow or lab) and not soak" --dist loadgroup

soak: $(VENV)/.test
	@$(PYTEST) -q -m soak --timeout 7200

bench: $(VENV)/.test
	@tools/system-packages $(PYTHON) $(BENCH_PACKAGES)
	@$(BIN)/python -m tools.bench

docs: $(VENV)/.test
	@$(BIN)/python -m tools.pages

format: $(VENV)/.test
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@tools/system-packages $(PYTHON) venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(INSTALL_INPUTS)
	@tools/system-packages $(PYTHON) $(DEMO_PACKAGES)
	@$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.test: $(BIN)/python $(INSTALL_INPUTS)
	@tools/system-packages $(PYTHON) $(TEST_PACKAGES)
	@$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.demo
