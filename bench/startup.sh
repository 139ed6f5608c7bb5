#!/usr/bin/env bash
# From the launcher's start to the first task, against a bare MPI program until all ranks are there, in turns; the same to the
# launcher's end; and a program that runs alone.   startup.sh BUILD_DIR
set -eu
. "$(dirname "$0")/measure.sh"
bin=$1/bin
for n in 2 4 8; do
  launch=(mpirun --oversubscribe -n $n)
  a=() b=() c=() d=()
  for _ in 1 2 3 4 5 6 7; do
    a+=("$(until_said "${launch[@]}" "$bin/bench_mpi_hello")") b+=("$(until_said "${launch[@]}" "$bin/bench_first_task")")
    c+=("$(ms "${launch[@]}" "$bin/bench_mpi_hello")") d+=("$(ms "${launch[@]}" "$bin/bench_first_task")")
  done
  echo "startup        $n ranks: bare MPI until all are there $(summary "${a[@]}") ms, until the first task $(summary "${b[@]}") ms (goal: at most 100 more); to the end $(summary "${c[@]}") and $(summary "${d[@]}") ms"
done
e=()
for _ in 1 2 3 4 5 6 7; do e+=("$(ms "$bin/bench_first_task")"); done
echo "startup        alone, to the end: $(summary "${e[@]}") ms (goal: under 50)"
