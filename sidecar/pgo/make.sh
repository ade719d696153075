#!/usr/bin/env bash
# Makes the sidecar's profile anew: builds it so that it counts, has it work through the benchmark's cases, merges the counts.
# Usage: make.sh TARGET-FOLDER TRIPLE PROFILE [SUDO]
set -euo pipefail
target=$(realpath "$1") triple=$2 profile=$3 sudo=${4:-}
cargo=${CARGO:-cargo}
own=$target/pgo

rustup component list --installed | grep -q '^llvm-tools' || rustup component add llvm-tools
merge=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata

# A folder of its own: other flags would have everything in the usual one built again, twice.
flags=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_RUSTFLAGS
echo "building the sidecar that counts"
env "CC_${triple//-/_}=musl-gcc" "$flags=-Cprofile-generate" \
  "$cargo" build --locked --release --target "$triple" --target-dir "$own" -p weft-sidecar
echo "building what it works for"
"$cargo" build --locked --profile tools -p weft-e2e -p weft-bench
"$cargo" build --locked --profile tools -p weft-control-plane

programs=$own/programs raw=$own/raw
rm -rf "$programs" "$raw"
mkdir -p "$programs" "$raw"
ln "$own/$triple/release/weft-sidecar" "$target/tools"/{weft-control-plane,weft-e2e} "$programs/"
$sudo env WEFT_BIN_DIR="$programs" "$target/tools/weft-bench" train --output "$raw"
# Not sparse: what was never run is worth knowing too. It is compiled small and put together, apart from the rest.
"$merge" merge --output "$own/merged.profdata" "$raw"/*.profraw
gzip -n9c "$own/merged.profdata" >"$profile"
echo "wrote $profile"
