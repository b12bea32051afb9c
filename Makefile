# Needs Python 3.10 or newer, cargo, a C compiler and make. `make demo` and `make test` each work in a fresh clone: they
# create .venv, install the pinned set of constraints.txt (torch alone is several GB, once) and build the Rust engine.
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf) apply: point them at torch's CPU wheels for a small install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find rust -path rust/target -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -print)
CARGO := cargo
MANIFEST := --manifest-path rust/Cargo.toml

.PHONY: demo test fuzz sanitize test-rust test-python test-kernels test-neon lint bench docs screenshots package-test kernels kernels-all build format clean
.DEFAULT_GOAL := build

demo: build
	$(BIN)/python -m simtile demo

test: test-rust test-python test-kernels

# Optimised, and with overflow checks and debug assertions: without the first the float64 comparisons take minutes. Debug
# information beyond lines would take another minute to compile. The example is the same tests once more, for test-neon.
test-rust:
	CARGO_PROFILE_TEST_OPT_LEVEL=3 CARGO_PROFILE_TEST_DEBUG=line-tables-only $(CARGO) test --quiet --lib --tests $(MANIFEST)

# The library's own tests and those of the graph under AddressSanitizer: reads and writes outside of buffers, use after free
# and leaks, SIMD included, which Miri does not run. RUSTC_BOOTSTRAP, because the flag is not stable. Five minutes.
sanitize:
	ASAN_OPTIONS=allocator_may_return_null=1 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
		CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_TEST_DEBUG=line-tables-only \
		$(CARGO) test --quiet --lib --test graph --target $(shell rustc -vV | sed -n 's/host: //p') \
		--target-dir rust/target/sanitize $(MANIFEST)

# WORKERS processes of one thread each: the shapes are small, and two libraries' thread pools on two cores hinder each
# other. Tests of threads ask for their own number. A worker holds torch and a few models, 1 to 2 GB.
WORKERS ?= 2
test-python: build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# The NEON kernels under emulation, one thread. Needs a Rust with aarch64's standard library, a cross linker and qemu; on
# Debian: rustc-web cargo-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu qemu-user-static, and ARM_CARGO=/usr/bin/cargo.
ARM := aarch64-unknown-linux-gnu
ARM_CARGO ?= cargo
test-neon:
	RUSTC=$(dir $(shell command -v $(ARM_CARGO)))rustc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		$(ARM_CARGO) build --release --target $(ARM) --target-dir rust/target/arm --example selftest $(MANIFEST)
	qemu-aarch64-static -L /usr/aarch64-linux-gnu rust/target/arm/$(ARM)/release/examples/selftest

# Triton's interpreter is switched on before the first import of triton, hence a process of its own.
test-kernels: build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/kernels

# What docs/faults.md lists, for longer, with Ray where it is installed: 16 minutes with WORKERS=1 on two cores that others used
# too. The last line compiles the engine for a Python without the GIL, against a description of one; 3 minutes.
fuzz: build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/fuzz
	PYO3_CONFIG_FILE=$(abspath rust/free_threaded.txt) $(CARGO) check --features python --target-dir rust/target/free-threaded $(MANIFEST)

lint: build
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml simtile._core
	$(CARGO) fmt $(MANIFEST) --check
	$(CARGO) clippy $(MANIFEST) --all-targets --features python -- -D warnings
	$(CARGO) clippy --locked --manifest-path benches/microkernel/Cargo.toml -- -D warnings

# One process per competitor, interleaved rounds: see benches/. BENCH= takes suites and options, `make bench BENCH=--quick`.
bench: build
	$(BIN)/python -m simtile bench --peers $(BENCH)

# The site, in docs/build/html; a warning is an error. The tutorials are run by tests/test_docs.py.
docs: build
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/build/html

# The pictures of docs/screenshots, by headless Chromium, of what make demo and make bench have left.
screenshots: docs
	$(BIN)/python docs/screenshots.py

# Wheel and sdist in dist/, each tried: the wheel beside NumPy alone, oldest and newest; the sdist built offline.
package-test: build
	.ci/package-test $(BIN)/python

# Compile the GPU kernels ahead of time, without a GPU: spills, shared memory and tensor-core instructions are gates.
kernels: build
	$(BIN)/python -m simtile.kernels.aot

kernels-all: build
	$(BIN)/python -m simtile.kernels.aot --all

format: build
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(CARGO) fmt $(MANIFEST)

# Two stamps: dependencies change seldom, the engine often. The editable install builds the engine as well, so that the
# second step finds everything compiled the first time. The peers come last, with build isolation: hnswlib and a dependency
# of another have no wheel, and build with packages of their own.
build: $(VENV)/engine.stamp

$(VENV)/engine.stamp: $(VENV)/dependencies.stamp $(RUST)
	env -u CONDA_PREFIX VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --skip-install
	touch $@

$(VENV)/dependencies.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "simtile needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt maturin
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[all,test,lint,docs]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'simtile[bench,peers]'
	touch $@

clean:
	rm -rf $(VENV) rust/target dist report docs/build docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis python/simtile/_core*.so
	find python kernels tests benches -name __pycache__ -type d -prune -exec rm -rf {} +
