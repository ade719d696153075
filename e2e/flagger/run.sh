#!/usr/bin/env bash
# Starts a Kubernetes with our images in it, installs Weft, Debian's Prometheus and Flagger, each with its own chart or
# manifest and unchanged, and lets Flagger release three versions of an app: a good one, which has to be promoted, one that
# fails and one that is slow, which have to be rolled back, each for its own reason. Run it as root.
#   run.sh TARGET IMAGES VERSION
# The report comes to reports/. What the cluster had to say about a run that failed is in TARGET/flagger/failure.
set -euo pipefail
target=$(realpath "$1")
images=$2
version=$3
here=$(cd "$(dirname "$0")" && pwd)
e2e=$(cd "$here/.." && pwd)
folder=$target/flagger
. "$e2e/setup/common.sh"

"$e2e/setup/install.sh" nsenter=util-linux
programs=$("$here/build.sh")
flagger=$(sed -n 's/^version: //p' "$programs/chart/Chart.yaml")
clear_place

# The names that the chart and the manifest have for them. Flagger's probes call `wget`, which its own image has from Alpine.
"$WEFT_E2E" image --name "ghcr.io/fluxcd/flagger:$flagger" --entrypoint /flagger --output "$folder/images/flagger.tar" \
  --file "$programs/flagger=/flagger" --file "$programs/wget=/bin/wget"
prometheus=$programs/prometheus/usr/bin/prometheus
libraries=()
while read -r library; do libraries+=(--file "$library=$library"); done < <(ldd "$prometheus" | grep -oE '/[^ ]+')
"$WEFT_E2E" image --name weft.test/prometheus:debian --entrypoint /prometheus --output "$folder/images/prometheus.tar" \
  --file "$prometheus=/prometheus" "${libraries[@]}"

more_evidence() { kubectl get canary,httproute,service -A -o yaml >"$1/objects.yaml" 2>&1; }
start_cluster
install_weft
kubectl apply -f "$here/prometheus.yaml" >/dev/null
kubectl -n monitoring rollout status deployment/prometheus --timeout=90s >/dev/null
"$folder/helm" install flagger "$programs/chart" -n flagger --create-namespace --set meshProvider=gatewayapi:v1 \
  --set metricsServer=http://prometheus.monitoring:9090 --wait --timeout=90s 2>&1 >/dev/null | { grep -v 'unrecognized format' >&2 || true; }
echo "Weft, Prometheus and Flagger are installed; three releases follow: five minutes or so"

# await WHAT SECONDS COMMAND...
await() {
  local what=$1 left=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || { echo "$what: not in time" >&2; exit 1; }
    sleep 1
  done
}
is() { [[ " $1 " == *" $(kubectl -n shop get canary reviews -o jsonpath='{.status.phase}') "* ]]; }
said() { kubectl -n flagger logs deployment/flagger | grep '"canary":"reviews.shop"'; }
weights() { kubectl -n shop get httproute reviews -o jsonpath='{range .spec.rules[0].backendRefs[*]} {.name} {.weight}{end}'; }
serves() { kubectl -n shop get deployment reviews-primary -o jsonpath='{.spec.template.spec.containers[0].args[2]}'; }
conditions() {
  kubectl -n shop get httproute reviews \
    -o jsonpath='{range .status.parents[*].conditions[*]}{.type}={.status} {.reason}{"\n"}{end}'
}
programmed() { conditions | grep -q '^weft.dev/Programmed=True'; }

kubectl apply -f "$here/app.yaml" >/dev/null
kubectl -n shop rollout status deployment/reviews --timeout=90s >/dev/null
kubectl apply -f "$here/canary.yaml" >/dev/null
await "Flagger made its Deployment and Services" 120 is Initialized
kubectl apply -f "$here/client.yaml" >/dev/null
kubectl -n shop rollout status deployment/web --timeout=90s >/dev/null
await "the route is programmed" 30 programmed

report=$folder/report.md
cat >"$report" <<TEXT
# Flagger $flagger with Weft $version

