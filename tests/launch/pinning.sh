#!/bin/bash
# Threads sit where they should under the launcher's bindings, and GPUs (none are needed) are handed out.   pinning.sh PROGRAM
set -eu
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cores=$(nproc)
run() {
  echo "$*"
  timeout -k 3 60 "$@"
}
run "$1"
run "$1" --mobula-slots=1
MOBULA_PIN=off run "$1"
run mpirun --bind-to none -n 1 "$1"
run mpirun --bind-to none -n 2 "$1"
run mpirun --bind-to core -n "$cores" "$1"
if [ "$cores" -ge 2 ]; then run mpirun --bind-to none -n 3 --oversubscribe -x MOBULA_SLOTS=1 "$1"; fi
run taskset -c 0 "$1"
unset CUDA_VISIBLE_DEVICES
run "$1" --mobula-gpus=2 --mobula-slots=2
run mpirun --bind-to none --oversubscribe -n 3 "$1" --mobula-gpus=2 --mobula-slots=2
