#!/usr/bin/env bash
# Jobs that are asked to end by a signal, alone and over ranks.   drain.sh DRAIN
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
drain=$1
work=$(mktemp -d)
job=
trap '[ -z "$job" ] || kill -9 "$job" 2>/dev/null; rm -rf "$work"' EXIT
fail() { echo "FAILED: $1"; cat "$work/out"; exit 1; }
ms() { echo $(($(date +%s%N) / 1000000)); }
# start RANKS ARGUMENTS…: 0 ranks: without mpirun. Returns when it is ready.
start() {
  local ranks=$1
  shift
  rm -f "$work/out"  # that of the job before is not taken for this one's
  if [ "$ranks" = 0 ]; then
    "$drain" "$@" --mobula-slots=2 --mobula-journal="$work/journal" >"$work/out" 2>&1 &
  else
    mpirun --oversubscribe -n "$ranks" "$drain" "$@" --mobula-journal="$work/journal" >"$work/out" 2>&1 &
  fi
  job=$!
  for _ in $(seq 200); do grep -q ready "$work/out" 2>/dev/null && return; sleep 0.05; done
  fail "it does not start"
}
# end CODE MOST_MS: its code, and how long it may take since `asked`.
end() {
  local code=0
  wait $job || code=$?
  job=
  [ $code = "$1" ] || fail "code $code, expected $1"
  took=$(($(ms) - asked))
  [ $took -lt "$2" ] || fail "it took $took ms"
}

for ranks in 0 1 3; do
  echo "== $ranks ranks"
  rm -rf "$work/journal" "$work/log"
  start $ranks tasks "$work/log" 40
  for _ in $(seq 100); do [ "$(grep -c ends "$work/log" 2>/dev/null)" -ge 5 ] 2>/dev/null && break; sleep 0.02; done
  asked=$(ms)
  kill -USR1 $job
  # mpirun passes it on to all ranks; its own code is that of the head.
  end 138 3000
  grep -q "asked to end (SIGUSR1)" "$work/out" || fail "it does not say why"
  begun=$(grep -c begins "$work/log") ended=$(grep -c ends "$work/log")
  [ "$begun" = "$ended" ] || fail "$begun tasks began, and $ended ended"
  [ "$ended" -lt 40 ] || fail "it was too late to ask"
  start $ranks tasks "$work/log" 40
  asked=$(ms)
  end 0 20000
  grep -q "^sum 1560$" "$work/out" || fail "the sum"
  [ "$(grep -c begins "$work/log")" = 40 ] || fail "a task ran again"
  echo "$ended of 40 tasks before, the rest after"

  start $ranks saves
  sleep 0.3
  asked=$(ms)
  kill -USR1 $job
  end 7 3000
  grep -q "time left: yes" "$work/out" || fail "no time left"
  seen=$(sed -n 's/^kept //p' "$work/out")
  [ "$seen" -gt 0 ] || fail "nothing was seen"
  start $ranks saves
  grep -q "seen $seen$" "$work/out" || fail "what the driver has kept"
  asked=$(ms)
  kill -USR1 $job
  end 7 3000
  echo "the driver saw $seen, and went on from there"

  before=0
  for how in asked asked alone asked alone asked; do
    [ $how = asked ] && most=100000 || most=50
    start $ranks actor $most
    grep -q "from $((before + 1))$" "$work/out" || fail "the actor goes on from $before"
    [ $how = alone ] || sleep 0.2
    asked=$(ms)
    [ $how = alone ] || kill -USR1 $job
    end 0 3000
    before=$(sed -n 's/^count //p' "$work/out")
  done
  echo "an actor counted to $before in six jobs"
done

echo "== what does not end in time"
for how in long nap; do
  start 0 $how --mobula-grace=700
  asked=$(ms)
  kill -TERM $job
  end 143 3000
  [ $took -ge 600 ] || fail "it had no time: $took ms"
  echo "$how: after $took ms"
  start 3 $how --mobula-grace=700
  asked=$(ms)
  kill -USR1 $job
  end 138 5000
  echo "$how on 3 ranks: after $took ms"
done

echo "== asked twice"
start 0 long
asked=$(ms)
kill -TERM $job
sleep 1.2
kill -TERM $job
end 143 3000
echo "after $took ms"
start 0 long
asked=$(ms)
kill -INT $job
end 130 1500
echo "interrupted: after $took ms"
start 0 long --mobula-grace=0
asked=$(ms)
kill -TERM $job
end 143 1500
echo "without grace: after $took ms"
