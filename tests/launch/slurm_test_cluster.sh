# A Slurm of several nodes on one machine, for tests: source it, then `cluster_up NODES CPUS`. Each slurmd runs in mount
# and UTS namespaces of its own, with its own hostname and /dev/shm, as Open MPI names shared memory by host and job.
# `cluster_up` returns 77 with a reason where that can't be done. `cluster_down` ends the daemons by their ids.
#   cluster_apart=1    the last node is a partition of its own, `apart`
#   cluster_gpus=N     each node seems to have N GPUs: what their driver would show, and devices that do nothing

cluster_dir=""

cluster_up() {
  local nodes=$1 cpus=$2 tool i port
  for tool in slurmctld slurmd munged srun unshare; do
    command -v "$tool" >/dev/null || { echo "SKIPPED: $tool is not installed"; return 77; }
  done
  [ "$(id -u)" = 0 ] || { echo "SKIPPED: a test cluster needs root"; return 77; }
  unshare --mount --uts true 2>/dev/null || { echo "SKIPPED: namespaces can't be made here"; return 77; }
  cluster_dir=$(mktemp -d)
  chmod 755 "$cluster_dir"
  mkdir -p "$cluster_dir"/{state,log,munge}
  head -c 128 /dev/urandom >"$cluster_dir/munge/key"
  chmod 400 "$cluster_dir/munge/key"
  port=$((20000 + RANDOM % 10000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 16)); done
  {
    echo "ClusterName=mobula
FirstJobId=$((port * 1000 + RANDOM % 1000))
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$cluster_dir/munge/socket
StateSaveLocation=$cluster_dir/state
SlurmctldPidFile=$cluster_dir/slurmctld.pid
SlurmctldLogFile=$cluster_dir/log/slurmctld.log
SlurmdPidFile=$cluster_dir/slurmd.%n.pid
SlurmdLogFile=$cluster_dir/log/slurmd.%n.log
SlurmdSpoolDir=$cluster_dir/spool-%n
TmpFS=$cluster_dir/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=pmix
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none${cluster_gpus:+
GresTypes=gpu}"
    for i in $(seq "$nodes"); do
      echo "NodeName=node$i NodeHostname=node$i NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus CoresPerSocket=$cpus State=UNKNOWN ${cluster_gpus:+Gres=gpu:$cluster_gpus}"
    done
    echo "PartitionName=test Nodes=node[1-$((nodes - ${cluster_apart:-0}))] Default=YES MaxTime=10 OverSubscribe=NO State=UP"
    [ -z "${cluster_apart:-}" ] || echo "PartitionName=apart Nodes=node$nodes MaxTime=10 State=UP"
  } >"$cluster_dir/slurm.conf"
  echo "CgroupAutomount=no" >"$cluster_dir/cgroup.conf"
  [ -z "${cluster_gpus:-}" ] || echo "Name=gpu File=/dev/nvidia[0-$((cluster_gpus - 1))]" >"$cluster_dir/gres.conf"
  export SLURM_CONF=$cluster_dir/slurm.conf
  # The nodes share one network here: without this MPI may pick an address that does not lead anywhere.
  export OMPI_MCA_btl_tcp_if_include=lo
  # Without this a rank of a loaded machine is now and then sent messages before it can take any, and crashes in MPI_Init.
  export SLURM_PMIX_FENCE=ring
  munged --force --key-file="$cluster_dir/munge/key" --socket="$cluster_dir/munge/socket" --pid-file="$cluster_dir/munge/pid" \
    --seed-file="$cluster_dir/munge/seed" --log-file="$cluster_dir/log/munged.log" || return 1
  slurmctld -c -f "$SLURM_CONF" || return 1
  for i in $(seq "$nodes"); do
    mkdir -p "$cluster_dir/spool-node$i" "$cluster_dir/tmp-node$i"
    unshare --mount --uts --propagation slave bash -c '. "$3"; seem_to_have_gpus "$4" &&
      mount -t tmpfs -o mode=1777,size=50% tmpfs /dev/shm && hostname "$1" && exec slurmd -N "$1" -f "$2"' \
      slurmd "node$i" "$SLURM_CONF" "${BASH_SOURCE[0]}" "${cluster_gpus:-0}" || return 1
  done
  for _ in $(seq 100); do
    [ "$(sinfo -hN -t idle -o %N 2>/dev/null | sort -u | wc -l)" = "$nodes" ] && return 0
    sleep 0.1
  done
  echo "the nodes did not come up:"
  tail -n 5 "$cluster_dir"/log/*.log
  return 1
}

# seem_to_have_gpus N: in a mount namespace
seem_to_have_gpus() {
  [ "$1" -gt 0 ] || return 0
  local i name dev
  dev=$(mktemp -d)
  mount -t tmpfs -o mode=755 tmpfs "$dev" || return 1
  for name in null zero full random urandom tty; do touch "$dev/$name" && mount --bind "/dev/$name" "$dev/$name"; done
  mkdir "$dev/pts" "$dev/shm"
  mount --bind /dev/pts "$dev/pts"
  ln -s /proc/self/fd "$dev/fd"
  for i in 0 1 2; do ln -s "/proc/self/fd/$i" "$dev/$(echo stdin stdout stderr | cut -d ' ' -f $((i + 1)))"; done
  mount -t tmpfs tmpfs /proc/driver || return 1
  for i in $(seq 0 $(($1 - 1))); do
    mknod -m 666 "$dev/nvidia$i" c 1 3
    mkdir -p "/proc/driver/nvidia/gpus/0000:0$i:00.0"
    printf 'Model: none\nGPU UUID: GPU-%s\nDevice Minor: %s\n' "$i" "$i" >"/proc/driver/nvidia/gpus/0000:0$i:00.0/information"
  done
  mount --move "$dev" /dev
  rmdir "$dev"
}

cluster_down() {
  [ -n "$cluster_dir" ] || return 0
  local pids="" file p
  for _ in $(seq 100); do  # steps whose slurmd is gone would stay
    timeout 10 squeue -h -o %i 2>/dev/null | xargs -r timeout 10 scancel 2>/dev/null
    [ -n "$(timeout 10 squeue -h 2>/dev/null)" ] || break
    sleep 0.1
  done
  for file in "$cluster_dir"/slurmd.*.pid "$cluster_dir/slurmctld.pid" "$cluster_dir/munge/pid"; do
    [ -s "$file" ] && pids="$pids $(cat "$file")"
  done
  for p in $pids; do kill -TERM "$p" 2>/dev/null; done
  for _ in $(seq 50); do
    local left=""
    for p in $pids; do kill -0 "$p" 2>/dev/null && left=1; done
    [ -z "$left" ] && break
    sleep 0.1
  done
  for p in $pids; do kill -KILL "$p" 2>/dev/null; done
  rm -rf "$cluster_dir"
}

# cluster_requeued JOB TEXT [FILE]: until the job, which is queued again, has printed a line that matches, at most 90 s. What
# it prints is in FILE (out). Slurm would let it wait for two minutes, since what it tells the nodes in the second in which
# they were told to end the job is void: a few seconds are enough for that.
cluster_requeued() {
  local end=$((SECONDS + 90))
  while [ $SECONDS -lt $end ]; do
    grep -q "$2" "${3:-$cluster_dir/out}" && return
    if [ "$(squeue -h -j "$1" -o %T:%r 2>/dev/null)" = PENDING:BeginTime ]; then
      sleep 3
      scontrol update JobId="$1" StartTime=now 2>/dev/null
    fi
    sleep 0.5
  done
}
