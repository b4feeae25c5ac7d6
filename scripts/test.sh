#!/usr/bin/env bash
# Sets up what the tests need and runs them all. Nothing outside the build cache is changed but missing system packages.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cc >/dev/null; then # SQLite and the TLS library are C
  echo "installing a C compiler"
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq && $sudo apt-get install -y -qq build-essential
fi
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

if [ -z "${TEST_DATABASE_URL:-}" ]; then # one of your own works too: PostgreSQL 15 or newer with pgvector, a superuser
  cluster="test-$$"
  trap 'scripts/postgres.sh drop "$cluster"' EXIT
  TEST_DATABASE_URL="$(scripts/postgres.sh start "$cluster")"
  export TEST_DATABASE_URL
fi

if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked "$@"
else
  cargo test --locked "$@"
fi
