#!/usr/bin/env bash
# Starts a Kubernetes with our images in it, runs the cluster tests against it one at a time, and ends it.
#   run-cluster-tests.sh TARGET IMAGES [FILTER...]
set -euo pipefail
target=$(realpath "$1")
images=$2
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$target/test-cluster

binary=$(cargo test --workspace --test cluster --no-run --message-format=json |
  sed -nE '/"name":"cluster"/s/.*"executable":"([^"]+)".*/\1/p' | tail -n1)
"$here/kubernetes/down.sh" "$folder"
mkdir -p "$folder/images"
cp "$images"/*.tar "$folder/images/"
trap '"$here/kubernetes/down.sh" "$folder"' EXIT
WEFT_E2E=$target/debug/weft-e2e "$here/kubernetes/up.sh" "$folder"
WEFT_CLUSTER=$folder "$binary" --test-threads=1 "$@"
