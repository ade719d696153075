#!/usr/bin/env bash
# Builds the programs of a Kubernetes node from their Go modules, pinned in versions/, into a cache outside the checkout
# that is keyed by those pins: about 8 minutes the first time on two cores, nothing afterwards. Prints the folder they are in.
#   build.sh            (WEFT_CACHE: another place for the cache)
set -euo pipefail
cd "$(dirname "$0")/versions"

command -v go >/dev/null || { echo "missing: Go 1.26, the minor that Kubernetes 1.36 names" >&2; exit 1; }
# The module's own minor: built with another, the API server's OpenAPI is broken and every `kubectl apply` fails.
minor=$(go env GOVERSION | sed -E 's/^go([0-9]+\.[0-9]+).*/\1/')
[ "$minor" = 1.26 ] || export GOTOOLCHAIN=go1.26.8

key=$(cat ./*/go.mod ./*/go.sum ../build.sh | sha256sum | cut -c1-12)
cache=${WEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weft}/kubernetes-$key
[ -e "$cache/complete" ] && { echo "$cache"; exit 0; }

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
[ -e "$cache/complete" ] && { echo "$cache"; exit 0; }

version=$(sed -nE 's/.*k8s.io\/kubernetes (v[0-9.]+).*/\1/p' kubernetes/go.mod | head -n1)
major=${version#v}
major=${major%%.*}
minor=${version#v*.}
minor=${minor%%.*}
base=k8s.io/component-base/version
stamp="-X $base.gitVersion=$version -X $base.gitMajor=$major -X $base.gitMinor=$minor -X $base.gitTreeState=clean"

export CGO_ENABLED=0 GOFLAGS=-mod=readonly
# Not programs, but the kinds of the Gateway API.
mkdir -p "$cache/crds"
(cd gateway-api && go mod download && cp "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)"/config/crd/standard/*.yaml "$cache/crds/") >&2
chmod u+w "$cache/crds"/*

modules=(kubernetes etcd containerd coredns helm)
total=${#modules[@]}
step=0
for module in "${modules[@]}"; do
  step=$((step + 1))
  began=$SECONDS
  flags="-s -w"
  [ "$module" = kubernetes ] && flags="$flags $stamp"
  echo "[$step/$total] building $module ($([ "$module" = kubernetes ] && echo 'five minutes or so' || echo 'a minute or so'))" >&2
  (cd "$module" && go build -trimpath -ldflags="$flags" -o "$cache/" tool) >&2
  echo "        took $((SECONDS - began)) s" >&2
done
# Named for its module by the Go tool.
mv "$cache/server" "$cache/etcd"
touch "$cache/complete"
echo "$cache"
