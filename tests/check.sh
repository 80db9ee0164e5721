#!/bin/sh
# Builds and runs every test. Prints "N passed, N failed, N skipped" last; each failure and the reason of
# each skip stand before it. Installs what is missing (Debian 12 or 13, as root).
#
# build/        plain, and the clients and tools
# build/asan/   with AddressSanitizer and UndefinedBehaviorSanitizer: most tests run against this one
# build/clang/  by clang with all warnings as errors, and the fuzz targets
set -eu
cd "$(dirname "$0")/.."
sh tests/install.sh build demo check vm package

python=/usr/bin/python3 # Debian's, which has Debian's libnbd
results=build/results
jobs=$(nproc)

setup() {
	directory=$1
	shift
	[ -f "$directory/build.ninja" ] || meson setup "$directory" "$@" >/dev/null
	ninja -C "$directory" >build/ninja.log || { cat build/ninja.log; exit 1; }
}
mkdir -p build
setup build -Dwerror=true
setup build/asan -Dwerror=true -Db_sanitize=address,undefined -Db_lundef=false
CC=clang setup build/clang -Dwerror=true -Db_lundef=false

rm -rf "$results"
mkdir -p "$results"
status=0
export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

meson test -C build/asan --quiet >/dev/null 2>&1 || status=1
cp build/asan/meson-logs/testlog.junit.xml "$results/unit.xml"
TB4_BUILD=$PWD/build/asan $python -m pytest -q -p no:cacheprovider -n "$jobs" -m 'not plain' \
	--junitxml "$results/asan.xml" tests >"$results/asan.log" 2>&1 || status=1
TB4_BUILD=$PWD/build $python -m pytest -q -p no:cacheprovider -n "$jobs" -m plain \
	--junitxml "$results/plain.xml" tests >"$results/plain.log" 2>&1 || status=1
$python tests/summary.py "$results" || status=1
exit "$status"
