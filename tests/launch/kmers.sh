#!/usr/bin/env bash
# The k-mer counts of real reads, alone and over MPI, against jellyfish; and what damaged files get.
#   kmers.sh PROGRAM
set -eu
program=$1
reads=/usr/share/doc/bowtie2/examples/reads
[ -f "$reads/reads_1.fq.gz" ] || { echo "SKIPPED: bowtie2-examples is not installed"; exit 77; }
command -v jellyfish >/dev/null || { echo "SKIPPED: jellyfish is not installed"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
files=("$reads/reads_1.fq.gz" "$reads/reads_2.fq.gz" "$reads/longreads.fq.gz")
zcat "${files[@]}" >all.fq
awk 'NR % 4 == 1 {print ">" substr($0, 2)} NR % 4 == 2' all.fq >all.fa
for k in 15 21 31; do
  jellyfish count -m $k -s 10M -C -o counts.jf all.fq
  jellyfish histo -h 10000000 counts.jf >expected
  "$program" -k $k -o alone "${files[@]}" >/dev/null
  cmp expected alone.histogram.tsv
  mpirun -n 3 "$program" -k $k -o mpi "${files[@]}" >/dev/null
  cmp expected mpi.histogram.tsv
  cmp alone.tsv mpi.tsv
  "$program" -k $k -o fasta all.fa >/dev/null
  cmp alone.tsv fasta.tsv
done
if command -v h5dump >/dev/null; then
  h5dump -d /histogram -y -w 1 mpi.h5 >dump
  grep -q "$(awk '$1 == 1 {print $2}' expected)" dump
fi

fails() { # text file…
  local text=$1 code=0
  shift
  "$program" "$@" >out 2>&1 || code=$?
  [ $code = 1 ] || { echo "code $code for $*"; cat out; exit 1; }
  grep -q "$text" out || { echo "no '$text' for $*:"; cat out; exit 1; }
}
head -c 100000 "${files[0]}" >cut.fq.gz
fails 'cut.fq.gz, line [1-9][0-9]*: the gzip stream is truncated' cut.fq.gz
printf '@r\nACGT\n+\nIII\n' >short.fq
fails 'short.fq, line 4: the read has 4 bases and 3 qualities' short.fq
printf '>r\nAC1T\n' >digit.fa
fails "digit.fa, line 2: '1' is not a base" digit.fa
printf 'hello\n' >text.fa
fails 'text.fa, line 1: neither FASTA' text.fa
: >empty.fa
fails 'empty.fa, line 0: the file is empty' empty.fa
fails "none.fa: can't be opened" none.fa
echo "equal to jellyfish for k = 15, 21, 31"
