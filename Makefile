# Weft. `make help` lists what there is; each target installs the Debian packages it needs, if they are missing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Tests and the demo make network namespaces and run under several UIDs.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=BREAK,HOLD,WEFT_BIN_DIR)

BENCH = $(SUDO) env WEFT_BIN_DIR=$(realpath $(TARGET))/$(MUSL)/release $(TARGET)/tools/weft-bench run --venv $(TARGET)/bench/venv

# Images hold static binaries: the test profile, unless PROFILE=release.
MUSL := $(shell uname -m)-unknown-linux-musl
PROFILE ?= dev
IMAGES := $(TARGET)/images/$(PROFILE)
STATIC := $(TARGET)/$(MUSL)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# What the compiler is told of the ways through the sidecar that are taken: sidecar/pgo/README.md.
PGO := sidecar/pgo/$(MUSL)-$(shell rustc --version | cut -d' ' -f2).profdata.gz
PGO_USE = $(if $(filter release,$(PROFILE)),$(if $(wildcard $(PGO)),-Cprofile-use=$(shell sidecar/pgo/unpack.sh $(PGO) $(TARGET)/pgo/profiles)))
BUILD_STATIC = CC_$(subst -,_,$(MUSL))=musl-gcc \
  CARGO_TARGET_$(shell echo $(MUSL) | tr a-z- A-Z_)_RUSTFLAGS='$(PGO_USE)' $(CARGO) build --locked --target $(MUSL) --profile
VERSION := $(shell sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -n1)
REPOSITORY ?= weft.dev

.PHONY: cluster cluster-down conformance flagger images static static-rest musl pgo help build build-tests bench bench-quick bench-build peers instructions demo test test-unit test-e2e test-api test-cluster test-slow soak fuzz differential lint fmt clean packages

help: ## What there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | awk -F'\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

build: ## Build everything
	$(CARGO) build --workspace

# With what tests want of dependencies, or each would be built twice, once for the tests and once for the programs.
build-tests:
	$(CARGO) build --workspace --bins --tests

demo: packages build ## A canary split over mesh TLS between real processes (BREAK=retries|mtls|eject must fail; HOLD=1 leaves it running)
	$(SUDO) $(TARGET)/debug/weft-e2e demo

test: test-unit test-e2e ## All tests

test-unit: ## Unit, property and in-process tests
	@# The whole workspace each time: another selection would unify features otherwise and build dependencies again.
	$(CARGO) test --workspace --lib --bins --test discovery --test source_files

test-e2e: packages build-tests ## Tests between pods made of network namespaces (as root)
	@e2e/setup/run-tests.sh $(TARGET) "$(SUDO)"

test-api: ## The control plane's tests against a real API server, alone on loopback (as root)
	@e2e/setup/run-api-tests.sh $(TARGET) $(FILTER)

test-cluster: images build-tests ## Those, and tests on a real Kubernetes of its own: the first time, ten minutes more to build that (FILTER=names; as root)
	@[ -n "$(FILTER)" ] || e2e/setup/run-api-tests.sh $(TARGET)
	@$(SUDO) e2e/setup/run-cluster-tests.sh $(TARGET) $(IMAGES) $(FILTER)

conformance: images ## The Gateway API's conformance suite for meshes, on a Kubernetes of its own; the report goes to e2e/conformance/reports
	@$(SUDO) env WEFT_E2E=$(abspath $(STATIC))/weft-e2e e2e/conformance/run.sh $(TARGET) $(IMAGES) $(VERSION) $(SUITE)

flagger: images ## Untouched Flagger on a Kubernetes of its own: good and bad canaries by our metrics; the report goes to e2e/flagger/reports
	@$(SUDO) env WEFT_E2E=$(abspath $(STATIC))/weft-e2e e2e/flagger/run.sh $(TARGET) $(IMAGES) $(VERSION)

test-slow: packages build-tests ## The same at full length: a control plane dead for 30 s, certificates rotating for 2 minutes
	@WEFT_E2E_SLOW=1 e2e/setup/run-tests.sh $(TARGET) "$(SUDO)"

soak: packages build-tests ## Ten minutes of load with connections that come and go: memory and descriptors stay as they are (SOAK_SECONDS)
	@WEFT_E2E_SOAK_SECONDS=$(or $(SOAK_SECONDS),600) e2e/setup/run-tests.sh $(TARGET) "$(SUDO)" --nocapture a_soak_leaves

bench: packages bench-build ## Weft beside Envoy, haproxy, nginx and no proxy: forty minutes on a quiet machine, then bench/RESULTS.md, with each turn in bench/results.json
	$(BENCH) --results $(TARGET)/bench/results.json --report bench/RESULTS.md

bench-quick: packages bench-build ## The same in less than six minutes, for a first look: target/bench/RESULTS-quick.md
	$(BENCH) --seconds 0.8 --repeats 2 --latency-repeats 6 --warm-up 0.3 --results $(TARGET)/bench/results-quick.json --report $(TARGET)/bench/RESULTS-quick.md

