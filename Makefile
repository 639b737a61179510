# What you can do here: `make help`.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-tools demo-wasm test e2e wasm yardstick cc tools sidecar plugin annotated-policy.wasm image publish publish-image bench bench-fuse fuzz soak \
  e2e-cluster test-cluster test-crates test-servers test-tools cluster-build cluster-up cluster-down deploy lint lint-deploy fmt clean

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TOOL := target/debug/kubectl-fluid_sidecar
PODRUN := target/debug/podrun
FLUID_FUSE := target/$(HOST)/debug/fluid-fuse
ARTIFACTS := target/debug/artifacts
# One or several; another than the host's needs its linker and `rustup target add`, as the Containerfile does it.
TARGET ?= $(HOST)
SOAK_MINUTES ?= 10
# The kubectl plugin that runs the compiled policy, too, as users need it not and tests do.
ENGINE := --features kubectl-fluid-sidecar/server
export TOOL PODRUN FLUID_FUSE ARTIFACTS
# Static, so that it runs in an image with nothing else in it.
STATIC := RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked

help: ## this list
	@sed -n 's/^\([a-z0-9.-]*\):.*## /  make \1|/p' Makefile | column -t -s '|'

# What the packages are needed for; scripts/need.sh has the list.
USES ?= test

setup: ## install the packages that the demo and the tests need, or those for USES (such as "bench"); nothing else installs any
	@scripts/need.sh --install $(USES)

demo: TOOL := target/$(HOST)/debug/kubectl-fluid_sidecar
demo: PODRUN := target/$(HOST)/debug/podrun
demo: export POLICY := target/demo.wasm
demo: ## see a Pod admitted, mutated and run, its app reading a Dataset through the sidecar
	@demo/run.sh --check
	@$(MAKE) --no-print-directory demo-wasm demo-tools
	@demo/run.sh

# Both are quick to build: without optimisation, the kubectl plugin with an interpreter alone, and the tools in one go, so
# that each dependency is compiled once.
demo-wasm: cc
	@scripts/build-wasm.sh demo

demo-tools: cc
	$(STATIC) --target $(HOST) -p kubectl-fluid-sidecar -p fluid-fuse -p podrun --no-default-features --features kubectl-fluid-sidecar/interpreter

test: ## everything CI runs: lints, unit, golden and property tests, real mounts and containers, e2e, demo
	@scripts/test.sh

e2e: wasm tools ## the compiled policy through the command line (and the golden cases through kwctl when it is installed)
	@scripts/need.sh e2e
	bats e2e.bats

wasm: cc ## build the policy: target/policy.wasm
	@scripts/build-wasm.sh

yardstick: cc ## build the policy that the cost of ours is compared with: target/yardstick.wasm
	@scripts/build-wasm.sh yardstick

cc:
	@scripts/need.sh build

tools: cc ## build the kubectl plugin, podrun, the benchmark's object store, what makes artifacts, and the sidecar for debugging
	cargo build --locked -p artifacts -p kubectl-fluid-sidecar -p podrun -p fuse-bench $(ENGINE)
	$(STATIC) --target $(HOST) -p fluid-fuse

sidecar: cc ## build fluid-fuse as it is released, for the host or TARGET (such as "x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu")
	$(STATIC) --release -p fluid-fuse $(TARGET:%=--target %)

# Static on Linux, as the sidecar is, so that it runs on any distribution. macOS has no static programs, and ignores it.
plugin: cc ## build kubectl-fluid_sidecar as it is released, for the host or TARGET
	$(STATIC) --release -p kubectl-fluid-sidecar $(TARGET:%=--target %)

# Never by kwctl, which writes the code anew: the digest would depend on whether it is installed.
annotated-policy.wasm: wasm ## the policy with its metadata, as policy servers want it, and as an OCI layout: target/policy
	cargo build --locked -p artifacts
	@$(ARTIFACTS) annotate --usage README.md
	@$(ARTIFACTS) policy

