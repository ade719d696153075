#!/usr/bin/env bash
# Builds the conformance suite (conformance.test) and the two programs of its test image (client, server) from their Go
# modules, pinned in go.mod and echo-advanced/go.mod, into a cache outside the checkout that is keyed by those pins: about
# three minutes the first time on two cores, nothing afterwards. Prints the folder they are in.
#   build.sh            (WEFT_CACHE: another place for the cache)
set -euo pipefail
cd "$(dirname "$0")"
. ../setup/common.sh

command -v go >/dev/null || { echo "missing: Go 1.26, the minor that the suite names" >&2; exit 1; }
key=$(cat go.mod go.sum ./*.go build.sh echo-advanced/go.mod echo-advanced/go.sum | sha256sum | cut -c1-12)
enter_cache conformance "$key"

export CGO_ENABLED=0 GOFLAGS=-mod=readonly
echo "building the conformance suite and its test image's programs (three minutes or so)" >&2
began=$SECONDS
go vet . >&2
go test -c -trimpath -ldflags='-s -w' -o "$cache/conformance.test" . >&2
(cd echo-advanced && go build -trimpath -ldflags='-s -w' -o "$cache/" tool) >&2
echo "took $((SECONDS - began)) s" >&2
leave_cache
