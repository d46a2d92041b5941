# The way in. The work is in .ci/, where the same scripts serve this file and CI.

SHELL := /bin/bash
export KATA_CACHE ?= $(CURDIR)/.cache
# Options of `kata-image build` for the demo's kernel: --kernel-package,
# --kernel-minimal, --kernel-installed or --kernel FILE.
KERNEL ?= --kernel-package
# Which figures `make bench` measures: start exec stream size crowd memory supervisor
# runc network kvm hello io.
FIGURES ?=

.PHONY: help demo test test-aarch64 test-nested lint ci bench bench-nested image clean

help: ## Show this
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## Run a container in a virtual machine; installs what is missing
	@.ci/setup demo
	@image=$$(.ci/guest image $(KERNEL)) && \
	    KATA_GUEST_IMAGE=$$image KATA_BUSYBOX=$$(command -v busybox) \
	    cargo run --locked --release --package kata-examples --bin demo

test: ## Run all tests; installs what is missing
	@.ci/setup test
	@.ci/test

test-aarch64: ## Run the tests that boot arm64 machines, on x86_64 (Debian, root)
	@.ci/aarch64

test-nested: ## Run the tests that need KVM, in an emulated machine that has it
	@.ci/setup test
	@kernel=$$(.ci/guest minimal-kernel | tail -n 1) && \
	    image=$$(.ci/guest image --kernel-minimal) && \
	    KATA_TEST_KERNEL=$$kernel KATA_GUEST_IMAGE=$$image \
	    KATA_BUSYBOX=$$(command -v busybox) .ci/nested/test

image: ## Make a guest image and print its directory
	@.ci/setup demo
	@.ci/guest image $(KERNEL)

lint: ## Check format and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

bench: ## Measure, on the small kernel, and print ratios
	@.ci/setup test
	@agent=$$(.ci/guest agent) && probe=$$(.ci/guest probe) && \
	    image=$$(.ci/guest image --kernel-minimal) && \
	    KATA_GUEST_IMAGE=$$image KATA_AGENT=$$agent KATA_GUEST_PROBE=$$probe \
	    KATA_BUSYBOX=$$(command -v busybox) KATA_RUNC=$$(.ci/guest runc) \
	    cargo bench --locked --package kata-benches --bench figures -- $(FIGURES)

bench-nested: ## Measure what needs KVM, in an emulated machine that has it
	@.ci/setup test
	@agent=$$(.ci/guest agent) && probe=$$(.ci/guest probe) && \
	    image=$$(.ci/guest image --kernel-minimal) && \
	    KATA_GUEST_IMAGE=$$image KATA_AGENT=$$agent KATA_GUEST_PROBE=$$probe \
	    KATA_BUSYBOX=$$(command -v busybox) .ci/nested/bench $(or $(FIGURES),kvm hello io)

ci: ## Run all checks, as CI does
	@.ci/run

clean: ## Remove what was built, and the cache
	cargo clean
	rm -rf .cache lcov.info
