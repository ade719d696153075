#!/usr/bin/env bash
# Builds Flagger from its Go module, pinned in go.mod, and takes Prometheus from Debian's package (unpacked, not installed:
# no daemon starts here), into a cache outside the checkout that is keyed by those pins: two minutes the first time on two
# cores, nothing afterwards. Prints the folder they are in: flagger, wget, chart/, prometheus/.
#   build.sh            (WEFT_CACHE: another place for the cache)
set -euo pipefail
cd "$(dirname "$0")"
. ../setup/common.sh

command -v go >/dev/null || { echo "missing: Go 1.26, as for the cluster itself" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "missing: apt-get, to fetch Debian's package of Prometheus" >&2; exit 1; }
key=$(cat go.mod go.sum wget/main.go build.sh | sha256sum | cut -c1-12)
enter_cache flagger "$key"

export CGO_ENABLED=0 GOFLAGS=-mod=readonly
echo "building Flagger (two minutes or so)" >&2
go build -trimpath -ldflags='-s -w' -o "$cache/" tool ./wget >&2
# The chart as the module has it.
rm -rf "$cache/chart"
cp -r "$(go list -m -f '{{.Dir}}' github.com/fluxcd/flagger)/charts/flagger" "$cache/chart"
chmod -R u+w "$cache/chart"

rm -rf "$cache/prometheus" "$cache/package"
mkdir "$cache/package"
(
  cd "$cache/package"
  apt-get download -q prometheus >&2 || { apt-get update -q >&2 && apt-get download -q prometheus >&2; }
  dpkg-deb -x prometheus_*.deb "$cache/prometheus"
  dpkg-deb -f prometheus_*.deb Version >"$cache/prometheus.version"
)
rm -rf "$cache/package"
leave_cache
