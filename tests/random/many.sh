#!/usr/bin/env bash
# Many random programs, each in a job of its own, with a summary of what failed.
#   many.sh BINARY SETTING FROM TO [flags of random_test …]
# SETTING: alone, alone_1_slot, alone_4_slots, 3_ranks, 4_ranks, 4_ranks_2_slots, 8_ranks, tiny_limits, tiny_limits_4_ranks, threads,
# threads_4_ranks, busy, busy_4_ranks, kills, kills_8_ranks; or `all` of them. The output of programs that failed is kept in
# $RANDOM_LOGS, where that is set.
set -uo pipefail
binary=$1 setting=$2 from=$3 to=$4
shift 4
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
settings=(alone alone_1_slot alone_4_slots 3_ranks 4_ranks 4_ranks_2_slots 8_ranks tiny_limits tiny_limits_4_ranks threads threads_4_ranks
  busy busy_4_ranks kills kills_8_ranks)
tiny=(--mobula-inline-limit=64 --mobula-store=4MiB)
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT
all_failed=0

# What the exit code of a program means.
meaning() {
  case $1 in
    3) echo "a wrong value or error" ;;
    4) echo "a hang" ;;
    5) echo "not at rest" ;;
    124 | 137) echo "no end within its time" ;;
    *) echo "ended with code $1" ;;
  esac
}

# run SETTING COMMAND …: the programs of all seeds, each by the command.
run() {
  local setting=$1 failed="" count=0 first
  shift
  for seed in $(seq "$from" "$to"); do
    timeout -k 5 "${RANDOM_TIMEOUT:-120}" "$@" --seed="$seed" >"$output" 2>&1
    local code=$?
    [ $code = 0 ] && continue
    count=$((count + 1))
    failed+=" $seed:$code"
    first=$(grep -m 1 'random: [A-Z]' "$output")
    echo "$setting, seed $seed: $(meaning $code): $first"
    [ -n "${RANDOM_LOGS:-}" ] && cp "$output" "$RANDOM_LOGS/$setting-$seed.txt"
  done
  echo "$setting: $count of $((to - from + 1)) failed:${failed:- none}"
  all_failed=$((all_failed + count))
}

run_setting() {
  local setting=$1
  shift
  case $setting in
    alone) run "$setting" "$binary" "$@" ;;
    alone_1_slot) run "$setting" "$binary" --mobula-slots=1 "$@" ;;
    alone_4_slots) run "$setting" "$binary" --mobula-slots=4 "$@" ;;
    3_ranks) run "$setting" mpirun -n 3 "$binary" "$@" ;;
    4_ranks) run "$setting" mpirun -n 4 "$binary" "$@" ;;
    4_ranks_2_slots) run "$setting" mpirun -n 4 "$binary" --mobula-slots=2 "$@" ;;
    8_ranks) run "$setting" mpirun -n 8 "$binary" "$@" ;;
    tiny_limits) run "$setting" "$binary" "${tiny[@]}" "$@" ;;
    tiny_limits_4_ranks) run "$setting" mpirun -n 4 "$binary" "${tiny[@]}" "$@" ;;
    threads) run "$setting" "$binary" --threads "$@" ;;
    threads_4_ranks) run "$setting" mpirun -n 4 "$binary" --threads "$@" ;;
    busy) run "$setting" "$binary" --busy "$@" ;;
    busy_4_ranks) run "$setting" mpirun -n 4 "$binary" --busy "$@" ;;
    kills) run "$setting" mpirun --mca orte_allowed_exit_without_sync 1 -n 4 "$binary" --kills=1 --operations=60 "$@" ;;
    kills_8_ranks) run "$setting" mpirun --mca orte_allowed_exit_without_sync 1 -n 8 "$binary" --kills=3 --operations=60 "$@" ;;
    all) for one in "${settings[@]}"; do run_setting "$one" "$@"; done ;;
    *) echo "many.sh: no setting is called $setting" >&2 && exit 2 ;;
  esac
}

run_setting "$setting" "$@"
echo "$all_failed failed"
[ "$all_failed" = 0 ]
