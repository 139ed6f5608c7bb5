#!/usr/bin/env bash
# docker/compose.yaml as it stands, with an image of this build's programs in place of the one that docker/Dockerfile makes: a
# head and two workers, in containers of their own, count real reads, once undisturbed and once with a worker's container killed.
#   compose.sh SOURCE_DIR MOBULA KMERS
set -eu
source=$1 mobula=$2 kmers=$3
reads=/usr/share/doc/bowtie2/examples/reads
[ -f "$reads/reads_1.fq.gz" ] || { echo "SKIPPED: bowtie2-examples is not installed"; exit 77; }
sshd=/usr/sbin/sshd libraries=
if [ ! -x $sshd ]; then sshd=$source/build/openssh$sshd libraries=$(echo "$source"/build/openssh/usr/lib/*-linux-*); fi
[ -x "$sshd" ] || { echo "SKIPPED: there is no sshd to put into the image (scripts/setup test)"; exit 77; }
compose=(docker compose)
docker compose version >/dev/null 2>&1 || compose=(docker-compose --compatibility)
command -v "${compose[0]}" >/dev/null || { echo "SKIPPED: docker compose is not installed"; exit 77; }
work=$(mktemp -d)
chmod 755 "$work"
. "$source/tests/launch/container_runtimes.sh"
export COMPOSE_PROJECT_NAME=mobula-test-$$ IMAGE=mobula-test-$$ DATA=$work/data READS=/data/reads.fq
compose+=(-f "$source/docker/compose.yaml")
up= killer=
clean() {
  set +e
  [ -z "$killer" ] || kill "$killer" 2>/dev/null
  [ -z "$up" ] || "${compose[@]}" down -t 1 -v >/dev/null 2>&1
  runtimes_down
  rm -rf "$work"
}
trap clean EXIT
fail() { echo "FAILED: $1"; cat "$work/out"; exit 1; }
runtime_up docker || { echo "SKIPPED: docker: $why_not"; exit 77; }
docker network create "$COMPOSE_PROJECT_NAME" >/dev/null 2>"$work/out" || { echo "SKIPPED: docker makes no networks here: $(head -n 1 "$work/out")"; exit 77; }
docker network rm "$COMPOSE_PROJECT_NAME" >/dev/null

# What docker/Dockerfile gives its examples: MPI, ssh, the command, the program, and a user who is not root.
root=$work/root
LD_LIBRARY_PATH=$libraries mpi_image "$root" "$kmers" "$mobula" "$kmers" "$sshd" "$source"/docker/ssh-{head,worker} \
  "$(command -v bash)" "$(command -v ssh)" "$(command -v ssh-keygen)" "$(command -v getent)" "$(command -v mpirun)" "$(command -v orted)"
if [ -n "$libraries" ]; then cp "$libraries"/*.so.* "$root/usr/lib/"; fi
mkdir -p "$root/usr/sbin" "$root/run/sshd" "$root/home/mobula" "$root/keys" "$root/data" "$root/dev/shm"
mv "$root/usr/bin/sshd" "$root/usr/sbin/"
mv "$root/usr/bin/bash" "$root/bin/"
for name in awk chmod cut grep hostname mkdir mv seq sleep sort; do ln -s busybox "$root/bin/$name"; done
mkdir "$root/etc/ssh"
: >"$root/etc/ssh/sshd_config"
echo "root:x:0:0::/root:/bin/sh
sshd:x:101:65534::/run/sshd:/bin/false
mobula:x:1000:1000::/home/mobula:/bin/bash" >"$root/etc/passwd"
echo "mobula:x:1000:" >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
chmod 755 "$root" "$root"/{bin,usr,home,run/sshd}
chmod 1777 "$root/tmp"
chown -R 1000:1000 "$root/home/mobula" "$root/keys"
tar -C "$root" -c . | docker import -c 'ENV PATH=/usr/bin:/bin:/usr/sbin OMPI_MCA_mpi_yield_when_idle=1' -c 'USER mobula' -c 'WORKDIR /home/mobula' - $IMAGE >/dev/null

mkdir "$DATA"
zcat "$reads"/{reads_1,reads_2,longreads}.fq.gz >"$work/once.fq"
for _ in $(seq 64); do cat "$work/once.fq"; done >"$DATA/reads.fq"
cp "$work/once.fq" "$DATA/few.fq"

# count READS: the job in the foreground; its counts go to $work/counts
count() {
  up=yes
  READS=$1 timeout -k 5 120 "${compose[@]}" run -T --name head-$$ head >"$work/out" 2>&1 </dev/null || fail "code $?"
  docker cp head-$$:/home/mobula/counts.tsv "$work/counts" >/dev/null || fail "there are no counts"
  docker rm head-$$ >/dev/null
  "${compose[@]}" down -t 1 -v >/dev/null 2>&1
  up=
}
"$kmers" -o "$work/few" "$DATA/few.fq" >/dev/null
"$kmers" -o "$work/all" "$DATA/reads.fq" >/dev/null
SECONDS=0
count /data/few.fq
cmp "$work/few.tsv" "$work/counts" || fail "the counts are others"
echo "head and two workers: the same counts, $SECONDS s"

# A worker's container goes once its ranks count: one that has not joined yet would take the job with it, and so may one to which
# the launcher still has an ssh session. Docker itself is asked for the container: compose takes seconds to start here.
ranks_of() {
  local pid joined=0
  for pid in $(docker top "$1" -o pid,comm 2>/dev/null | awk '$2 == "kmers" {print $1}'); do
    if grep -qs ":s[0-9]" "/proc/$pid"/task/*/comm; then joined=$((joined + 1)); fi
  done
  echo $joined
}
{
  while [ ! -e "$work/counted" ]; do
    sleep 0.1
    victim=$(docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
      --filter label=com.docker.compose.service=worker | head -n 1)
    [ -n "$victim" ] && [ "$(ranks_of "$victim")" -ge 2 ] || continue
    sleep 1
    docker top head-$$ -o pid,comm | awk '$2 == "ssh"' >"$work/sessions"
    [ "$(ranks_of "$victim")" -ge 2 ] && docker kill "$victim" >"$work/killed" 2>&1
    break
  done
} &
killer=$!
SECONDS=0
count /data/reads.fq
touch "$work/counted"
wait $killer || true
killer=
[ -s "$work/killed" ] || fail "no container was killed in time"
[ ! -s "$work/sessions" ] || fail "the launcher kept its ssh sessions open"
cmp "$work/all.tsv" "$work/counts" || fail "with a worker's container killed, the counts are others"
echo "a worker's container killed: the same counts, $SECONDS s"
