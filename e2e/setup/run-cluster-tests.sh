#!/usr/bin/env bash
# Starts a Kubernetes with our images in it, runs the cluster tests against it, and ends it.
#   run-cluster-tests.sh TARGET IMAGES [FILTER...]
# The figures stay in TARGET/cluster-figures.json, what the cluster had to say about a test that failed in
# TARGET/test-cluster/failures.
set -euo pipefail
target=$(realpath "$1")
images=$2
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$target/test-cluster

# One JSON line per artifact; the tests' executable is the one whose target is called "cluster".
binary=$(cargo test --workspace --test cluster --no-run --message-format=json 2>/dev/null |
  sed -nE '/"name":"cluster"/s/.*"executable":"([^"]+)".*/\1/p' | tail -n1) || true
if [ -z "$binary" ]; then
  # Again, for people to read what is wrong.
  cargo test --workspace --test cluster --no-run
  echo "the cluster tests were built, but where they are was not told" >&2
  exit 1
fi
"$here/kubernetes/down.sh" "$folder"
rm -rf "$folder/failures" "$folder/kept-logs"
mkdir -p "$folder/images"
cp "$images"/*.tar "$folder/images/"
# Pods take their logs with them when they go, and what is lost in a rollout is lost by a pod that goes.
keep_logs() {
  while sleep 1; do
    cp -aln "$folder/var/log/pods/." "$folder/kept-logs/" 2>/dev/null || true
  done
}
mkdir -p "$folder/kept-logs"
keep_logs &
keeper=$!
trap 'kill $keeper; "$here/kubernetes/down.sh" "$folder"' EXIT
WEFT_E2E=$target/debug/weft-e2e WEFT_CLI=$target/debug/weft "$here/kubernetes/up.sh" "$folder"
RUST_BACKTRACE=0 WEFT_CLUSTER=$folder WEFT_E2E_SLOW="${WEFT_E2E_SLOW:-}" "$binary" "$@"
