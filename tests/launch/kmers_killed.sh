#!/usr/bin/env bash
# Real reads are counted while a random worker is killed again and again, until few are left: the counts stay right.
#   kmers_killed.sh PROGRAM [TIMES [RANKS LEFT SECONDS_BETWEEN COPIES]]
# COPIES: how often the reads are counted, so that the job lasts.
set -eu
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
program=$1 times=${2:-1} ranks=${3:-8} left=${4:-3} between=${5:-0.3} copies=${6:-8}
reads=/usr/share/doc/bowtie2/examples/reads
[ -f "$reads/reads_1.fq.gz" ] || { echo "SKIPPED: bowtie2-examples is not installed"; exit 77; }
work=$(mktemp -d)
job=
trap '[ -z "$job" ] || kill "$job" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
files=()
for _ in $(seq "$copies"); do files+=("$reads/reads_1.fq.gz" "$reads/reads_2.fq.gz" "$reads/longreads.fq.gz"); done
"$program" -o alone "${files[@]}" >/dev/null
rank_of() { tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | sed -n 's/^OMPI_COMM_WORLD_RANK=//p'; }
for i in $(seq "$times"); do
  rm -f counts.*
  timeout -k 5 150 mpirun --oversubscribe --mca orte_allowed_exit_without_sync 1 -n "$ranks" "$program" -o counts "${files[@]}" >out 2>&1 &
  job=$!
  start=$SECONDS killed=0
  while [ $((ranks - 1 - killed)) -gt "$left" ]; do
    sleep "$between"
    kill -0 $job 2>/dev/null || break
    victims=()
    # mpirun's children are keepers, and theirs the ranks.
    for keeper in $(pgrep -P "$(pgrep -P $job -x mpirun || echo 0)" || true); do
      for rank in $(pgrep -P "$keeper" || true); do
        # One that has not joined yet, and so has no threads of slots, takes the job with it.
        grep -qs ":s[0-9]" "/proc/$rank"/task/*/comm || continue
        [ "$(rank_of "$rank")" = 0 ] || victims+=("$rank")
      done
    done
    [ ${#victims[@]} -gt "$left" ] || continue
    kill -9 "${victims[RANDOM % ${#victims[@]}]}" && killed=$((killed + 1))
  done
  code=0
  wait $job || code=$?
  job=
  if [ $code != 0 ] || ! cmp -s alone.tsv counts.tsv; then
    echo "FAILED: round $i, code $code, $killed of $ranks ranks killed"; cat out; exit 1
  fi
  [ "$killed" -gt 0 ] || { echo "FAILED: round $i: no rank was killed in time"; exit 1; }
  echo "round $i: $killed of $ranks ranks killed, the same counts, $((SECONDS - start)) s"
done
