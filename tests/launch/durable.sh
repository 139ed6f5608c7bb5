#!/usr/bin/env bash
# Jobs that are killed, and go on from their journal.   durable.sh DURABLE MOBULA [ROUNDS [TASKS [RANKS]]]
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
durable=$1 mobula=$2 rounds=${3:-5} tasks=${4:-3000} ranks=${5:-3}
work=$(mktemp -d)
job=
trap '[ -z "$job" ] || kill "$job" 2>/dev/null; rm -rf "$work"' EXIT
fail() { echo "FAILED: $1"; cat "$work/out"; exit 1; }
launch() { timeout -k 5 100 mpirun --oversubscribe -n "$@"; }

echo "== what is kept, and what is not"
for n in 1 $ranks; do
  rm -rf "$work/journal" "$work/log"
  run() { launch $n "$durable" kinds "$work/log" --mobula-journal="$work/journal"; }
  run >"$work/out" 2>&1 || fail "kinds on $n ranks: $?"
  grep -q "none kept" "$work/out" || fail "something was kept before"
  sort "$work/log" >"$work/first"
  : >"$work/log"
  run >"$work/out" 2>&1 || fail "kinds again on $n ranks: $?"
  grep -q "^kept 1$" "$work/out" || fail "what was kept by name is not there"
  # What is not durable, what fails, and what gives Refs, with the task that it starts.
  [ "$(sort "$work/log" | uniq -c | awk '{print $2 $1}' | tr '\n' ' ')" = "failed1 fails1 gives_ref1 small2 " ] || {
    cp "$work/log" "$work/out"
    fail "other tasks ran again"
  }
  grep -c . "$work/first" | sed "s/^/$n ranks, first run: /"
done

echo "== an actor goes on"
for count in 5 10 15; do
  launch 2 "$durable" steps 5 --mobula-journal="$work/steps" >"$work/out" 2>&1 || fail "steps: $?"
  grep -q "^count $count$" "$work/out" || fail "it should count to $count"
done

echo "== mobula journal"
"$mobula" journal ls "$work/journal" >"$work/out" || fail "ls: $?"
tail -n 1 "$work/out"
key=$(awk '$NF == "large" {print $1}' "$work/out")
"$mobula" journal show "$work/journal" "$key" >"$work/out" || fail "show: $?"
grep -q "^bytes     2400008" "$work/out" || fail "show"
[ "$("$mobula" journal show "$work/journal" "$key" --raw | wc -c)" = 2400008 ] || fail "show --raw"
"$mobula" journal rm "$work/journal" --function large >"$work/out" || fail "rm: $?"
grep -q "^1 results removed" "$work/out" || fail "rm"
"$mobula" journal show "$work/journal" "$key" >"$work/out" 2>&1 && fail "it is still there"
: >"$work/log"
launch "$ranks" "$durable" kinds "$work/log" --mobula-journal="$work/journal" >"$work/out" 2>&1 || fail "kinds: $?"
[ "$(grep -c large "$work/log")" = 1 ] || fail "what was removed does not run again"

echo "== one job at a time"
timeout -k 5 100 mpirun --oversubscribe -n 2 "$durable" many "$work/log" 100000 --mobula-journal="$work/journal" >"$work/out" 2>&1 &
job=$!
for _ in $(seq 100); do grep -q seen "$work/log" && break; sleep 0.05; done
launch 2 "$durable" many "$work/log" 1 --mobula-journal="$work/journal" >"$work/out" 2>&1 && fail "two jobs have one journal"
grep "in use by another job" "$work/out" || fail "it does not say so"
"$mobula" journal rm "$work/journal" --all >"$work/out" 2>&1 && fail "rm while a job runs"
"$mobula" journal ls "$work/journal" >"$work/out" 2>&1 || fail "ls while a job runs: $?"
kill $job
wait $job
job=
launch 2 "$durable" many "$work/log" 1 --mobula-journal=/proc/none >"$work/out" 2>&1 && fail "a journal where none can be"
grep "can't be used" "$work/out" || fail "it does not say so"

echo "== the head is killed, $rounds times"
again=0 kills=0
for round in $(seq "$rounds"); do
  rm -rf "$work/journal" "$work/log"
  while true; do
    : >>"$work/log"
    timeout -k 5 100 mpirun --oversubscribe -n "$ranks" "$durable" many "$work/log" "$tasks" --mobula-journal="$work/journal" >"$work/out" 2>&1 &
    job=$!
    # At any moment of the start, or of the run.
    if [ $((RANDOM % 4)) -eq 0 ]; then
      sleep 0.$((RANDOM % 5))$((RANDOM % 10))
    else
      from=$(wc -l <"$work/log") until=$((RANDOM % (2 * tasks)))
      while kill -0 $job 2>/dev/null && [ $(($(wc -l <"$work/log") - from)) -lt $until ]; do sleep 0.01; done
    fi
    head=
    for keeper in $(pgrep -P "$(pgrep -P $job -x mpirun || echo 0)"); do
      for rank in $(pgrep -P "$keeper"); do
        tr '\0' '\n' 2>/dev/null <"/proc/$rank/environ" | grep -qx OMPI_COMM_WORLD_RANK=0 && head=$rank
      done
    done
    [ -n "$head" ] && kill -9 "$head" 2>/dev/null && kills=$((kills + 1))
    code=0
    wait $job || code=$?
    job=
    [ $code = 0 ] && break
    [ -n "$head" ] || fail "ended with $code, and was not killed"
    [ $((RANDOM % 2)) -eq 0 ] || continue
    # And to the end.
    launch "$ranks" "$durable" many "$work/log" "$tasks" --mobula-journal="$work/journal" >"$work/out" 2>&1 || fail "after kills: $?"
    break
  done
  grep -q "^right$" "$work/out" || fail "it is not right"
  # What was seen never runs again.
  awk '$1 == "seen" {seen[sqrt($2)] = 1} $1 == "ran" {++ran[$2]; if ($2 in seen) bad = 1}
    END {for (x in ran) n += ran[x] - 1; print n + 0; exit bad}' "$work/log" >"$work/out" || fail "a finished task ran again"
  again=$((again + $(cat "$work/out")))
done
echo "$kills kills, $again of $((rounds * tasks)) tasks ran again, which were running"
[ $again -le $((kills * (ranks - 1) * $(nproc))) ] || fail "more ran again than were running"
