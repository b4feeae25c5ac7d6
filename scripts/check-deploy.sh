#!/usr/bin/env bash
# Checks what deploys the server as far as that goes without a cluster: the manifests against the schemas of Kubernetes,
# and, where the programs are there, the Compose files and the Caddyfile.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${XDG_CACHE_HOME:-$HOME/.cache}/engramia"
kubernetes=1.34 # at least 1.30, which has `sleep` in preStop

venv="$cache/deploy-venv"
if [ ! -x "$venv/bin/kubernetes-validate" ]; then
  python3 -m venv "$venv" || { apt-get update -qq && apt-get install -y -qq python3-venv && python3 -m venv "$venv"; }
  "$venv/bin/pip" install -q --disable-pip-version-check kubernetes-validate==1.37.0
fi
cd deploy/kubernetes
manifests() { find . -name '*.yaml' ! -name kustomization.yaml -printf '%P\n' | sort; }
manifests | xargs "$venv/bin/kubernetes-validate" --strict --no-warn -k "$kubernetes"
# Each manifest is applied, but for the example; and each one that is applied is there.
diff <(sed -n 's/^  - \(.*\.yaml\)$/\1/p' kustomization.yaml | sort) <(manifests | grep -v '^secret\.example\.yaml$')
cd ../..

if docker compose version >/dev/null 2>&1; then
  for file in docker-compose*.yml; do docker compose -f "$file" config -q && echo "INFO $file passed"; done
fi
if command -v caddy >/dev/null; then
  ENGRAMIA_DOMAIN=engramia.example caddy validate --config deploy/caddy/Caddyfile --adapter caddyfile 2>&1 | tail -1
fi
