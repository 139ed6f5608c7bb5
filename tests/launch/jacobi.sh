#!/bin/bash
# The solver gives the same to the last bit as a gang and as an MPI program of its own, in words and in the file that its
# ranks write together.
#   jacobi.sh GANG PLAIN
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
run() { timeout -k 3 60 mpirun --oversubscribe "$@"; }

run -n 2 "$2" 60 "$folder/plain.h5" > "$folder/plain"
for ranks in 2 5; do
  run -n $ranks "$1" 60 "$folder/gang.h5" > "$folder/gang"
  if [ "$(sed -n 's/^60 x 60: //p' "$folder/gang")" != "$(cat "$folder/plain")" ]; then
    echo "as a gang of $ranks ranks' workers:"; cat "$folder/gang"
    echo "as a program of its own:"; cat "$folder/plain"
    exit 1
  fi
  if command -v h5diff > /dev/null; then
    h5diff "$folder/plain.h5" "$folder/gang.h5"
  else
    cmp "$folder/plain.h5" "$folder/gang.h5"
  fi
done
