#!/usr/bin/env bash
# The monitoring stack (docker-compose.monitoring.yml) and the production stack it watches (docker-compose.prod.yml).
#
#   scripts/monitoring.sh start       monitoring only; the production stack must be running
#   scripts/monitoring.sh start-all   production, then monitoring
#   scripts/monitoring.sh status      what runs
#   scripts/monitoring.sh logs        follow the logs; a service may be named
#   scripts/monitoring.sh restart     monitoring only; also takes over changed files
#   scripts/monitoring.sh stop        monitoring only; production keeps running
#   scripts/monitoring.sh stop-all    both
#
# Volumes are never removed.
set -euo pipefail
cd "$(dirname "$0")/.."

network=engramia-net

fail() {
  printf 'monitoring.sh: %s\n' "$*" >&2
  exit 1
}

usage() {
  sed -n '4,10s/^# \{0,3\}//p' "$0" >&2
  exit 2
}

monitoring() { docker compose -f docker-compose.monitoring.yml "$@"; }
production() { docker compose -f docker-compose.prod.yml "$@"; }

need_docker() {
  command -v docker >/dev/null || fail "docker is not installed: https://docs.docker.com/engine/install/"
  docker compose version >/dev/null 2>&1 || fail "docker has no compose plugin: install docker-compose-plugin"
  docker info >/dev/null 2>&1 ||
    fail "the Docker daemon cannot be reached: is it running, and may $(id -un) use it (group docker)?"
}

need_network() {
  docker network inspect "$network" >/dev/null 2>&1 ||
    fail "the network $network is missing: start the production stack first, or use: scripts/monitoring.sh start-all"
}

# Docker would make a directory of a file that is not there.
need_token_file() {
  [ -e secrets/metrics_token ] && return
  mkdir -p -m 700 secrets
  : >secrets/metrics_token
  chmod 444 secrets/metrics_token
}

start() {
  need_network
  need_token_file
  monitoring up -d
  printf '%s\n' \
    'Grafana: http://localhost:3000' \
    'Prometheus: http://localhost:9090' \
    'Alertmanager: http://localhost:9093' \
    'Uptime Kuma: http://localhost:3001'
}

[ $# -ge 1 ] || usage
verb="$1"
shift
case "$verb" in
  start | start-all | status | logs | restart | stop | stop-all) need_docker ;;
  *) usage ;;
esac
case "$verb" in
  start) start ;;
  start-all)
    production up -d
    start
    ;;
  status) monitoring ps "$@" ;;
  logs) monitoring logs --follow --tail 100 "$@" ;;
  restart)
    need_network
    need_token_file
    # Files are mounted: a container that runs has read them already.
    monitoring up -d
    monitoring restart "$@"
    ;;
  stop) monitoring down ;;
  stop-all)
    monitoring down
    production down
    ;;
esac
