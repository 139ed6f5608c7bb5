#!/usr/bin/env bash
# The scripts in slurm/, and `mobula submit`, `each`, `doctor` and `status`, under a real Slurm.
#   slurm_scripts.sh SLURM_FOLDER MOBULA HELLO DRAIN SURVIVE PINNING STORE_PRESSURE
set -u
. "$(dirname "$0")/slurm_test_cluster.sh"
. "$(dirname "$0")/container_runtimes.sh"
scripts=$1 mobula=$2 hello=$3 drain=$4 survive=$5 pinning=$6 pressure=$7
export USER=${USER:-root} # Charliecloud asks for it
trap cluster_down EXIT
cluster_apart=1 cluster_gpus=2
cluster_up 4 4 || exit $?
out=$cluster_dir/out
fail() {
  echo "FAILED: $1"
  cat "$out" 2>/dev/null
  timeout 5 squeue
  pgrep -af "hello|drain|survive|slurmstepd"
  exit 1
}
PATH=$(dirname "$mobula"):$PATH
cd "$cluster_dir" || exit 1
# wait_for TEXT [SECONDS]: in what the job prints
wait_for() {
  for _ in $(seq $((${2:-30} * 10))); do grep -q -- "$1" "$out" 2>/dev/null && return; sleep 0.1; done
  fail "it does not say: $1"
}
# to_its_end SCRIPT [OPTIONS…]: with the job's code
to_its_end() {
  local code=0
  : >"$out"
  timeout 60 sbatch --wait --time=5 --output="$out" "${@:2}" "$scripts/$1" >/dev/null || code=$?
  if [ $code = 124 ] && srun_stays; then
    echo "$1: srun stays after its ranks (see slurm/README.md): once more"
    scancel -n mobula-het
    code=0
    timeout 60 sbatch --wait --time=5 --output="$out" "${@:2}" "$scripts/$1" >/dev/null || code=$?
  fi
  return $code
}
batch() { to_its_end "$@" || fail "$1: code $?"; }
# A heterogeneous job whose steps have ended, of which only srun is left.
srun_stays() {
  local jobs
  jobs=$(squeue -h -n mobula-het -o %A)
  [ -n "$jobs" ] && ! squeue -h -s -o %i | grep -v batch | grep -qF "$jobs"
}

# What Slurm itself says before the time limit takes most of a minute: on a node apart, while the rest goes on.
"$mobula" submit -p apart -n 4 -t 1 --warning 45 --journal "$cluster_dir/limited-journal" --requeue -o "$cluster_dir/limited" \
  "$drain" tasks "$cluster_dir/limited-ran" 2500 >said || fail "submit: $(cat said)"
limited=$(grep -o '[0-9]*$' said)

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
# This one calls srun itself, so it is run with Slurm's own settings, as users have them.
(unset SLURM_PMIX_FENCE; scripts=. sums het.sbatch) || exit 1
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

APP="$pinning devices 4" batch gpu.sbatch --gpus-per-node=2 --ntasks-per-node=3 --cpus-per-task=1
[ "$(grep -o 'node[123]:[01]' "$out" | sort -u | wc -l)" = 4 ] || fail "gpu.sbatch: not each GPU was used"
echo "gpu.sbatch: $(cat "$out")"

