#!/usr/bin/env bash
# Jobs under random harm: each ends in bounded time, with right results, and leaves nothing behind.
#   chaos.sh PROGRAM HELLO [TIMES [SECONDS]]
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_allowed_exit_without_sync=1
export OMPI_MCA_rmaps_base_oversubscribe=1
program=$1 hello=$2 times=${3:-1} seconds=${4:-5}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=0
fail() {
  echo "FAILED: $1"
  tail -n 40 "$out"
  failed=1
}
traces() {
  {
    ls -d /dev/shm/mobula* /tmp/mobula-??????
    pgrep -x chaos
  } 2>/dev/null | sort
}
before=$(traces)
# What ranks and keepers leave: nothing, a moment after the end. Of MPI's own files those of ranks that were killed may stay
# until mpirun has swept up. What was there before is another's.
check_left() {
  local left
  for _ in $(seq 50); do
    left=$(comm -13 <(echo "$before") <(traces))
    [ -z "$left" ] && return
    sleep 0.1
  done
  fail "$1 leaves behind: $left"
}
# name, seconds that it may take, the command line: the code must be 7
job() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  timeout -k 5 "$limit" "$@" >"$out" 2>&1 || code=$?
  [ $code = 7 ] || fail "$name: code $code"
  check_left "$name"
  echo "$name: $(grep rounds "$out"), $((SECONDS - start)) s"
}
limit=$((seconds + 120))
# With a /dev/shm and a scratch folder of its own, both small.
small='mount -t tmpfs -o size=$1 none /dev/shm; mkdir -p $2; mount -t tmpfs -o size=$3 none $2; shift 3; exec "$@"'
for _ in $(seq "$times"); do
  job "killed" $limit mpirun -n 9 "$program" kill "$seconds" 2
  job "killed, with little memory" $limit mpirun -n 7 "$program" kill "$seconds" 2 full --mobula-store=8MiB
  job "killed, one slot too many" $limit mpirun -n 4 "$program" kill "$seconds" 1 --mobula-slots=3
  job "stopped for too long" $limit mpirun -n 6 "$program" stop "$seconds" 3 --mobula-lost-after=1500
  if unshare -m true 2>/dev/null; then
    job "killed, scratch and memory full" $limit unshare -m bash -c "$small" - 64m /tmp/mobula-chaos-scratch 4m \
      mpirun -n 6 "$program" kill "$seconds" 2 full --mobula-store=4MiB --mobula-scratch=/tmp/mobula-chaos-scratch
    # /dev/shm itself is full for a while.
    filled='mount -t tmpfs -o size=$1 none /dev/shm; mkdir -p $2; mount -t tmpfs -o size=$3 none $2; shift 3
      (sleep 1; head -c 64m /dev/zero >/dev/shm/filler 2>/dev/null; sleep 1.5; rm -f /dev/shm/filler) & exec "$@"'
    job "/dev/shm full" $limit unshare -m bash -c "$filled" - 96m /tmp/mobula-chaos-scratch 64m \
      mpirun -n 5 "$program" kill "$seconds" 2 full --mobula-store=8MiB --mobula-scratch=/tmp/mobula-chaos-scratch
    rmdir /tmp/mobula-chaos-scratch 2>/dev/null
  fi
  # A rank that dies before the job has begun, or while it ends: the job ends soon, right or with an error. What mpirun
  # starts are keepers; theirs are the ranks.
  for when in 0.1 0.2 0.3 0.4 0.5 0.6; do
    timeout -k 5 30 mpirun -n 6 "$hello" >"$out" 2>&1 &
    launcher=$!
    sleep "$when"
    ranks=()
    for keeper in $(pgrep -P "$(pgrep -P $launcher -x mpirun || echo none)" 2>/dev/null || true); do
      ranks+=($(pgrep -P "$keeper" || true))
    done
    [ ${#ranks[@]} -gt 0 ] && kill -9 "${ranks[RANDOM % ${#ranks[@]}]}" 2>/dev/null
    code=0
    start=$SECONDS
    wait $launcher || code=$?
    [ $((SECONDS - start)) -lt 20 ] || fail "killed after $when s: hangs"
    echo "one of ${#ranks[@]} processes killed after $when s: code $code, $((SECONDS - start)) s later"
    check_left "killed after $when s"
  done
done
exit $failed
