#!/usr/bin/env bash
# Start and end of a job with one task, against a bare MPI program, in turns; and of a program that runs alone.
#   startup.sh HELLO MPI_HELLO
set -eu
ms() { local s=$(date +%s%N); "$@" >/dev/null 2>&1; echo $((($(date +%s%N) - s) / 1000000)); }
median() { sort -n | sed -n "$((($1 + 1) / 2))p"; }
for n in 2 4 8; do
  a=""; b=""
  for _ in 1 2 3 4 5 6 7; do
    a="$a $(ms mpirun --oversubscribe -n $n "$2")"
    b="$b $(ms mpirun --oversubscribe -n $n "$1")"
  done
  bare=$(tr ' ' '\n' <<<"$a" | grep . | median 7); ours=$(tr ' ' '\n' <<<"$b" | grep . | median 7)
  echo "startup        $n ranks: bare MPI $bare ms, with a job of 1,000 tasks $ours ms, $((ours - bare)) ms more (goal: at most 100)"
done
c=""
for _ in 1 2 3 4 5 6 7; do c="$c $(ms "$1")"; done
echo "startup        alone: $(tr ' ' '\n' <<<"$c" | grep . | median 7) ms (goal: under 50)"
