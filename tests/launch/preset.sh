#!/usr/bin/env bash
# Builds another preset of this tree beside the build that runs this, and runs some of its tests.
#   preset.sh SOURCE_DIR BUILD_DIR PRESET CTEST_REGEX
set -eu
case $3 in
  asan-ubsan) command -v clang++ >/dev/null || { echo "SKIPPED: clang++ is not installed"; exit 77; } ;;
esac
cd "$1"
launcher=$(command -v ccache || true)
cmake --preset "$3" -B "$2/preset-$3" ${launcher:+-DCMAKE_CXX_COMPILER_LAUNCHER=$launcher} >/dev/null
targets=(--target unit_test api_test random_test)
[ "$3" = asan-ubsan ] && targets=()
cmake --build "$2/preset-$3" "${targets[@]}" >"$2/preset-$3.log" 2>&1 || { grep -E 'error|warning' "$2/preset-$3.log" | head -n 30; exit 1; }
# Sanitized code is an order of magnitude slower: fewer simulated seeds.
export SIM_FACTOR=0.05
# MPI keeps memory until it ends and hands some of it to the system; its leaks are not ours to report.
export ASAN_OPTIONS=detect_leaks=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=suppressions=$1/tests/tsan.supp:halt_on_error=1
ctest --test-dir "$2/preset-$3" --output-on-failure -R "$4"
