#!/usr/bin/env bash
# Installs Debian packages for programs that are missing, says so, and does nothing when all are there. Debian's packages
# would start the daemons they bring: a policy for the time of the installation forbids it, and is taken away again.
#   install.sh PROGRAM=PACKAGE...     (+PACKAGE: install it whatever is there)
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
missing=()
for wanted in "$@"; do
  program=${wanted%%=*}
  if [ "${wanted#+}" != "$wanted" ]; then
    missing+=("${wanted#+}")
  elif ! command -v "$program" >/dev/null; then
    missing+=("${wanted#*=}")
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0
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
