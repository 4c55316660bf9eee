# Every target is one command; `make help` lists them.
.PHONY: help build unit test test-all test-apps test-soak test-vm fuzz bench lint demo install uninstall clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## the shipped binaries, into target/release
	cargo build --release --locked -p cedana-shim -p cedana-runtime

unit: ## tests that need no engine
	cargo test --workspace --locked --exclude cedana-integration

test: ## what CI runs: unit and integration tests, the microVM's smoke, short fuzzing
	scripts/test-run

test-all: ## the same in full: every environment, the microVM's Docker, long fuzzing
	scripts/test-run --all

test-apps: ## databases, a browser and other real programs, ten checkpoints and restores each
	scripts/test --apps

test-soak: ## 200 rounds of run, exec, checkpoint, restore, delete; checks that nothing is left
	CEDANA_CYCLES=200 scripts/test --test leftovers

test-vm: ## the smoke and Docker on cgroup v2, in the microVM
	scripts/test --vm

fuzz: ## the fuzz targets, each for FUZZ_SECONDS (60)
	scripts/fuzz

bench: ## checkpoint, restore, start and memory beside containerd's own shim
	scripts/bench
	scripts/bench --docker

lint: ## formatting, clippy, shellcheck, ruff, cargo-deny
	scripts/lint

demo: ## checkpoint a redis to disk and restore it
	scripts/demo

install: ## binaries, man pages, configuration (PREFIX, DESTDIR); DOCKER=1: Docker's entry
	scripts/install

uninstall: ## removes what install has put in place
	scripts/install --uninstall

clean: ## removes build results; the testbed's cache stays in /var/tmp/cedana-testbed
	cargo clean