echo "== scripts: a rank is killed, the job is cancelled"
nothing_stays() { # WHAT
  local i node left
  for _ in $(seq 100); do
    left=$(pgrep -x "drain|survive" -a | grep -v limited-ran)
    [ -z "$left" ] && break
    sleep 0.1
  done
  [ -z "$left" ] || fail "$1: processes stay: $left"
  for i in 1 2 3; do
    node=$(cat "$cluster_dir/slurmd.node$i.pid")
    left=$(nsenter -t "$node" --mount ls /dev/shm | grep -v '^sem\.')
    [ -z "$left" ] || fail "$1: on node$i stays $left"
  done
}
# killed_and_cancelled SCRIPT [OPTIONS…]
killed_and_cancelled() {
  local code=0
  APP="$survive kill 1" to_its_end "$@" || code=$?
  [ $code = 7 ] || fail "$1: code $code with a rank killed"
  : >"$out"
  APP="$drain nap" sbatch --parsable --time=5 --output="$out" "${@:2}" "$scripts/$1" >number || fail "$1: sbatch"
  wait_for ready
  scancel "$(cat number)"
  for _ in $(seq 150); do [ -z "$(squeue -h -j "$(cut -d';' -f1 number)" 2>/dev/null)" ] && break; sleep 0.1; done
  nothing_stays "$1"
  echo "$1"
}
export MOBULA_GRACE=1000
killed_and_cancelled plain.sbatch --ntasks=6
killed_and_cancelled nodes.sbatch --nodes=2 --ntasks-per-node=2 --cpus-per-task=2
JOURNAL=$cluster_dir/journal-killed killed_and_cancelled requeue.sbatch --nodes=2 --ntasks-per-node=3
(unset SLURM_PMIX_FENCE; scripts=. killed_and_cancelled het.sbatch) || exit 1
unset MOBULA_GRACE

echo "== several users on the same nodes"
# With large values in shared memory; and nobody meets another's job.
cp "$mobula" "$pressure" "$drain" "$cluster_dir"
as() { setpriv --reuid "$1" --regid "$(id -g "$1")" --clear-groups env HOME=/tmp USER="$1" "${@:2}"; }
for user in daemon games nobody; do
  as "$user" timeout 60 srun -N 3 -n 3 "$cluster_dir/$(basename "$pressure")" random 3 --mobula-store=16MiB >"by-$user" 2>&1 &
  eval "of_$user=$!"
done
for user in daemon games nobody; do
  eval "wait \$of_$user" || fail "the job of $user: $(cat "by-$user")"
done
: >"$out"
as daemon timeout 60 srun -N 1 -w node1 -n 2 "$cluster_dir/$(basename "$drain")" nap --mobula-grace=500 >"$out" 2>&1 &
job=$!
wait_for ready
number=$(squeue -h -u daemon -o %i)
as daemon "$cluster_dir/mobula" status "$number" >status 2>&1 || fail "status: $(cat status)"
as games "$cluster_dir/mobula" status "$number" >status 2>&1 && fail "another user's job is shown"
cat status
as daemon "$cluster_dir/mobula" stop "$number" >status 2>&1 || fail "stop: $(cat status)"
wait $job

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

echo "== doctor, where Slurm has no PMIx, and where ranks are started without it"
timeout 60 srun --mpi=none -n 2 "$mobula" doctor >"$out" 2>&1 && fail "doctor: ranks that are alone are all right"
grep -q "2 ranks, and each sees itself alone" "$out" || fail "doctor's words"
grep -A1 "sees itself alone" "$out"
plugins=$(scontrol show config | awk '$1 == "PluginDir" {print $3}')
unshare --mount bash -c 'for f in "$1"/mpi_pmix*.so; do mount --bind /dev/null "$f" || exit 9; done
  exec timeout 60 salloc -Q -N 2 -n 2 "$2" doctor' doctor "$plugins" "$mobula" >"$out" 2>&1 || fail "doctor without PMIx: $?"
grep -q "this Slurm has no PMIx" "$out" || fail "doctor's words"
grep -A1 "no PMIx" "$out"
grep "starting ranks" "$out"

echo "== warned by Slurm before the time limit, queued again, on from the journal"
cluster_requeued "$limited" "^sum" "$cluster_dir/limited"
cp "$cluster_dir/limited" "$out"
grep -q "^sum 6247500$" "$out" || fail "the sum"
grep -q "asked to end" "$out" || fail "it was not told to end"
[ "$(grep -c begins limited-ran)" = 2500 ] || fail "a task ran twice"
echo "$(grep -c 'asked to end (SIGUSR1): what' "$out") pieces before the last"
echo "all right"
