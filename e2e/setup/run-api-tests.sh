#!/usr/bin/env bash
# Runs the control plane's tests against a real API server, alone on loopback.
#   run-api-tests.sh TARGET [FILTER...]
set -euo pipefail
target=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$target/api-server
server=$here/kubernetes/api-server.sh

trap '"$server" "$folder" down' EXIT
"$server" "$folder" up
export WEFT_TEST_KUBECONFIG=$folder/pki/admin.kubeconfig WEFT_TEST_ETCD=127.0.0.1:${WEFT_TEST_ETCD_PORT:-22379}
export WEFT_TEST_RESTART="$server $folder restart"
# One at a time: a writer of status sees the routes of all tests, and one test has the API server restarted.
cargo test --workspace --test source_kubernetes --test kubernetes_identity --test kubernetes_inject --test kubernetes_status -- \
  --ignored --test-threads=1 "$@"
