#!/usr/bin/env bash
# Mobula under a real Slurm of three nodes: slurm.sh API_TEST HELLO ENDINGS SURVIVE DRAIN
set -u
. "$(dirname "$0")/slurm_test_cluster.sh"
trap cluster_down EXIT
cluster_up 3 4 || exit $?
fail() { echo "FAILED: $1"; cat "$cluster_dir/out" 2>/dev/null; exit 1; }

echo "== srun, three nodes, two ranks each"
timeout 60 srun -N 3 --ntasks-per-node=2 "$2" >"$cluster_dir/out" 2>&1 || fail "hello: $?"
cat "$cluster_dir/out"
grep -q "sum of squares: 332833500" "$cluster_dir/out" || fail "wrong sum"
for node in node1 node2 node3; do grep -q "on $node," "$cluster_dir/out" || fail "no rank on $node"; done
echo "== the API's tests over srun"
timeout 90 srun -N 3 --ntasks-per-node=2 "$1" --gtest_brief=1 >"$cluster_dir/out" 2>&1 || fail "api: $?"
tail -n 2 "$cluster_dir/out"
echo "== exit codes"
timeout 60 srun -N 3 -n 3 "$3" return3 >"$cluster_dir/out" 2>&1
[ $? = 3 ] || fail "srun's code is not the driver's"
timeout 60 srun -N 3 -n 3 "$3" throw >"$cluster_dir/out" 2>&1
[ $? = 1 ] || fail "srun's code is not 1"
grep -q "the driver is unhappy" "$cluster_dir/out" || fail "no message"
echo "== ranks are killed"
timeout 100 srun -N 3 --ntasks-per-node=2 "$4" kill 3 >"$cluster_dir/out" 2>&1
[ $? = 7 ] || fail "with ranks killed, srun's code is not the driver's"
grep "ranks killed" "$cluster_dir/out"
timeout 60 srun -N 3 --ntasks-per-node=2 "$4" head >"$cluster_dir/out" 2>&1
[ $? = 137 ] || fail "with the head killed, srun's code is not 137"
echo "== salloc and mpirun"
timeout 60 salloc -N 2 --ntasks-per-node=2 mpirun "$2" >"$cluster_dir/out" 2>&1 || fail "mpirun: $?"
grep -q "sum of squares: 332833500" "$cluster_dir/out" || fail "wrong sum"
echo "== scancel"
MOBULA_GRACE=1000 timeout 60 srun -N 3 -n 3 "$3" wait >"$cluster_dir/out" 2>&1 &
pid=$!
for _ in $(seq 100); do grep -q ready "$cluster_dir/out" && break; sleep 0.1; done
start=$SECONDS
scancel -u root  # the driver has as long as `grace`
wait $pid
[ $((SECONDS - start)) -le 6 ] || fail "the job took $((SECONDS - start)) s to end"
echo "== told to end by a signal, requeued, and on from the journal"
cat >"$cluster_dir/job" <<JOB
#!/bin/bash
#SBATCH -N 3 --ntasks-per-node=2 --requeue --open-mode=append -o $cluster_dir/out
srun "$5" tasks "$cluster_dir/ran" 200 --mobula-journal="$cluster_dir/journal" --mobula-grace=20000
code=\$?
echo "code \$code"
[ \$code = 138 ] && scontrol requeue \$SLURM_JOB_ID
exit \$code
JOB
: >"$cluster_dir/out"
id=$(sbatch --parsable "$cluster_dir/job") || fail "sbatch: $?"
for _ in $(seq 100); do [ "$(grep -cs ends "$cluster_dir/ran")" -ge 20 ] 2>/dev/null && break; sleep 0.1; done
scancel --signal=USR1 "$id"
cluster_requeued "$id" "code 0"
grep -q "code 138" "$cluster_dir/out" || fail "it was not told to end"
grep -q "^sum 39800$" "$cluster_dir/out" || fail "the sum"
[ "$(grep -c begins "$cluster_dir/ran")" = 200 ] || fail "a task ran twice"
grep "code" "$cluster_dir/out"
echo "== a launcher that MPI does not hear of"
timeout 60 srun --mpi=none -n 2 "$2" >"$cluster_dir/out" 2>&1 && fail "two programs ran for one"
grep -q "srun --mpi=pmix" "$cluster_dir/out" || fail "no advice"
