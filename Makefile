# `make` lists what there is. Each target installs what it needs and is missing (scripts/setup).

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Tools that scripts/setup built for this project.
export PATH := $(PATH):$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/odgm/tools/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Start a node with a demo collection; its data is in ./data
	@scripts/setup build
	@scripts/run

.PHONY: cluster
cluster: ## Start three nodes on this machine, and say how to kill one; their data is in ./data-cluster
	@scripts/setup build
	@scripts/cluster

.PHONY: functions
functions: ## Start functions to try calls and triggers with, on port 7001; IN=python for those in Python
	@scripts/functions $(or $(IN),rust)

# Always the whole workspace: cargo unites the features of what is selected, and other features are another build.
.PHONY: test
test: ## Run all tests; ARGS=NAME runs those whose name contains it
	@scripts/setup build test functions
	cargo build --workspace --bins --tests
	cargo nextest run --workspace $(ARGS)
	cargo test --doc --workspace --quiet

.PHONY: lint
lint: ## Check formatting, clippy, and the licences and sources of dependencies
	@scripts/setup build lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny check bans licenses sources

.PHONY: audit
audit: ## Check dependencies against the RustSec advisories; fetches them from github.com
	@scripts/setup lint
	cargo deny check advisories

.PHONY: bench
bench: ## Compare a node with etcd, Redis, Restate and services that do nothing; ARGS=--help lists options
	@scripts/setup build bench
	cargo build --release --workspace --bins
	ODGM_BIN=$(TARGET)/release/odgm $(TARGET)/release/bench $(ARGS)

.PHONY: chaos
chaos: ## Kill, pause and cut off nodes of a cluster under load for five minutes; ARGS=--help lists options
	@scripts/setup build
	cargo build --workspace --bins
	$(TARGET)/debug/chaos $(ARGS)

.PHONY: simulate
simulate: ## Run simulated clusters, SEEDS=1..1000; or one of them, SEED=7
	@scripts/setup build test
	cargo build --workspace --bins --tests
	ODGM_SIMULATION_SEED=$(SEED) ODGM_SIMULATION_SEEDS=$(or $(SEEDS),1..1000) cargo nextest run --workspace --no-capture \
	  --run-ignored only --profile simulation \
	  -E 'package(odgm-replication) and test(=raft::simulation::corpus::$(if $(SEED),one_seed,many_seeds))'

.PHONY: fuzz
fuzz: ## Feed damaged bytes to the parsers, SECONDS=60 for each; see fuzz/README.md
	@scripts/setup build fuzz
	cd fuzz && for target in record view_key; do \
	  mkdir -p corpus/$$target && \
	  cargo fuzz run --sanitizer none $$target corpus/$$target seeds/$$target -- -max_total_time=$(or $(SECONDS),60) || exit 1; \
	done

.PHONY: demo
demo: ## Load a year of flights and check all that should hold; FLIGHTS=FILE takes others
	@scripts/setup build
	cargo build --workspace --bins
	$(TARGET)/debug/demo $(FLIGHTS)

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: setup
setup: ## Install everything that any target needs
	scripts/setup build test lint bench fuzz functions
