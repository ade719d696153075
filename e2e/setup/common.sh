# What flagger/ and conformance/ share; sourced by their build.sh and run.sh, with `set -euo pipefail` on.
#
# build.sh:
#   enter_cache NAME KEY   makes `cache` the folder outside the checkout for what is built from these pins, which KEY tells from
#                          others. Where all is in it already, says so and ends the script. One script at a time goes on.
#   leave_cache            says that all is in it.
# run.sh, where `target`, `images`, `e2e` (this folder's parent) and `folder` (the cluster's own) are set:
#   clear_place            ends a cluster that was left there, and puts our images where the next one looks for them.
#   start_cluster          starts it. At the script's end it ends; where that failed, what the cluster had to say is in
#                          $folder/failure, with what `more_evidence DIRECTORY` adds, if there is such a function.
#   install_weft           the Gateway API's kinds, and Weft with its chart and the tests' values.

enter_cache() {
  cache=${WEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weft}/$1-$2
  if [ ! -e "$cache/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
  fi
  if [ -e "$cache/complete" ]; then
    echo "$cache"
    exit 0
  fi
}

leave_cache() {
  touch "$cache/complete"
  echo "$cache"
}

kubectl() { "$folder/kubectl" "$@"; }

clear_place() {
  "$e2e/kubernetes/down.sh" "$folder"
  rm -rf "$folder/failure"
  mkdir -p "$folder/images"
  cp "$images"/*.tar "$folder/images/"
}

keep_evidence() {
  mkdir -p "$folder/failure"
  kubectl get pods -A -o wide >"$folder/failure/pods.txt" 2>&1 || true
  kubectl get events -A --sort-by=.lastTimestamp >"$folder/failure/events.txt" 2>&1 || true
  if declare -F more_evidence >/dev/null; then more_evidence "$folder/failure" || true; fi
  cp -r "$folder/var/log/pods" "$folder/failure/logs" 2>/dev/null || true
  echo "what the cluster had to say is in $folder/failure" >&2
}

end_cluster() {
  local status=$?
  [ $status -eq 0 ] || keep_evidence
  "$e2e/kubernetes/down.sh" "$folder"
  exit $status
}

start_cluster() {
  trap end_cluster EXIT
  "$e2e/kubernetes/up.sh" "$folder"
}

install_weft() {
  # Too large for the annotation that a client-side apply keeps.
  kubectl apply --server-side -f "$(realpath "$folder/programs")/crds" >/dev/null
  kubectl wait --for=condition=Established crd/{http,grpc}routes.gateway.networking.k8s.io --timeout=30s >/dev/null
  "$folder/helm" install weft "$e2e/../charts/weft" -n weft-system --create-namespace -f "$e2e/tests/cluster/values.yaml" \
    --wait --timeout=90s >/dev/null
}
