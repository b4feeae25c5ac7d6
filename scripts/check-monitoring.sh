#!/usr/bin/env bash
# Checks what lies in monitoring/: syntax of the files, unit tests of the rules, who is told of what, and the
# shell scripts. Installs Debian's prometheus and prometheus-alertmanager if they are missing and it may.
set -euo pipefail
cd "$(dirname "$0")/.."

need() {
  command -v "$1" >/dev/null && return
  [ "$(id -u)" = 0 ] || { echo "$1 is missing: install the package $2" >&2; exit 1; }
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}
need promtool prometheus
need amtool prometheus-alertmanager

# As it is mounted: beside the token's file. The rules are checked, too.
mounted="$(mktemp -d)"
trap 'rm -rf "$mounted"' EXIT
cp -r monitoring/. "$mounted" && : >"$mounted/metrics_token"
promtool check config "$mounted/prometheus.yml"
promtool test rules monitoring/tests/*.yml
amtool check-config monitoring/alertmanager.yml

receiver() { amtool config routes test --config.file=monitoring/alertmanager.yml "$@"; }
[ "$(receiver alertname=EngramiaDown severity=critical)" = email-critical ]
[ "$(receiver alertname=LowEvalScore severity=warning)" = email-default ]

if command -v shellcheck >/dev/null; then
  shellcheck scripts/*.sh
fi
if docker compose version >/dev/null 2>&1; then
  docker compose -f docker-compose.monitoring.yml config --quiet
fi
