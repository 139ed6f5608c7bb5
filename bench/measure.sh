# For the benchmarks that are scripts, sourced.
# ms COMMAND…: how long it takes, in milliseconds; ends the script where the command fails
ms() {
  local start=$(date +%s%N)
  "$@" >/dev/null 2>&1 || { echo "FAILED: $*" >&2; exit 1; }
  echo $((($(date +%s%N) - start) / 1000000))
}
# until_said COMMAND…: how long until the moment (in nanoseconds since the epoch) that the command prints
until_said() {
  local start said
  for _ in 1 2 3; do
    start=$(date +%s%N)
    said=$("$@" 2>/dev/null | tail -n 1)
    [ -z "$said" ] || { echo $(((said - start) / 1000000)); return; }
  done
  echo "FAILED: $*" >&2
  exit 1
}
# summary NUMBERS…: median (least to most)
summary() {
  printf '%s\n' "$@" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)] " (" v[1] " to " v[NR] ")"}'
}
# machine: the line at the head of a table
machine() {
  echo "# $(nproc) cores, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-), $(mpirun --version | head -n 1)"
}
# as_json EXECUTABLE ROWS: Google Benchmark's JSON of the rows that the programs wrote into the file (BENCH_JSON)
as_json() {
  echo "{\"context\": {\"executable\": \"$1\"}, \"benchmarks\": ["
  sed '$!s/$/,/' "$2"
  echo ']}'
}
