#!/bin/bash
# Ranks are killed and stopped; the job goes on, ends with the driver's code, and leaves nothing behind.
#   survive.sh PROGRAM LOST_WAITS
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0
run() { # expected code, ranks, arguments
  local want=$1 ranks=$2 start=$SECONDS
  shift 2
  timeout -k 3 60 mpirun --oversubscribe --mca orte_allowed_exit_without_sync 1 -n "$ranks" "$@" > "$out" 2>&1
  local code=$?
  if [ $code != "$want" ]; then
    echo "FAILED: ${*:2} on $ranks ranks: code $code, expected $want"; cat "$out"; failed=1
  fi
  echo "${*:2}: code $code after $((SECONDS - start)) s"
}
for _ in 1 2 3; do run 7 5 "$1" kill 2; done
run 7 9 "$1" kill 6
run 7 5 "$2"
run 7 7 "$1" again
run 7 4 "$1" state
run 7 3 "$1" children
run 7 5 "$1" leave 3
grep -q "3 of 5 ranks left it as they were told" "$out" || { echo "FAILED: what the end says"; cat "$out"; failed=1; }
run 7 6 "$1" poison --mobula-slots=1
run 7 4 "$1" stop --mobula-lost-after=1500
run 7 4 "$1" pause --mobula-lost-after=3000
run 7 4 "$1" still --mobula-lost-after=4000
run 7 4 "$1" busy --mobula-lost-after=2000
run 1 4 "$1" still-head --mobula-lost-after=1000
grep -q "a call of MPI has not returned for 1 s" "$out" || { echo "FAILED: what the head says"; cat "$out"; failed=1; }
run 137 4 "$1" head
for pid in $(sed -n 's/^pid //p' "$out"); do
  for _ in $(seq 30); do kill -0 "$pid" 2> /dev/null && sleep 0.1; done
  if kill -0 "$pid" 2> /dev/null; then echo "FAILED: a worker outlived the head"; kill -9 "$pid"; failed=1; fi
done
exit $failed
