#!/usr/bin/env bash
# Instructions in user space, counted by callgrind: repeatable to about a percent whatever else the machine does, where times
# are not. Of a whole request, what happens inside `Outbound::serve_to` and `Inbound::serve_to`: not the test's client and
# app, nor streams that are tasks of their own. Fails when one has grown by more than 5 % over bench/instructions.txt, or is
# not in it. Called by `make instructions`; UPDATE=1 writes the file anew.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-target}
recorded=bench/instructions.txt
few=50 many=250 tolerance=5

e2e/setup/install.sh valgrind=valgrind

# What ships, but for the minutes that a fat LTO takes.
binary=$(cargo test --profile tools -p weft-sidecar --lib --no-run --target-dir "$target" --message-format=json-render-diagnostics |
  sed -n 's/.*"executable":"\([^"]*\/weft_sidecar-[^"]*\)".*/\1/p' | tail -n 1)
test -n "$binary"

# Instructions of test $1 that does its thing $2 times.
count() {
  local only=() counted
  if [[ $1 == pair::* ]]; then only=(--collect-atstart=no '--toggle-collect=*serve_to*'); fi
  counted=$(WEFT_COST_REQUESTS=$2 valgrind --tool=callgrind --callgrind-out-file=/dev/null "${only[@]}" \
    "$binary" "$1" --exact --test-threads=1 2>&1 |
    sed -n 's/^==[0-9]*== Collected : \([0-9]*\).*/\1/p')
  # A test that was renamed, or failed before it did anything.
  if ! ((counted)); then
    echo "callgrind counted nothing in $1: does the test exist, and does it pass?" >&2
    return 1
  fi
  echo "$counted"
}

# What is promised as a time: how long the largest tables take to compile.
"$binary" config::compile::cost::ten_thousand_rules_compile_in_time --exact --ignored --nocapture --test-threads=1 | grep -o '10,000 .*'

now=$(mktemp)
trap 'rm -f "$now"' EXIT
failed=0 unknown=0
printf '%-34s %14s %14s %8s\n' 'once' recorded now change
for test in cost::reading_a_request_head cost::writing_a_response_head cost::finding_a_rule_among_twenty \
  cost::finding_the_only_rule cost::finding_a_rule_among_500 cost::finding_a_rule_by_one_of_100_headers \
  cost::finding_a_rule_by_one_of_100_values cost::picking_one_of_ten_endpoints pair::cost::one_hop pair::cost::two_sidecars; do
  # Apart: in an arithmetic expansion a failure would be lost.
  less=$(count "$test" "$few")
  more=$(count "$test" "$many")
  each=$(((more - less) / (many - few)))
  name=${test##*::}
  echo "$name $each" >>"$now"
  before=$(sed -n "s/^$name \([0-9]*\)$/\1/p" "$recorded" 2>/dev/null || true)
  if [ -z "$before" ]; then
    printf '%-34s %14s %14d %8s\n' "$name" - "$each" new
    unknown=1
    continue
  fi
  printf '%-34s %14d %14d %+7d%%\n' "$name" "$before" "$each" $(((each - before) * 100 / before))
  if ((each * 100 > before * (100 + tolerance))); then failed=1; fi
done
if [ -n "${UPDATE:-}" ] || [ ! -e "$recorded" ]; then
  cp "$now" "$recorded"
  chmod 644 "$recorded"
  echo "wrote $recorded"
elif ((unknown)); then
  echo "what is new is not recorded in $recorded yet: record it with UPDATE=1" >&2
  exit 1
elif ((failed)); then
  echo "more than $tolerance % above what is recorded: find out why, or record it with UPDATE=1 and say why" >&2
  exit 1
fi
