#!/usr/bin/env bash
# Every way in which a job can end: the exit code, the message, the time, and that nothing stays behind.
#   endings.sh PROGRAM RANKS      RANKS 0: alone
set -u
export MOBULA_GRACE=1000
program=$1
ranks=$2
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
launch() { if [ "$ranks" = 0 ]; then exec "$program" "$@"; else exec mpirun -n "$ranks" "$program" "$@"; fi; }
shm_before=$(ls /dev/shm | sort)
fail() { echo "FAILED $*"; failed=1; }
now() { echo $(($(date +%s%N) / 1000000)); }

# Runs FUNCTION ARGUMENT…, which sets code and ms. One that takes long gets two more tries: what waits for something takes
# as long each time, and a slow machine does not.
in_time() {
  for _ in 1 2 3; do
    "$@"
    [ "$ms" -ge 4000 ] || return 0
  done
  fail "${*:2}: took $ms ms to end, the third time"
}

ends() { # how
  local start
  start=$(now)
  (launch "$1") >"$work/out" 2>&1 &
  wait $!
  code=$?
  ms=$(($(now) - start))
}

is_ended() { # how signal
  local start
  (launch "$1") >"$work/out" 2>&1 &
  local pid=$!
  for _ in $(seq 100); do grep -q ready "$work/out" && break; sleep 0.1; done
  sleep 0.2
  start=$(now)
  # A shell's background jobs ignore SIGINT unless the program handles it; ours and mpirun do.
  kill -"$2" $pid
  wait $pid
  code=$?
  ms=$(($(now) - start))
}

for case in "ok 0 " "return3 3 " "throw 1 the driver is unhappy" "task 1 from a task" "exit5 5 " "running 4 " "reading 6 " "inside 7 were told" "late 0 must be called while mobula::run is going on"; do
  read -r how want text <<<"$case"
  in_time ends "$how"
  [ "$code" = "$want" ] || { fail "$how: exit code $code, expected $want"; cat "$work/out"; }
  [ -z "$text" ] || grep -q "$text" "$work/out" || { fail "$how: no '$text' in:"; cat "$work/out"; }
  echo "$how: code $code after $ms ms"
done

# A head that ends without a word ends the job, also where the launcher lets it.
OMPI_MCA_orte_allowed_exit_without_sync=1 in_time ends vanish
[ "$code" = 0 ] || { fail "vanish: exit code $code"; cat "$work/out"; }
echo "vanish: code $code after $ms ms"

for how in wait busy; do
  for signal in INT TERM; do
    in_time is_ended $how $signal
    if [ "$ranks" = 0 ]; then
      [ $signal = INT ] && want=130 || want=143
      [ $code = $want ] || fail "$how by SIG$signal: code $code, expected $want"
    else  # the launcher's own code, whatever ours is
      [ $code != 0 ] || fail "$how by SIG$signal: code 0"
    fi
    echo "$how by SIG$signal: code $code after $ms ms"
  done
done
sleep 0.3
left=$(comm -13 <(echo "$shm_before") <(ls /dev/shm | sort))
[ -z "$left" ] || fail "left in /dev/shm: $left"
if pgrep -f "^$program" >/dev/null; then fail "still running: $(pgrep -af "^$program")"; fi
exit $failed
