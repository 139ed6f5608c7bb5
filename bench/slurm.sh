#!/usr/bin/env bash
# Under a Slurm of its own on this machine (as tests/launch/slurm_test_cluster.sh makes it): from `srun` to the first task,
# against a bare MPI program; short commands by `mobula each`, by a job array, by steps in an allocation, and by GNU
# parallel.   slurm.sh BUILD_DIR [COMMANDS]
set -eu
here=$(dirname "$0")
bin=$(realpath "$1")/bin many=${2:-10000}
. "$here/measure.sh"
. "$here/../tests/launch/slurm_test_cluster.sh"
trap cluster_down EXIT
cluster_up 3 4
cd "$cluster_dir"
# The nodes share this machine's cores, which MPI doesn't know.
export OMPI_MCA_mpi_yield_when_idle=1
for n in 3 9; do
  a=() b=()
  for _ in 1 2 3 4 5 6 7; do
    a+=("$(until_said srun --mpi=pmix -n $n "$bin/bench_mpi_hello")") b+=("$(until_said srun --mpi=pmix -n $n "$bin/bench_first_task")")
  done
  echo "srun           $n ranks on 3 nodes: bare MPI until all are there $(summary "${a[@]}") ms, until the first task $(summary "${b[@]}") ms"
done

rate() { echo $(($1 * 1000 / $2)); }
seq "$many" >input
each=() parallel=() array=() steps=()
printf '#!/bin/sh\ntrue\n' >one.sh
few=$((many < 200 ? many : 200)) fewer=20
for _ in 1 2 3 4 5; do
  each+=("$(rate "$many" "$(ms salloc -Q -N 1 -n 3 "$bin/mobula" each --quiet --items input true)")")
  ! command -v parallel >/dev/null || parallel+=("$(rate "$many" "$(ms parallel -j 2 true {} :::: input)")")
  array+=("$(rate $few "$(ms sbatch --wait --array="1-$few" -n 1 --output=/dev/null one.sh)")")
  steps+=("$(rate $fewer "$(ms salloc -Q -n 2 sh -c "for i in \$(seq $fewer); do srun -n 1 true; done")")")
done
echo "commands       $many of \`true\`, a second, start included: mobula each (3 ranks) $(summary "${each[@]}")"
[ ${#parallel[@]} -eq 0 ] || echo "commands       $many of \`true\`, a second: GNU parallel -j 2 $(summary "${parallel[@]}")"
echo "commands       $few of \`true\`, a second: a job array $(summary "${array[@]}")"
echo "commands       $fewer of \`true\`, a second: an srun each in one allocation $(summary "${steps[@]}")"
