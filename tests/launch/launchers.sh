#!/usr/bin/env bash
# What becomes of a job whose worker, or whose head, is killed, under each launcher that is here: a table.
#   launchers.sh SURVIVE
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
program=$(realpath "$1")
. "$(dirname "$0")/slurm_test_cluster.sh"
. "$(dirname "$0")/hosts_cluster.sh"
out=$(mktemp)
trap 'rm -f "$out"; cluster_down; hosts_down' EXIT
# launcher, then the command line before the program, in one string
try() {
  local name=$1 line=$2 code row
  row="| $name |"
  for what in "kill 1" head; do
    timeout -k 3 40 bash -c "$line $program $what ${settings:-}" >"$out" 2>&1
    code=$?
    case $what in
    kill*)
      if grep -q "1 ranks killed" "$out" && [ $code != 137 ]; then row="$row goes on |"; else row="$row is ended |"; fi
      row="$row $code |"
      ;;
    head)
      sleep 2.5
      local left
      left=$(pgrep -x survive | wc -l)
      row="$row $code$([ "$left" = 0 ] || echo ", $left ranks left") |"
      pkill -KILL -x survive
      ;;
    esac
  done
  echo "$row"
}
echo "The driver's code is 7 where its job goes on."
echo "| launcher | a worker is killed: the job | code | the head is killed: code |"
echo "|---|---|---|---|"
sync="--mca orte_allowed_exit_without_sync 1"
try "mpirun $sync" "mpirun --oversubscribe $sync -n 4"
try "mpirun" "mpirun --oversubscribe -n 4"
settings=--mobula-keeper=off
try "mpirun, keeper off" "mpirun --oversubscribe -n 4"
try "mpirun --enable-recovery, keeper off" "mpirun --oversubscribe --enable-recovery -n 4"
settings=
if hosts_up 3 >/dev/null; then
  line="mpirun --hostfile $hosts_dir/hostfile --mca plm rsh --mca plm_rsh_agent $hosts_dir/agent --mca plm_rsh_no_tree_spawn 1 --mca oob_tcp_if_include 10.78.0.0/24 --mca btl_tcp_if_include 10.78.0.0/24 --oversubscribe --bind-to none --map-by node -n 6"
  try "mpirun $sync, 3 hosts" "$line $sync"
  hosts_down
  hosts_dir=
fi
if cluster_up 3 4 >/dev/null; then
  try "srun, one node" "srun -N 1 -n 4"
  try "srun, 3 nodes" "srun -N 3 --ntasks-per-node=2"
  try "srun -K (kill on bad exit), 3 nodes" "srun -K1 -N 3 --ntasks-per-node=2"
  try "salloc, mpirun $sync, 3 nodes" "salloc -Q -N 3 --ntasks-per-node=2 mpirun $sync"
  settings=--mobula-keeper=off
  try "srun, 3 nodes, keeper off" "srun -N 3 --ntasks-per-node=2"
  settings=
  # A node that Slurm takes for lost, half-way.
  for kill in "" --no-kill; do
    : >"$out"
    (timeout -k 3 60 salloc -Q $kill -N 3 --ntasks-per-node=2 srun $kill "$program" cut --mobula-lost-after=2000 >"$out" 2>&1; echo "code $?" >>"$out") &
    for _ in $(seq 200); do grep -q ready "$out" && break; sleep 0.1; done
    scontrol update nodename=node3 state=down reason=test
    wait $!
    if grep -q "all is right" "$out"; then row="goes on"; else row="is ended"; fi
    echo "| srun $kill: a node is lost | $row | $(sed -n 's/^code //p' "$out") | |"
    scontrol update nodename=node3 state=resume
    sleep 3
  done
fi
