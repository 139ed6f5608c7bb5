#!/usr/bin/env bash
# Installs the build, and builds and runs a project of its own against the installation; says how long its file compiles.
#   consumer.sh BUILD_DIR SOURCE_DIR SECONDS_MOST
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$1" --prefix "$work/prefix" >/dev/null
cp -r "$2/tests/consumer" "$work/source"
cmake -G Ninja -S "$work/source" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
start=$(date +%s%N)
c++ -std=c++20 -O2 -I "$work/prefix/include" -c "$work/source/app.cpp" -o "$work/app.o"
ms=$((($(date +%s%N) - start) / 1000000))
cmake --build "$work/build" >/dev/null
pc=$(dirname "$(find "$work/prefix" -name mobula.pc)")
c++ -O0 "$work/source/app.cpp" $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs mobula) -o "$work/by-pkg-config"
"$work/by-pkg-config"
"$work/build/app"
mpirun -n 2 "$work/build/app"
(cd "$work" && "$work/build/saver")
echo "a file with one task compiles in $ms ms"
[ $ms -lt $(($3 * 1000)) ]
