# Every target is one command; `make help` lists them.
.PHONY: help build unit test test-all test-apps test-soak test-vm fuzz bench lint demo install uninstall clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## build the shipped binaries in target/release
	cargo build --release --locked -p cedana-shim -p cedana-runtime -p cedana-cli

unit: ## unit tests, which need no engine
	cargo test --workspace --locked --exclude cedana-integration

test: ## the tests of CI: unit and integration tests, the microVM's smoke test, short fuzzing
	scripts/test-run

test-all: ## the same in every environment, with Docker in the microVM and longer fuzzing
	scripts/test-run --all

test-apps: ## databases, a browser and other real programs, ten checkpoints and restores each
	scripts/test --apps

test-soak: ## 200 rounds of run, exec, checkpoint, restore, delete; checks that nothing is left behind
	CEDANA_CYCLES=200 scripts/test --test leftovers

test-vm: ## the smoke test and Docker on cgroup v2, in the microVM
	scripts/test --vm

fuzz: ## run the fuzz targets, each for FUZZ_SECONDS (60)
	scripts/fuzz

bench: ## checkpoint, restore, start and memory, compared with containerd's own shim
	scripts/bench
	scripts/bench --docker

lint: ## formatting, clippy, shellcheck, ruff, cargo-deny
	scripts/lint

demo: ## checkpoint a redis to disk and restore it
	scripts/demo

install: ## install binaries, man pages, configuration (PREFIX, DESTDIR); DOCKER=1: in Docker, too
	scripts/install

uninstall: ## remove what install installed
	scripts/install --uninstall

clean: ## remove build results; the testbed's cache stays in /var/tmp/cedana-testbed
	cargo clean
