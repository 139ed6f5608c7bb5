#!/usr/bin/env bash
# The scripts in slurm/, and `mobula submit`, `each`, `doctor` and `status`, under a real Slurm.
#   slurm_scripts.sh SLURM_FOLDER MOBULA HELLO DRAIN
set -u
. "$(dirname "$0")/slurm_test_cluster.sh"
. "$(dirname "$0")/container_runtimes.sh"
scripts=$1 mobula=$2 hello=$3 drain=$4
export USER=${USER:-root} # Charliecloud asks for it
trap cluster_down EXIT
cluster_up 3 4 || exit $?
out=$cluster_dir/out
fail() { echo "FAILED: $1"; cat "$out" 2>/dev/null; exit 1; }
PATH=$(dirname "$mobula"):$PATH
cd "$cluster_dir" || exit 1
# wait_for TEXT [SECONDS]: in what the job prints
wait_for() {
  for _ in $(seq $((${2:-30} * 10))); do grep -q -- "$1" "$out" 2>/dev/null && return; sleep 0.1; done
  fail "it does not say: $1"
}
# batch SCRIPT [OPTIONS…]: to its end
batch() {
  : >"$out"
  timeout 60 sbatch --wait --time=5 --output="$out" "${@:2}" "$scripts/$1" >/dev/null || fail "$1: code $?"
}

echo "== scripts"
export APP=$hello
sums() {
  batch "$@"
  grep -q "sum of squares: 332833500" "$out" || fail "$1: the sum"
  echo "$1"
}
sums plain.sbatch --ntasks=6
sums nodes.sbatch --nodes=2 --ntasks-per-node=2 --cpus-per-task=2
sed 's/--ntasks=8/--ntasks=4/; s/ --mem=8G//; s/--time=60/--time=5/' "$scripts/heterogeneous.sbatch" >het.sbatch
scripts=. sums het.sbatch
printf 'echo %s >>each-ran\n' $(seq 50) >commands.txt
batch each.sbatch --ntasks=4
[ "$(sort -un each-ran | wc -l)" = 50 ] || fail "each.sbatch"
echo each.sbatch
batch array.sbatch --array=1-2 --ntasks=2 --output="$out"
echo array.sbatch
if command -v ch-run >/dev/null && command -v busybox >/dev/null; then
  mpi_image "$cluster_dir/image" "$hello"
  APP=/app/program IMAGE=$cluster_dir/image RUNTIME=charliecloud sums container.sbatch --nodes=2 --ntasks-per-node=2
else
  echo "SKIPPED: container.sbatch: Charliecloud or busybox is not installed"
fi

echo "== from afar"
# What `pcluster ssh` does, without the ssh: it hands the command to a shell on the head node.
mkdir -p afar shared/jobs
cat >afar/pcluster <<TEXT
#!/bin/bash
[ "\$*" = "ssh --cluster-name away --region there \${*: -1}" ] || exit 9
line=\${*: -1}
exec bash -c "\${line//\/shared\//$cluster_dir/shared/}"
TEXT
chmod +x afar/pcluster
: >"$out"
PATH=$cluster_dir/afar:$PATH "$scripts/../cloud/cluster" --name away --region there \
  submit "$scripts/plain.sbatch" --ntasks=3 --time=5 --wait --output="$out" >said || fail "submit from afar: $(cat said)"
grep -q "sum of squares: 332833500" "$out" || fail "the sum from afar"

echo "== submit, and from the journal after a warning"
: >"$out"
id=$("$mobula" submit -n 6 --journal "$cluster_dir/journal" --requeue -o "$out" "$drain" tasks "$cluster_dir/ran" 200 |
  tee said | grep -o '[0-9]*$') || fail "submit"
for _ in $(seq 100); do [ "$(grep -cs ends ran)" -ge 20 ] 2>/dev/null && break; sleep 0.1; done
# The head's node is asked, from elsewhere.
"$mobula" status "$id" >status 2>&1 || fail "status: $(cat status)"
grep -q "drain on node" status || fail "status: $(cat status)"
grep "^tasks" status
scancel --signal=USR1 "$id"  # as the warning does
cluster_requeued "$id" "^sum 39800$"
grep -q "^sum 39800$" "$out" || fail "the sum"
grep -q "asked to end" "$out" || fail "it was not told to end"
[ "$(grep -c begins ran)" = 200 ] || fail "a task ran twice"
echo "$(grep -c 'asked to end (SIGUSR1): what' "$out") pieces before the last"

echo "== in an allocation"
timeout 60 salloc -Q -N 3 --ntasks-per-node=2 "$mobula" run "$hello" >"$out" 2>&1 || fail "run: $?"
grep -q "sum of squares: 332833500" "$out" || fail "the sum"
timeout 60 salloc -Q -N 3 --ntasks-per-node=1 "$mobula" doctor >"$out" 2>&1 || fail "doctor: $?"
grep -q "3 ranks on node1, node2, node3 run the same program" "$out" || fail "the ranks"
grep "rank 0 to" "$out"
seq 20 | timeout 60 salloc -Q -n 4 "$mobula" each -k --quiet echo {} >"$out" 2>&1 || fail "each: $?"
seq 20 | cmp -s - "$out" || fail "the order"
timeout 60 salloc -Q -n 4 "$mobula" run --launcher mpirun "$hello" >"$out" 2>&1 || fail "mpirun: $?"
grep -q "sum of squares: 332833500" "$out" || fail "the sum with mpirun"
echo "all right"
