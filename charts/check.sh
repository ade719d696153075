#!/usr/bin/env bash
# Checks the Helm chart and the examples: lint, renderings over a matrix of values held against the schemas of Kubernetes,
# values held against schema, templates and reference, tables of the reference against the code. Part of `make lint`; half a
# minute, a little more the first time.
#   check.sh TARGET [--write]      (--write writes docs/reference/values.md anew)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
target=$(cd "$1" && pwd)
shift

"$here/../e2e/setup/install.sh" python3=python3
python3 -c 'import ensurepip, venv' 2>/dev/null || "$here/../e2e/setup/install.sh" +python3-venv
venv=$target/charts/venv-$(sha256sum <"$here/check/requirements.txt" | cut -c1-12)
if [ ! -e "$venv/complete" ]; then
  echo "installing what the chart's check needs into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/check/requirements.txt"
  touch "$venv/complete"
fi
exec "$venv/bin/python" -B "$here/check/check.py" "$@"
