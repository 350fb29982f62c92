# The daily commands. `just` lists them; docs/development.md explains them.

# List the commands.
default:
    @just --list

# Start a server at http://127.0.0.1:8008.
run *ARGS:
    cargo run -- {{ARGS}}

# Check that the code and the tests compile.
check:
    cargo check --all-targets

# Run all tests on SQLite.
test:
    cargo test

# Run the tests over HTTP that have NAME in their names.
test-one NAME:
    cargo test --test it -- {{NAME}}

# Run all tests on a private PostgreSQL cluster.
test-postgres:
    #!/usr/bin/env bash
    set -euo pipefail
    eval "$(tests/postgres start)"
    trap 'tests/postgres stop >/dev/null' EXIT
    cargo test

# Run the lints; every warning is an error.
lint:
    cargo clippy --all-targets -- -D warnings

# Check the licences and sources of the dependencies.
deny:
    cargo deny check licenses bans sources

# Format the Rust code.
fmt:
    cargo fmt

# Serve the page with hot reload; `just run` must be running.
page-dev:
    cd web && npm run dev

# Test the page: types, models, and browsers. ARGS go to vitest, such as `tests/people`.
page-test *ARGS:
    web/run-tests {{ARGS}}

# Run Complement. Without ARGS the whole suite, which writes complement/results.jsonl.
complement *ARGS:
    complement/run {{ARGS}}

# Run the scenarios with Synapse, such as `just interop -k join`.
interop *ARGS:
    tests/interop/run {{ARGS}}

# Measure the server, such as `just bench --bench load`.
bench *ARGS:
    cargo bench {{ARGS}}

# Run everything that a change has to pass.
ci:
    .ci/run
