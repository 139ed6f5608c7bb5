#!/usr/bin/env bash
# `cloud/image` with a registry of this machine: an image goes there from Docker, and comes back as a file of Apptainer's.
#   image.sh SOURCE_DIR MOBULA
set -eu
source=$1 mobula=$2
export USER=${USER:-root}
work=$(mktemp -d)
chmod 755 "$work"
. "$source/tests/launch/container_runtimes.sh"
server=
clean() {
  set +e
  [ -z "$server" ] || kill "$server" 2>/dev/null
  runtimes_down
  rm -rf "$work"
}
trap clean EXIT
command -v docker-registry >/dev/null || { echo "SKIPPED: docker-registry is not installed"; exit 77; }
for runtime in docker apptainer; do
  runtime_up $runtime || { echo "SKIPPED: $runtime: $why_not"; exit 77; }
done
root=$work/root
bare_image "$root" sh cat true
tar -C "$root" -c . | docker import - application >/dev/null

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/registry.yml" <<TEXT
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
TEXT
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
server=$!
for _ in $(seq 100); do (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done

"$source/cloud/image" --registry "127.0.0.1:$port" push application app:7 >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
export APPTAINER_NOHTTPS=1 APPTAINER_CACHEDIR=$work/cache APPTAINER_TMPDIR=$work
"$source/cloud/image" --registry "127.0.0.1:$port" pull app:7 "$work/app.sif" >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
[ "$(timeout 60 "$mobula" run -n 1 --container "$work/app.sif" --runtime apptainer /bin/cat /etc/of-the-image)" = inside ] ||
  { echo "FAILED: what came back is another image"; exit 1; }
"$source/cloud/image" --registry "127.0.0.1:$port" pull none "$work/none.sif" >"$work/out" 2>&1 && { echo "FAILED: an image that is not there came"; exit 1; }
echo "to the registry and back"
