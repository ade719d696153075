#!/usr/bin/env bash
# Runs every fuzz target for a stated time, FUZZ_JOBS at once, fails on a crash, keeps what was found (fuzz/corpus/TARGET,
# minimized) and writes fuzz/REPORT.md. Called by `make fuzz`; arguments are targets, none means all.
#
#   FUZZ_SECONDS  seconds per target (300)
#   FUZZ_JOBS     targets at once (as many as there are cores)
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-300}
jobs=${FUZZ_JOBS:-$(nproc)}
# What is kept of a target: this many inputs, of this many bytes at most.
keep=100
largest=1024
work=target/fuzz/work
mapfile -t all < <(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' fuzz/Cargo.toml)
targets=("${@:-${all[@]}}")

if ! cargo fuzz --version >/dev/null 2>&1; then
  cargo install cargo-fuzz --locked
fi
cargo +nightly fuzz build --fuzz-dir fuzz --target-dir target/fuzz
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export ASAN_OPTIONS=detect_odr_violation=0

# Fuzzes one target. Its log says all that the report needs.
fuzz() {
  local target=$1 dictionary=()
  local bin=target/fuzz/$host/release/$target found=$work/$target
  mkdir -p "$found" "$work/crashes/$target"
  rm -f "$work/crashes/$target"/*
  case $target in
    h1_* | detect) dictionary=(-dict=fuzz/dictionaries/http.dict) ;;
    fields | manifests) dictionary=("-dict=fuzz/dictionaries/$target.dict") ;;
  esac
  echo "$target: $seconds s"
  "$bin" "$found" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 "-artifact_prefix=$work/crashes/$target/" "${dictionary[@]}" >"$work/$target.log" 2>&1 || true
}

# Leaves the few inputs that together reach as much as all of them: those written by hand, and what was found beyond.
minimize() {
  local target=$1
  local bin=target/fuzz/$host/release/$target least=$work/$target.least
  rm -rf "$least" && mkdir -p "$least"
  cp "fuzz/corpus/$target"/seed-* "$least"
  # Files in the first directory count as taken.
  "$bin" "$least" "fuzz/corpus/$target" "$work/$target" -set_cover_merge=1 -max_len=$largest >"$work/$target.merge.log" 2>&1 || true
  find "fuzz/corpus/$target" -type f ! -name 'seed-*' -delete
  # The smallest first, where there are too many.
  find "$least" -type f ! -name 'seed-*' -size -$((largest + 1))c -printf '%s %p\n' | sort -n | awk -v keep="$keep" 'NR <= keep { print $2 }' |
    xargs -r cp -t "fuzz/corpus/$target"
}

row() {
  local target=$1 log=$work/$1.log
  local took executions coverage crashes
  took=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log" | head -1)
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
  coverage=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 | \2/p' "$log" | tail -1)
  crashes=$(find "$work/crashes/$target" -type f | wc -l)
  echo "| \`$target\` | ${took:-not to its end} | ${executions:-0} | ${coverage:-0 | 0} | $(find "fuzz/corpus/$target" -type f | wc -l) | $crashes |"
}

mkdir -p "$work"
export -f fuzz
export seconds work host
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -euo pipefail -c 'fuzz {}'
for target in "${targets[@]}"; do minimize "$target"; done

{
  echo "# Fuzzing: the last run of each target"
  echo
  echo "Written by \`make fuzz\`. Coverage is libFuzzer's count of edges and of features, over all linked code; a crash is a panic, a"
  echo "broken claim of the target, a leak, or an input of more than 10 s or 2 GiB. $(date -u +%F), $(rustc +nightly --version | cut -d' ' -f2), $(nproc) cores, $jobs targets at once."
  echo
  echo "| target | seconds | executions | edges | features | inputs kept | crashes |"
  echo "|---|---|---|---|---|---|---|"
  for target in "${all[@]}"; do
    if [ -e "$work/$target.log" ]; then row "$target"; else echo "| \`$target\` | not run on this machine | | | | | |"; fi
  done
} >fuzz/REPORT.md
cat fuzz/REPORT.md
for target in "${targets[@]}"; do
  if ! grep -q '^Done ' "$work/$target.log"; then
    tail -n 20 "$work/$target.log" >&2
    find "$work/crashes/$target" -type f >&2
    echo "$target did not get to its end: run target/fuzz/$host/release/$target FILE, mend it, keep the input as fuzz/corpus/$target/seed-*" >&2
    exit 1
  fi
done