As \`make flagger\` wrote it on $(date -u +%F), on Kubernetes $(kubectl version -o json | sed -n 's/.*"gitVersion": "\(.*\)".*/\1/p' | tail -n1).
Flagger: Go module \`github.com/fluxcd/flagger\` v$flagger, with its own chart, \`meshProvider: gatewayapi:v1\`. Prometheus:
Debian's, $(cat "$programs/prometheus.version"). The canary: [canary.yaml](../canary.yaml). Lines are Flagger's own log.
TEXT

# release TITLE PHASE SERVES WANTED-LINE ARGS...: changes the app to those arguments, waits until Flagger has come to a verdict,
# and fails when it is another.
release() {
  local title=$1 phase=$2 serves=$3 wanted=$4 before log
  shift 4
  echo "$title: $*"
  before=$(said | wc -l)
  kubectl -n shop patch deployment reviews --type=json -p \
    "[{\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/args\", \"value\": $(printf '"%s",' "$@" | sed 's/^/[/; s/,$/]/')}]" >/dev/null
  await "$title: Flagger saw it" 90 is "Progressing Promoting Finalising"
  await "$title: Flagger came to a verdict" 300 is "Succeeded Failed"
  log=$(said | tail -n "+$((before + 1))" | sed -E 's/.*"ts":"[^"]*T([0-9:]{8})[^"]*".*"msg":"(([^"\\]|\\.)*)".*/\1 \2/')
  cat >>"$report" <<TEXT

## $title

\`$*\`

\`\`\`
$log
\`\`\`

It ended as $(kubectl -n shop get canary reviews -o jsonpath='{.status.phase}'); clients are served by $(serves), weights:$(weights)
TEXT
  is "$phase" || { echo "$title: not $phase" >&2; echo "$log" >&2; exit 1; }
  [ "$(serves)" = "$serves" ] || { echo "$title: clients are served by $(serves), not by $serves" >&2; exit 1; }
  grep -qE "$wanted" <<<"$log" || { echo "$title: Flagger did not say: $wanted" >&2; echo "$log" >&2; exit 1; }
}
release "A good version is promoted" Succeeded v2 'Promotion completed' http-server --name v2
release "A version that fails one request in five is rolled back" Failed v2 'success rate [0-9.]+% < 99%' \
  http-server --name v3 --fail-every 5
release "A version that takes a second is rolled back" Failed v2 'request duration [0-9.]+m?s > 500ms' \
  http-server --name v4 --delay-ms 1000

# What came of every request of the client, by the sidecar that sent it: backend, status, requests.
client=$(kubectl -n shop get pods -l app=web -o jsonpath='{.items[0].status.podIP}')
query="sort_desc(sum by (backend, response_code) (weft_requests_total{instance=\"$client:15020\"}))"
query=$(sed 's/ /%20/g; s/{/%7B/g; s/}/%7D/g; s/"/%22/g; s/=/%3D/g' <<<"$query")
got=$(kubectl get --raw "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query?query=$query" | sed 's/{"metric":/\n/g' |
  sed -nE 's/.*"backend":"([^"]*)","response_code":"([^"]*)".*"value":\[[^,]*,"([0-9]*)"\].*/\1 \2 \3/p')
cat >>"$report" <<TEXT

## What the client got

By its sidecar, over all three releases (\`weft_requests_total\`): backend, status, requests. What failed is what the failing
version answered; promotions and rollbacks cost nothing.

\`\`\`
$got
\`\`\`

## The route that Flagger made, by Weft

\`\`\`
$(conditions)
\`\`\`
TEXT
[ -n "$got" ] || { echo "Prometheus knows nothing of the client's requests" >&2; exit 1; }
lost=$(grep -vE '^shop/reviews-(primary:80 200|canary:80 (200|500)) ' <<<"$got" || true)
[ -z "$lost" ] || { echo "requests that neither a good version answered nor the failing one: $lost" >&2; exit 1; }
install -m 644 "$report" "$here/reports/flagger-$flagger.md"
chown --reference="$here/reports" "$here/reports/flagger-$flagger.md"
echo "promoted and rolled back as it should be: $here/reports/flagger-$flagger.md"
