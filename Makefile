# `make` lists what there is. T=… narrows the tests down: make test T=accept_by_link; B=… is for the benchmarks:
# make bench B='--database sqlite --only intake'

.DEFAULT_GOAL := help
.PHONY: help setup run demo test chaos test-faces fuzz mutants lint fmt bench ci clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing of Postgres, cargo-deny and cargo-machete (some minutes)
	scripts/with-postgres true
	cargo deny --version 2>/dev/null || cargo install --locked cargo-deny@0.20.2
	cargo machete --version 2>/dev/null || cargo install --locked cargo-machete@0.9.2

run: ## Run usher on SQLite with development settings: nothing to install, mail goes to var/outbox
	cargo run --locked

demo: ## Watch an invite go all the way, offline, in a minute
	cargo run --locked -- demo

# They wait more than they work: for mail servers that fall silent, and for the end of killed processes.
test: ## Run all tests, on SQLite and on a throw-away Postgres (installed if missing)
	@USHER_TEST_POSTGRES_FSYNC=off scripts/with-postgres sh -ec ' \
	    if cargo nextest --version >/dev/null 2>&1; \
	    then cargo nextest run --locked --workspace --exclude chaos --test-threads $$((2 * $$(nproc))) $(T); cargo test --locked --doc --quiet; \
	    else cargo test --locked --workspace --exclude chaos $(T); \
	    fi'

# Each run has the machine for itself. Longer ones: docs/reliability.md. The whole workspace, as in the other targets: a part
# of it would be compiled again with other features.
chaos: ## Break everything around usher while it works, half a minute on each database
	cargo build --locked --workspace --bins
	scripts/with-postgres cargo test --locked --workspace --test short_run -- --test-threads 1

# P narrows them down: make test-faces P=tests/faces/accept.test.js
P ?= tests/faces/*.test.js
test-faces: ## Test the pages in a headless Chromium, on both databases, and Clerk's played script against its types
	cargo build --locked
	scripts/with-browser tsc --project tests/faces
	USHER_TEST_POSTGRES_FSYNC=off scripts/with-postgres scripts/with-browser sh -ec 'exec node --test --test-concurrency=1 $(P)'

# F is how many cases each target gets; the dear ones do fewer. The readers need no Postgres.
F ?= 100000
fuzz: ## Feed the readers of foreign input with nonsense, some minutes for each (F=… cases)
	PROPTEST_CASES=$(F) cargo test --locked --workspace --lib --test it -- fuzz

# Only the tests beside the code are run: they need no database. A change that survives lacks a test, or stands in
# .cargo/mutants.toml with the reason why none can tell. M=… is what is changed, by default all of it: some 740 changes,
# of 10 s each in the crates; each in src/invites has the whole service compiled. With M='… --iterate' what was noticed
# before is not tried again.
M ?= --package usher-clerk --package usher-mail --package usher --file 'crates/clerk/src/**' \
	--file crates/mail/src/classify.rs --file crates/mail/src/failure.rs --file 'src/invites/**'
MUTANTS := target/cargo-mutants-27.1.0
mutants: $(MUTANTS)/bin/cargo-mutants ## Change the code in small ways and list what no test notices, for hours (M='--package usher --file src/invites/roles.rs')
	CARGO_TARGET_DIR=$(CURDIR)/target/mutants CARGO_PROFILE_DEV_DEBUG=none \
	    $< mutants $(M) --jobs 1 --timeout 60 --cargo-arg=--locked --cargo-test-arg=--lib --output target

$(MUTANTS)/bin/cargo-mutants:
	cargo install --locked --root $(MUTANTS) cargo-mutants@$(MUTANTS:target/cargo-mutants-%=%)

lint: ## Check formatting, clippy and rustdoc: no warning is let through
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --locked --workspace --no-deps --document-private-items

fmt: ## Format the code
	cargo fmt --all

bench: ## Measure the service, on SQLite and on a throw-away Postgres as durable as a real one (B=… are its options)
	cargo build --locked --release -p usher -p usher-bench --features usher/jemalloc
	scripts/with-postgres timeout 900 target/release/usher-bench $(B)

ci: ## Run everything that a change must pass
	.ci/run

clean: ## Remove what was built; the development data under var stays
	cargo clean
