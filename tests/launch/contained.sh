#!/usr/bin/env bash
# Commands, tasks and actors in containers of every runtime that this machine has, alone and on ranks.
#   contained.sh PROGRAM [RUNTIME…]
set -eu
program=$(realpath "$1")
shift
runtimes=("$@")
[ ${#runtimes[@]} -gt 0 ] || runtimes=(charliecloud apptainer docker podman)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 USER=${USER:-root}
work=$(mktemp -d)
chmod 755 "$work"
export MOBULA_IMAGES=$work/images
. "$(dirname "$0")/container_runtimes.sh"
clean() {
  set +e
  runtimes_down
  rm -rf "$work"
}
trap clean EXIT

# The image: a shell, and the program with its libraries, where they are here.
root=$work/root
bare_image "$root" sh echo cat sleep true
{ echo "$program"; ldd "$program" | grep -oE '/[^ ]+'; } | copy_into "$root"
tar -C "$root" -cf "$work/image.tar" .

scratch_folders() { ls -d /tmp/mobula-?????? 2>/dev/null | sort; }
before=$(scratch_folders)
tried=0
for runtime in "${runtimes[@]}"; do
  runtime_up "$runtime" || { echo "SKIPPED: $runtime: $why_not"; continue; }
  tried=$((tried + 1))
  # Charliecloud and Apptainer take a folder as it is; what is in an archive is unpacked once.
  for image in "$root" "$work/image.tar"; do
    case $runtime:$image in docker:$root | podman:$root) continue ;; esac
    start=$(date +%s%N)
    timeout -k 3 100 "$program" "$image" "$runtime" || { echo "FAILED: $runtime, $image, alone"; exit 1; }
    echo "$runtime, $(basename "$image"), alone: $((($(date +%s%N) - start) / 1000000)) ms"
  done
  timeout -k 3 100 mpirun --oversubscribe -n 3 "$program" "$work/image.tar" "$runtime" || { echo "FAILED: $runtime, on ranks"; exit 1; }
done
[ $tried -gt 0 ] || { echo "SKIPPED: none of ${runtimes[*]} works here"; exit 77; }
sleep 1
left=$(comm -13 <(echo "$before") <(scratch_folders))
[ -z "$left" ] || { echo "FAILED: left behind: $left"; exit 1; }
