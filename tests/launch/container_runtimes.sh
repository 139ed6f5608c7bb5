# Container runtimes for tests, sourced: `runtime_up NAME` has it ready, or says in $why_not why it can't be; what was
# started for it ends by `runtimes_down`. Everything lies in $work.
why_not=

# bare_image ROOT NAMES…: the folder of an image that has a shell and those of busybox's commands. Skips the test where
# there is no busybox.
bare_image() {
  local root=$1 busybox name
  shift
  busybox=$(command -v busybox) || { echo "SKIPPED: busybox is not installed, of which the image is made"; exit 77; }
  mkdir -p "$root"/{bin,dev,etc,home,mnt,proc,root,sys,tmp,usr,var}
  touch "$root"/etc/{passwd,group,hosts,resolv.conf}
  echo inside >"$root/etc/of-the-image"
  cp "$busybox" "$root/bin/busybox"
  for name in "$@"; do ln -s busybox "$root/bin/$name"; done
}

# copy_into ROOT: the files whose paths it reads, where they are here.
copy_into() {
  sort -u | while read -r file; do
    [ -e "$file" ] || continue
    mkdir -p "$1$(dirname "$file")"
    cp -L "$file" "$1$file"
  done
}

# mpi_image ROOT PROGRAM [FILE…]: such an image with MPI and its plugins, and the program as /app/program, with all libraries.
# Other programs go to /usr/bin.
mpi_image() {
  local root=$1 program=$2 folder plugins=()
  shift 2
  bare_image "$root" sh cat env
  mkdir -p "$root/app" "$root/usr/bin"
  cp "$program" "$root/app/program"
  if [ $# -gt 0 ]; then cp -L "$@" "$root/usr/bin/"; fi
  for folder in /usr/lib/*/openmpi /usr/lib/*/pmix* /usr/lib/*/hwloc /etc/openmpi /usr/share/openmpi /etc/pmix* /usr/share/pmix*; do
    if [ -d "$folder" ]; then plugins+=("$folder"); fi
  done
  for folder in "${plugins[@]}"; do
    mkdir -p "$root$(dirname "$folder")"
    cp -rL "$folder" "$root$(dirname "$folder")/" 2>/dev/null || true
  done
  { ldd "$program" "$@" 2>/dev/null || true; find "${plugins[@]}" -name '*.so*' -exec ldd {} \; 2>/dev/null; } | grep -oE '/[^ ]+\.so[^ ]*' | copy_into "$root"
}

runtime_up() {
  why_not="it is not installed"
  case $1 in
  charliecloud)
    command -v ch-run >/dev/null || return 1
    why_not="this machine allows no user namespaces"
    unshare --user --map-root-user true 2>/dev/null
    ;;
  apptainer)
    command -v apptainer >/dev/null || return 1
    why_not="it can't start containers here"
    export APPTAINER_NO_PRIVS=1 # a root that lacks some capability can't hand them all on
    mkdir -p "$work/none/"{dev,proc,sys,tmp,etc,bin} && cp "$(command -v busybox)" "$work/none/bin/true"
    apptainer -s exec "$work/none" true 2>/dev/null
    ;;
  docker)
    command -v dockerd >/dev/null && command -v docker >/dev/null || return 1
    why_not="its daemon does not start"
    docker_up
    ;;
  podman)
    command -v podman >/dev/null || return 1
    why_not="it can't start containers here"
    podman_up
    ;;
  esac
}

# A daemon of our own, without a bridge: containers of tests use the host's network.
docker_up() {
  local d=$work/docker
  mkdir -p "$d"
  export DOCKER_HOST=unix://$d/sock
  [ -s "$d/pid" ] && return 0
  [ "$(id -u)" = 0 ] || return 1
  setsid dockerd --data-root "$d/root" --exec-root "$d/exec" -H "$DOCKER_HOST" --pidfile "$d/pid" --bridge=none --iptables=false \
    >"$d/log" 2>&1 </dev/null &
  for _ in $(seq 150); do
    docker info >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  return 1
}

podman_up() {
  local p=$work/podman
  mkdir -p "$p"
  cat >"$p/containers.conf" <<TEXT
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
TEXT
  cat >"$p/storage.conf" <<TEXT
[storage]
driver = "overlay"
runroot = "$p/run"
graphroot = "$p/root"
TEXT
  export CONTAINERS_CONF=$p/containers.conf CONTAINERS_STORAGE_CONF=$p/storage.conf
  podman info >/dev/null 2>&1
}

runtimes_down() {
  local d=$work/docker pid
  if [ -s "$d/pid" ]; then
    pid=$(cat "$d/pid")
    kill "$pid"
    for _ in $(seq 100); do
      [ -d "/proc/$pid" ] || break
      sleep 0.1
    done
    umount "$d/exec/netns/default" 2>/dev/null || true
  fi
  if [ -d "$work/podman" ]; then
    podman rm -fa >/dev/null 2>&1 || true
    umount "$work/podman/root/overlay" 2>/dev/null || true
  fi
  return 0
}
