#!/bin/bash
# The contact sheet of real photographs is the same alone and over MPI; a file that is none is named.   photos.sh PROGRAM
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
photos=(/usr/share/backgrounds/mate/nature/*.jpg)
if [ ! -e "${photos[0]}" ]; then
  echo "SKIPPED: there are no photographs (Debian's package mate-backgrounds has some)"
  exit 77
fi
timeout -k 3 60 "$1" -o "$folder/alone.png" "${photos[@]}"
timeout -k 3 60 mpirun --oversubscribe -n 4 "$1" -o "$folder/mpi.png" "${photos[@]}"
cmp "$folder/alone.png" "$folder/mpi.png"
[ "$(head -c 8 "$folder/alone.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ]
echo "no photograph" > "$folder/text.jpg"
if timeout -k 3 60 "$1" -o "$folder/none.png" "${photos[0]}" "$folder/text.jpg" 2> "$folder/error"; then
  echo "a file that is no photograph was taken for one"
  exit 1
fi
grep -q "text.jpg is no photograph" "$folder/error" || { cat "$folder/error"; exit 1; }
