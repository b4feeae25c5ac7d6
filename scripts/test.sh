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

if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --locked "$@"
fi
exec cargo test --locked "$@"
