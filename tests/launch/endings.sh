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

check() { # name expected_code expected_text code
  local name=$1 want=$2 text=$3 code=$4 ms=$5
  if [ "$code" != "$want" ]; then echo "FAILED $name: exit code $code, expected $want"; cat "$work/out"; failed=1; fi
  if [ -n "$text" ] && ! grep -q "$text" "$work/out"; then echo "FAILED $name: no '$text' in:"; cat "$work/out"; failed=1; fi
  if [ "$ms" -gt 4000 ]; then echo "FAILED $name: took $ms ms to end"; failed=1; fi
  echo "$name: code $code after $ms ms"
}
now() { echo $(($(date +%s%N) / 1000000)); }

for case in "ok 0 " "return3 3 " "throw 1 the driver is unhappy" "task 1 from a task" "exit5 5 " "running 4 " "reading 6 " "late 0 must be called while mobula::run is going on"; do
  read -r how code text <<<"$case"
  start=$(now)
  (launch "$how") >"$work/out" 2>&1 &
  wait $!
  check "$how" "$code" "$text" $? $(($(now) - start))
done

for how in wait busy; do
  for signal in INT TERM; do
    (launch "$how") >"$work/out" 2>&1 &
    pid=$!
    for _ in $(seq 100); do grep -q ready "$work/out" && break; sleep 0.1; done
    sleep 0.2
    start=$(now)
    # A shell's background jobs ignore SIGINT unless the program handles it; ours and mpirun do.
    kill -$signal $pid
    wait $pid
    code=$?
    ms=$(($(now) - start))
    if [ "$ranks" = 0 ]; then
      [ $signal = INT ] && want=130 || want=143
      [ $code = $want ] || { echo "FAILED $how by SIG$signal: code $code, expected $want"; failed=1; }
    else  # the launcher's own code, whatever ours is
      [ $code != 0 ] || { echo "FAILED $how by SIG$signal: code 0"; failed=1; }
    fi
    echo "$how by SIG$signal: code $code after $ms ms"
    [ $ms -lt 4000 ] || { echo "FAILED $how by SIG$signal: took $ms ms"; failed=1; }
  done
done
sleep 0.3
left=$(comm -13 <(echo "$shm_before") <(ls /dev/shm | sort))
[ -z "$left" ] || { echo "FAILED: left in /dev/shm: $left"; failed=1; }
if pgrep -f "^$program" >/dev/null; then echo "FAILED: still running: $(pgrep -af "^$program")"; failed=1; fi
exit $failed
