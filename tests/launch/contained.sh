#!/usr/bin/env bash
# Commands run in a container of an image that is made here, alone and on ranks.
#   contained.sh PROGRAM
set -eu
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
busybox=$(command -v busybox || true)
command -v ch-run >/dev/null || { echo "SKIPPED: Charliecloud (ch-run) is not installed"; exit 77; }
[ -n "$busybox" ] || { echo "SKIPPED: busybox is not installed, of which the image is made"; exit 77; }
image=$(mktemp -d)
trap 'rm -rf "$image"' EXIT
mkdir "$image"/{bin,dev,etc,home,mnt,proc,root,sys,tmp,usr,var}
touch "$image"/etc/{passwd,group,hosts,resolv.conf}
cp "$busybox" "$image/bin/busybox"
for name in sh echo cat true; do ln -s busybox "$image/bin/$name"; done
USER=${USER:-root} ch-run "$image" -- /bin/true 2>/dev/null || { echo "SKIPPED: this machine allows no user namespaces"; exit 77; }
"$1" "$image" charliecloud
mpirun --oversubscribe -n 3 "$1" "$image" charliecloud
