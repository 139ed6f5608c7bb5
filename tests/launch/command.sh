#!/usr/bin/env bash
# The command `mobula` as people use it, with real launchers.   command.sh MOBULA HELLO DRAIN
set -u
mobula=$1 hello=$2 drain=$3
work=$(mktemp -d)
job=
trap '[ -z "$job" ] || kill -9 "$job" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"
fail() { echo "FAILED: $1"; [ ! -s out ] || cat out; exit 1; }
# expect CODE COMMAND…: its code; what it says is in out.
expect() {
  local code=0
  timeout 60 "${@:2}" >out 2>&1 </dev/null || code=$?
  [ $code = "$1" ] || fail "code $code in place of $1: ${*:2}"
}
says() { grep -q -- "$1" out || fail "it does not say: $1"; }

echo "== run"
expect 0 "$mobula" run "$hello"
expect 0 "$mobula" run -n 3 "$hello"
says "worker 2"
expect 0 "$mobula" run -n 3 --dry-run "$hello" 'a b'
says "^.*mpirun -n 3 .* 'a b'$"
expect 1 "$mobula" run
says "which program"
expect 1 "$mobula" run -n 2 --hosts nowhere "$hello"
says "can't be read"
expect 1 "$mobula" run "$work/none"
says "No such file"
# Alone, a program ends with who reads its output.
{ "$hello"; echo $? >code; } | true
[ "$(cat code)" = 141 ] || fail "code $(cat code) where nobody reads"
expect 0 "$mobula" run --dry-run -n 2 -- "$hello" -- x
says "mpirun -n 2 .* $hello -- x$"
expect 1 "$mobula" run --rank 3 "$hello"
says "no option --rank"
expect 1 "$mobula" run --mobula-slots=2 "$hello"
says "Settings come behind"

expect 0 "$mobula" submit --dry-run --sbatch=--wait --setup 'module load mpi' --sbatch --qos=high "$hello" -t x
says '^#SBATCH --wait$'
says '^#SBATCH --qos=high$'
says '^module load mpi$'
says "mobula run $hello -t x$"

echo "== each"
for ranks in 1 3; do
  seq 200 | "$mobula" each -n $ranks -k --quiet 'echo {} {#}' >out 2>err || fail "each with $ranks ranks: $(cat err)"
  seq 200 | awk '{ print $1, $1 }' | cmp -s - out || fail "the order with $ranks ranks"
done
"$mobula" each -k --quiet echo {/.} ::: "a b/c d.txt" "it's" >out 2>&1 || fail "words"
printf "c d\nit's\n" | cmp -s - out || fail "quoting"
printf 'echo one\nexit 3\nkill -9 $$\n' | "$mobula" each --quiet --joblog log >out 2>&1
[ $? = 2 ] || fail "the number of failures"
says "exit code 3"
says "signal 9"
[ "$(wc -l <log)" = 4 ] || fail "the log"
awk -F'\t' '$1 == 2 && $7 == 3 && $9 == "exit 3"' log | grep -q . || fail "a line of the log: $(cat log)"
seq 3 | "$mobula" each -n 2 --quiet --mobula-slots=1 -- sh -c 'exit "$0"' >out 2>&1
[ $? = 3 ] || fail "the number of failures with several ranks"
[ "$(grep -vc "mobula: command" out)" = 0 ] || fail "the launcher speaks of the exit code"
# What went well is not run again, and what fails may be tried again.
for round in 1 2; do
  seq 5 | "$mobula" each -n 2 --quiet --resume journal 'echo {} >>ran; [ {} != 3 ] || [ -e again ]' >out 2>&1
  code=$?
  touch again
  [ $code = $((2 - round)) ] || fail "code $code in round $round"
done
[ "$(sort ran | tr -d '\n')" = 123345 ] || fail "ran: $(sort ran | tr '\n' ' ')"
expect 0 "$mobula" each --quiet --retries 3 'echo x >>tries-{}; [ "$(wc -l <tries-{})" = 3 ]' ::: a b
expect 2 "$mobula" each --quiet --halt 2 -j 1 'exit {}' ::: 1 1 1 1 1 1 1 1
says "no others were begun"
expect 1 "$mobula" each --quiet --timeout 0.3 'sleep {}' ::: 20 0
expect 0 "$mobula" each --dry-run 'gzip {} >{.}.gz' ::: 'a b.txt'
says "gzip 'a b.txt' >'a b'.gz"
head -c 40000000 /dev/zero >large
expect 0 sh -c "'$mobula' each --quiet cat ::: large | cmp - large"

echo "== output, status, top, stop, logs"
"$mobula" run -n 3 "$drain" long --mobula-job-dir=kept --mobula-grace=200 >driver 2>&1 &
job=$!
for _ in $(seq 200); do grep -q ready driver && break; sleep 0.05; done
name=$(basename "$(grep -l kept /tmp/mobula-"$(id -u)"/*/job.json | head -1 | xargs dirname)")
expect 0 "$mobula" status "$name"
says "told to end\|since"
says "1  *0  *0  endless"
expect 0 "$mobula" status
expect 0 sh -c "'$mobula' status $name --json | grep -q '\"slots\": 1'"
expect 1 "$mobula" status no-such-job --here
says "no job of yours"
expect 124 timeout 2 "$mobula" top "$name" --every 0.5
says "tasks .* ended"
expect 0 "$mobula" logs "$name" --rank 0
says "\[0\] ready"
expect 0 "$mobula" stop "$name"
code=0
wait $job || code=$?
job=
[ $code = 143 ] || fail "code $code of a job that was stopped"
[ ! -e "/tmp/mobula-$(id -u)/$name" ] || fail "the job's folder stays"
expect 0 "$mobula" logs kept
says "\[0\] ready"
expect 0 "$mobula" run -n 2 "$drain" says 20
[ "$(grep -c '^\[1\] line' out)" = 20 ] || fail "lines without their rank"
# A flood is cut off on the terminal, and whole in the file.
expect 0 "$mobula" run -n 2 "$drain" says 20000 --mobula-job-dir=flood
[ "$(grep -c line out)" -lt 3000 ] || fail "a flood of lines"
says "lines are left out here; all are in flood/rank-1.log"
[ "$(grep -c '^line' flood/rank-1.log)" = 20000 ] || fail "not all lines are kept"
expect 0 "$mobula" run -n 2 "$drain" says 20000 --mobula-output=plain
[ "$(grep -c '^line' out)" = 20000 ] || fail "plain output"

echo "== doctor"
expect 0 "$mobula" doctor
says "nothing is in the way"
expect 0 "$mobula" doctor -n 3 --program "$hello"
says "3 ranks on .* run the same program"
says "rank 0 to rank 1 on .*: .* us"
OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0 expect 1 env -u PMIX_RANK "$mobula" doctor
says "4 ranks, and each sees itself alone"
if unshare -Ur true 2>/dev/null; then
  # Each rank in a namespace of users of its own: what containers without a shared one do.
  expect 1 env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe -n 2 unshare -Ur "$mobula" doctor
  says "2 namespaces of users"
  says "sharens"
fi
if unshare -m true 2>/dev/null; then
  expect 0 unshare -m sh -c "mount -t tmpfs -o size=64m tmpfs /dev/shm && exec '$mobula' doctor"
  says "/dev/shm has 64 MiB"
  says "shm"
fi
echo "all right"