image: sidecar ## make the sidecar's image without a daemon: target/image (OCI layout), for the host or TARGET
	cargo build --locked -p artifacts
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)} \
	  $(ARTIFACTS) image $$(git rev-parse HEAD 2>/dev/null | sed 's/^/--revision=/') $(TARGET:%=target/%/release/fluid-fuse)

publish: annotated-policy.wasm ## push the policy to REGISTRY (such as ghcr.io/ORG), with TAG or its version, by kwctl or skopeo
	@scripts/publish.sh policy "$(REGISTRY)" "$(TAG)"

publish-image: image ## push the sidecar's image to REGISTRY, with TAG or its version, by skopeo
	@scripts/publish.sh image "$(REGISTRY)" "$(TAG)"

bench: wasm yardstick ## what a review costs: natively, and through the compiled policy (writes bench/review.md)
	cargo bench --locked --profile host --bench review
	cargo bench --locked --profile host -p kubectl-fluid-sidecar $(ENGINE) --bench cost

bench-fuse: FLUID_FUSE := target/$(HOST)/release/fluid-fuse
bench-fuse: sidecar ## what reading through the sidecar costs, beside its peers and the limits (as root; 20 minutes)
	cargo build --locked --release -p fuse-bench
	@bench/run.sh $(BENCH_FUSE)

fuzz: ## look for inputs that the policy or the sidecar does not answer, for FUZZ_SECONDS each (with cargo-fuzz and a nightly toolchain)
	@fuzz/run.sh

soak: cc ## read and write through restarts, outages and faults, for SOAK_MINUTES (10; as root; SOAK_SEED repeats a run)
	SOAK_MINUTES=$(SOAK_MINUTES) cargo test --locked -p fluid-fuse --test soak

e2e-cluster: export DOCTOR = 1
e2e-cluster: wasm tools ## the policy and the sidecar in a real Kubernetes: scenarios through kubectl, golden cases judged (as root)
	cargo build --locked -p fluid-fuse --example s3-store
	@e2e/cluster/test.sh

# Steps of scripts/test.sh, which has built what they need.
test-cluster:
	@e2e/cluster/test.sh

test-crates:
	@cargo test --locked --workspace $(ENGINE)

test-servers:
	@scripts/test-servers.sh

test-tools:
	@scripts/check-schema.sh
	@bats --tap e2e.bats
	@bats --tap publish.bats
	@bats --tap deploy.bats
	@scripts/test-monitoring.sh

# Where no cluster can run, nothing has to be built.
cluster-build: ## build what cluster-up starts, while something else is done (as root)
	@e2e/cluster/up.sh --build || [ $$? -eq 77 ]

cluster-up: tools ## start a real Kubernetes with a serverless and an ordinary node, built from Go modules (as root)
	@e2e/cluster/up.sh

cluster-down: ## end it, and leave nothing but the built programs
	@e2e/cluster/down.sh

lint: cc ## formatting, clippy with warnings denied, shell scripts, workflows, dependencies (with cargo-deny when installed)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets $(ENGINE) -- -D warnings
	cargo clippy --locked -p kubectl-fluid-sidecar -- -D warnings
	cargo clippy --locked -p kubectl-fluid-sidecar --no-default-features --features interpreter -- -D warnings
	@# With the examples, and so with the dependencies as clippy checked them: alone a fifth of them would be checked anew.
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet --lib --bin podrun --examples
	@scripts/need.sh lint
	shellcheck --external-sources scripts/*.sh bench/*.sh demo/*.sh fuzz/*.sh e2e/cluster/*.sh e2e/cluster/go/*.sh e2e/cluster/eci-* e2e/cluster/helpers.bash .ci/run
	scripts/check-workflows.sh
	@if command -v cargo-deny >/dev/null; then cargo deny --all-features check; \
	  else echo "skipped: cargo-deny is not installed, so deny.toml was not checked"; fi

deploy: ## make the single files of deploy/ of its overlays (with kubectl or kustomize, and Debian's python3-yaml)
	@scripts/deploy.py

lint-deploy: wasm tools ## the manifests of deploy/: their types, what they select, and what becomes of the examples
	cargo test --locked --test metadata --test deploy

fmt: ## format the code
	cargo fmt --all

clean: ## remove everything built
	cargo clean
