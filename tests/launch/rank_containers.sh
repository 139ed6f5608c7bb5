#!/usr/bin/env bash
# Each rank in a container of its own, by `mobula run --container`, with every runtime that this machine has.
#   rank_containers.sh MOBULA PROGRAM [RUNTIME…]
set -eu
mobula=$(realpath "$1") program=$(realpath "$2")
shift 2
runtimes=("$@")
[ ${#runtimes[@]} -gt 0 ] || runtimes=(charliecloud apptainer docker podman)
export USER=${USER:-root}
work=$(mktemp -d)
chmod 755 "$work"
. "$(dirname "$0")/container_runtimes.sh"
clean() {
  set +e
  runtimes_down
  rm -rf "$work"
}
trap clean EXIT

root=$work/root
mpi_image "$root" "$program"

tried=0
cd "$work"
for runtime in "${runtimes[@]}"; do
  runtime_up "$runtime" || { echo "SKIPPED: $runtime: $why_not"; continue; }
  tried=$((tried + 1))
  image=$root
  case $runtime in
  docker | podman)
    image=localhost/mobula-ranks
    tar -C "$root" -c . | "$runtime" import - $image >/dev/null
    ;;
  esac
  echo "== $runtime"
  start=$(date +%s%N)
  timeout -k 3 60 "$mobula" run -n 3 --container "$image" --runtime "$runtime" /app/program >"$work/out" 2>&1 ||
    { echo "FAILED: $runtime: $?"; cat "$work/out"; exit 1; }
  cat "$work/out"
  echo "$((($(date +%s%N) - start) / 1000000)) ms"
done
[ $tried -gt 0 ] || { echo "SKIPPED: none of ${runtimes[*]} works here"; exit 77; }
