#!/bin/sh
# Fuzzes each target, or those named, for some seconds each, from the seeds and the kept corpus.
# usage: run.sh SECONDS [TARGET...]       targets: handshake transmission config control codec
# With KEEP=1 what was found to reach new code is merged into tests/fuzz/corpus.
# Findings end the run with status 1 and lie in build/clang/fuzz-findings.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${TB4_FUZZ_BUILD:-$here/../../build/clang}
seconds=$1
shift
[ $# -gt 0 ] || set -- handshake transmission config control codec
work=$(mktemp -d "${TMPDIR:-/tmp}/tb4-fuzz.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$build/fuzz-findings"
/usr/bin/python3 "$here/seeds.py" "$work/seeds"
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=halt_on_error=1
for target; do
	mkdir -p "$work/new/$target" "$here/corpus/$target"
	"$build/tests/fuzz/fuzz-$target" -max_total_time="$seconds" -max_len=16384 -timeout=20 \
		-rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
		-artifact_prefix="$build/fuzz-findings/$target-" \
		"$work/new/$target" "$here/corpus/$target" "$work/seeds/$target" >"$work/$target.log" 2>&1 ||
		{ tail -60 "$work/$target.log"; exit 1; }
	printf '%s: %s executions in %s s, 0 findings\n' "$target" \
		"$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")" "$seconds"
	[ "${KEEP:-0}" = 0 ] || "$build/tests/fuzz/fuzz-$target" -merge=1 -verbosity=0 \
		"$here/corpus/$target" "$work/new/$target" "$work/seeds/$target" >/dev/null 2>&1
done
