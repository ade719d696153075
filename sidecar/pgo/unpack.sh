#!/usr/bin/env bash
# Unpacks a profile for the compiler, and prints where. The name is made of what is in it: Cargo looks at names only, and another
# profile is to be noticed.
# Usage: unpack.sh PROFILE.gz FOLDER
set -euo pipefail
packed=$1 folder=$2
mkdir -p "$folder"
profile=$(realpath "$folder")/$(sha256sum <"$packed" | cut -c1-16).profdata
if ! [ -f "$profile" ]; then
  gunzip -c "$packed" >"$profile.$$"
  mv "$profile.$$" "$profile"
fi
echo "$profile"