instructions: ## Instructions of a request and of what it is made of, by callgrind, against bench/instructions.txt (UPDATE=1 records them)
	@bench/instructions.sh $(TARGET)

fuzz: ## Every fuzz target for FUZZ_SECONDS (300 each), FUZZ_JOBS at once; keeps the corpora and writes fuzz/REPORT.md (wants a nightly toolchain)
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),300) fuzz/run.sh $(FUZZ_TARGETS)

# Wants Node and Go, whose parsers are recorded; the test itself, which `make test-unit` runs, wants neither.
DIFFERENTIAL := sidecar/src/http/h1/differential
differential: ## Record anew what llhttp and Go make of the HTTP/1 inputs, compare, and write docs/reference/http1-differences.md
	WEFT_INPUTS=$(abspath $(TARGET))/http1-inputs.hex $(CARGO) test -p weft-sidecar --lib -- --ignored differential::inputs_are_written
	node --no-deprecation $(DIFFERENTIAL)/record/llhttp.js $(TARGET)/http1-inputs.hex >$(DIFFERENTIAL)/recorded/llhttp.txt
	go run $(DIFFERENTIAL)/record/go/main.go $(TARGET)/http1-inputs.hex >$(DIFFERENTIAL)/recorded/go.txt
	WEFT_WRITE_REFERENCE=1 $(CARGO) test -p weft-sidecar --lib -- http::h1::differential

images: static ## OCI archives of the sidecar and the control plane in target/images (PROFILE=release for those that ship)
	@for part in sidecar control-plane; do \
	  $(STATIC)/weft-e2e image --name $(REPOSITORY)/$$part:$(VERSION) --file $(STATIC)/weft-$$part=/weft-$$part \
	    --entrypoint /weft-$$part --output $(IMAGES)/$$part.tar; \
	done
	@$(STATIC)/weft-e2e image --name weft.test/apps:1 --file $(STATIC)/weft-e2e=/weft-e2e --entrypoint /weft-e2e \
	  --output $(IMAGES)/apps.tar

cluster: images build ## A Kubernetes of its own on this machine, with our images in it; says how to talk to it
	@mkdir -p $(TARGET)/cluster/images && cp $(IMAGES)/*.tar $(TARGET)/cluster/images/
	@$(SUDO) env WEFT_E2E=$(abspath $(STATIC))/weft-e2e WEFT_CLI=$(abspath $(TARGET))/debug/weft e2e/kubernetes/up.sh $(TARGET)/cluster
	@echo "try: $(TARGET)/cluster/kubectl get pods --all-namespaces     (and $(TARGET)/cluster/helm, $(TARGET)/cluster/weft; make cluster-down ends it)"

cluster-down: ## End it, without a trace
	@$(SUDO) e2e/kubernetes/down.sh $(TARGET)/cluster

lint: ## Formatting, clippy, the Helm chart, licences and advisories of what we depend on
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@charts/check.sh $(TARGET)
	@e2e/setup/deny.sh $(TARGET)

fmt: ## Format the code
	$(CARGO) fmt --all

clean: ## Remove what was built and what tests left
	$(CARGO) clean

# What ships is built as it ships, apart: built together with the tools it would get their features too.
bench-build:
	$(MAKE) --no-print-directory static PROFILE=release
	$(CARGO) build --profile tools -p weft-e2e -p weft-bench
	@$(MAKE) --no-print-directory peers

peers:
	@bench/setup/peers.sh $(TARGET)

# Static, by musl: an image has nothing else in it. C parts (the TLS library's, the allocator's) need its compiler.
# What ships is built one program at a time, as its Dockerfile does, so that it has its own features of what it depends on
# and the profile fits; for tests all at once is quicker.
static: musl
ifeq ($(PROFILE),release)
	@[ -n "$(PGO_USE)" ] || echo "no profile for this compiler ($(notdir $(PGO))): the sidecar will be some 6 % slower and 2 MB larger; make pgo makes one"
	$(BUILD_STATIC) release -p weft-sidecar
	$(MAKE) --no-print-directory static-rest PROFILE=release PGO_USE=
else
	$(BUILD_STATIC) $(PROFILE) -p weft-sidecar -p weft-control-plane -p weft-e2e
endif

static-rest:
	$(BUILD_STATIC) $(PROFILE) -p weft-control-plane
	$(BUILD_STATIC) $(PROFILE) -p weft-e2e

musl:
	@e2e/setup/install.sh musl-gcc=musl-tools
	@rustup target list --installed 2>/dev/null | grep -qx $(MUSL) || rustup target add $(MUSL)

pgo: packages peers musl ## The profile by which the sidecar that ships is optimised, anew: sidecar/pgo (20 minutes, as root)
	@sidecar/pgo/make.sh $(TARGET) $(MUSL) $(PGO) "$(SUDO)"

packages:
	@e2e/setup/packages.sh
