#!/usr/bin/env bash
# Disks and shared memory that are really full, in a mount namespace of their own: limits.sh STORE_PRESSURE
set -eu
[ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null || { echo "SKIPPED: mounting small file systems needs root"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Runs a command where TARGET is a file system of SIZE.
with() {
  local target=$1 size=$2
  shift 2
  unshare --mount --propagation private sh -c 'mount -t tmpfs -o "size=$2" tmpfs "$1" && shift 2 && exec "$@"' sh "$target" "$size" "$@"
}
echo "== a scratch folder of 20 MiB"
with "$work" 20m "$1" disk_full --mobula-store=16MiB "--mobula-scratch=$work"
with "$work" 20m mpirun --oversubscribe -n 3 "$1" disk_full --mobula-store=16MiB "--mobula-scratch=$work"
echo "== a /dev/shm of 100 MiB that others fill"
with /dev/shm 100m mpirun --oversubscribe -n 3 "$1" shm_full --mobula-store=16MiB --mobula-scratch=off
