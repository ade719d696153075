#!/usr/bin/env bash
# Builds the end-to-end tests as the caller, then runs them as root, one at a time.
#   run-tests.sh TARGET [SUDO] [FILTER...]
set -euo pipefail
target=$1
sudo=${2:-}
shift $(( $# < 2 ? $# : 2 ))

# One JSON line per artifact; the test's executable is the one whose target is called "mesh".
binary=$(cargo test --workspace --test mesh --no-run --message-format=json 2>/dev/null |
  sed -nE '/"name":"mesh"/s/.*"executable":"([^"]+)".*/\1/p' | tail -n1) || true
if [ -z "$binary" ]; then
  # Again, for people to read what is wrong.
  cargo test --workspace --test mesh --no-run
  echo "the end-to-end tests were built, but where they are was not told" >&2
  exit 1
fi
exec $sudo env WEFT_BIN_DIR="$(realpath "$target")/debug" WEFT_E2E_SLOW="${WEFT_E2E_SLOW:-}" \
  WEFT_E2E_SOAK_SECONDS="${WEFT_E2E_SOAK_SECONDS:-}" "$binary" --test-threads=1 "$@"
