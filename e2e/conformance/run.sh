#!/usr/bin/env bash
# Starts a Kubernetes with our images in it, installs Weft with its chart, runs the Gateway API's conformance suite for its
# mesh profiles against it, and ends it. Run it as root.
#   run.sh TARGET IMAGES VERSION [SUITE'S FLAG...]     (with any, such as -run-test=NAME, no report comes here)
# What the suite said is in TARGET/conformance/suite.log, and so is what the cluster had to say about a run that failed
# (TARGET/conformance/failure). When every test of a mesh ran and passed, the report comes here, to reports/.
set -euo pipefail
target=$(realpath "$1")
images=$2
version=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
e2e=$(cd "$here/.." && pwd)
folder=$target/conformance
. "$e2e/setup/common.sh"
# The manifests' own name for it.
image=registry.k8s.io/gateway-api/echo-advanced:v1.5.1

"$e2e/setup/install.sh" openssl=openssl nsenter=util-linux
programs=$("$here/build.sh")
clear_place

# Its programs and their places are those of the image that the manifests name; that one's certificate is for tests too.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=echo \
  -keyout "$folder/cert.key" -out "$folder/cert.crt" 2>/dev/null
"$WEFT_E2E" image --name "$image" --entrypoint /usr/local/bin/server --output "$folder/images/echo-advanced.tar" \
  --file "$programs/server=/usr/local/bin/server" --file "$programs/client=/usr/local/bin/client" \
  --file "$folder/cert.crt=/cert.crt" --file "$folder/cert.key=/cert.key"

more_evidence() { kubectl -n weft-system logs deployment/weft-control-plane >"$1/control-plane.log" 2>&1; }
start_cluster
install_weft
echo "Weft is installed; the suite runs: half a minute, if all is well"

# From the node's network, where the API server is. What the suite installed ends with the cluster; until then it can be
# looked at.
rm -f "$folder"/{report.yaml,tests.txt}
if ! nsenter --target "$(cat "$folder/node.pid")" --net --uts --ipc --wdns="$folder" -- \
  env KUBECONFIG="$folder/pki/admin.kubeconfig" "$programs/conformance.test" -test.v -test.timeout=30m -version="$version" \
  -report-output="$folder/report.yaml" -tests-output="$folder/tests.txt" -cleanup-base-resources=false "$@" >"$folder/suite.log" 2>&1; then
  grep -E '^ *--- FAIL|conformance_test.go' "$folder/suite.log" >&2 || tail -n40 "$folder/suite.log" >&2
  echo "not conformant: all that was said is in $folder/suite.log" >&2
  exit 1
fi
cat "$folder/tests.txt"
[ $# -eq 0 ] || exit 0
channel=$(sed -n 's/^gatewayAPIChannel: //p' "$folder/report.yaml")
mode=$(sed -n 's/^mode: //p' "$folder/report.yaml")
report=$here/reports/$channel-$version-$mode
install -m 644 "$folder/report.yaml" "$report-report.yaml"
install -m 644 "$folder/tests.txt" "$report-tests.txt"
chown --reference="$here/reports" "$report"-*
echo "conformant: $report-report.yaml"
