#!/usr/bin/env bash
# Fuzzes the decoders for a while: fuzz.sh SOURCE_DIR GENERATED_DIR CORPUS_PROGRAM SECONDS
set -eu
command -v clang++ >/dev/null || { echo "SKIPPED: clang++ is not installed"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo 'int main() {}' >"$work/probe.cpp"
clang++ -fsanitize=address "$work/probe.cpp" -o "$work/probe" 2>/dev/null || { echo "SKIPPED: clang's sanitizer runtime is not installed"; exit 77; }
clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -I "$1/include" -I "$1/src" -I "$2" \
  "$1/tests/fuzz/decode.cpp" "$1/tests/fuzz/stubs.cpp" "$1/src/core/error.cpp" "$1/src/core/trace.cpp" "$1/src/core/functions.cpp" -o "$work/fuzz"
mkdir "$work/corpus"
"$3" "$work/corpus"
cd "$work"
./fuzz -max_total_time="$4" -timeout=10 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 corpus 2>&1 | tail -n 15
test "${PIPESTATUS[0]}" = 0
