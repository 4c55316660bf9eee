# Every target is one command; `make help` lists them.
.PHONY: help build unit stories test test-all test-apps test-soak test-vm fuzz bench lint demo install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## the shipped binaries, into target/release
	cargo build --release --locked -p cedana-shim -p cedana-runtime

unit: ## tests that need no engine
	cargo test --workspace --locked --exclude cedana-integration

stories: ## the integration tests on both suites of the testbed
	scripts/test

test: ## what CI runs: lint, unit tests, stories, the microVM's smoke, fuzzing
	scripts/check

test-all: ## the same with every combination of engine and runtime, before a release
	scripts/check --all

test-apps: ## databases, a browser and other real programs, ten checkpoints and restores each
	scripts/test --apps

test-soak: ## 200 rounds of run, exec, checkpoint, restore, delete: nothing may be left
	CEDANA_CYCLES=200 scripts/test --test leftovers

test-vm: ## cgroup v2, in the microVM: the smoke, and kinds of Docker containers
	scripts/test --vm

fuzz: ## the fuzz targets, each for FUZZ_SECONDS (60)
	scripts/fuzz

bench: ## checkpoint, restore, start and memory beside containerd's own shim
	scripts/bench
	scripts/bench --docker

lint: ## formatting, clippy, shellcheck, cargo deny
	scripts/lint

demo: ## freeze a redis to disk and bring it back
	scripts/demo

install: ## binaries, man pages, configuration (PREFIX, DESTDIR); DOCKER=1: Docker's entry
	scripts/install

uninstall: ## what install put in place
	scripts/install --uninstall

clean: ## build results; the testbed's cache stays in /var/tmp/cedana-testbed
	cargo clean
