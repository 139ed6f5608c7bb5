# Several hosts on this machine, for tests: each has its own network address, host name, process ids and /dev/shm, so
# that ranks of different hosts share nothing but files and a TCP link. Needs root and iproute2. To be sourced:
#   hosts_up N [SHM_SIZE]     h1 .. hN at 10.78.0.1 .. N; returns 77 with the reason where this can't be done
#   hosts_mpirun ARGS...      mpirun over them
#   hosts_bytes               bytes that each host has sent and received over its link
#   hosts_down                ends all of it

hosts_up() {
  [ "$(id -u)" = 0 ] || { echo "SKIPPED: hosts in namespaces need root"; return 77; }
  PATH=$PATH:/usr/sbin:/sbin
  command -v ip >/dev/null || { echo "SKIPPED: iproute2 is not installed"; return 77; }
  ip link show mobula-head >/dev/null 2>&1 && { echo "SKIPPED: another test has hosts up"; return 77; }
  unshare --net true 2>/dev/null || { echo "SKIPPED: this machine makes no network namespaces"; return 77; }
  hosts_dir=$(mktemp -d) hosts_n=$1
  local shm=${2:-50%} i
  # The switch has a namespace of its own, where this machine's packet filters don't reach.
  setsid unshare --net sleep infinity </dev/null >/dev/null 2>&1 &
  local switch=$!
  disown
  echo "$switch" >"$hosts_dir/switch"
  hosts_wait "[ \"\$(readlink /proc/$switch/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ]" || return 1
  nsenter -t "$switch" -n ip link add sw0 type bridge
  nsenter -t "$switch" -n ip link set sw0 up
  ip link add mobula-head type veth peer name head netns "$switch"
  nsenter -t "$switch" -n ip link set head master sw0 up
  ip addr add 10.78.0.254/24 dev mobula-head
  ip link set mobula-head up
  { echo "127.0.0.1 localhost"; echo "10.78.0.254 $(hostname)"; for i in $(seq "$1"); do echo "10.78.0.$i h$i"; done; } >"$hosts_dir/names"
  for i in $(seq "$1"); do
    echo "h$i slots=8" >>"$hosts_dir/hostfile"
    # The first process of a host is its init: with it, all others of the host end.
    setsid unshare --net --uts --ipc --mount --pid --fork --kill-child=KILL --mount-proc --propagation private sh -c '
      mount --bind "$1/names" /etc/hosts && mount -t tmpfs -o "size=$3,mode=1777" tmpfs /dev/shm && hostname "$2" &&
        ip link set lo up && touch "$1/$2.ready" && exec sleep infinity' host "$hosts_dir" "h$i" "$shm" \
      </dev/null >"$hosts_dir/h$i.log" 2>&1 &
    echo $! >"$hosts_dir/h$i.parent"
    disown
  done
  for i in $(seq "$1"); do
    hosts_wait "[ -e $hosts_dir/h$i.ready ]" || { cat "$hosts_dir/h$i.log"; return 1; }
    local parent pid
    parent=$(cat "$hosts_dir/h$i.parent")
    pid=$(cat "/proc/$parent/task/$parent/children")
    pid=${pid%% *}
    echo "$pid" >"$hosts_dir/h$i.pid"
    nsenter -t "$switch" -n ip link add "p$i" type veth peer name eth0 netns "$pid"
    nsenter -t "$switch" -n ip link set "p$i" master sw0 up
    nsenter -t "$pid" -n ip addr add "10.78.0.$i/24" dev eth0
    nsenter -t "$pid" -n ip link set eth0 up
  done
  cat >"$hosts_dir/agent" <<AGENT
#!/bin/bash
# Runs a command on a host, as ssh would.
while [[ \${1:-} == -* ]]; do shift; done
host=\$1; shift
exec nsenter -t "\$(cat "$hosts_dir/\$host.pid")" --net --uts --ipc --mount --pid --wd="\$PWD" -- bash -c "\$*"
AGENT
  chmod +x "$hosts_dir/agent"
}

hosts_wait() {
  for _ in $(seq 250); do
    eval "$1" && return 0
    sleep 0.02
  done
  echo "a host did not start"
  return 1
}

hosts_mpirun() {
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout -k 3 "${hosts_limit:-120}" mpirun \
    --hostfile "$hosts_dir/hostfile" --mca plm rsh --mca plm_rsh_agent "$hosts_dir/agent" --mca plm_rsh_no_tree_spawn 1 \
    --mca oob_tcp_if_include 10.78.0.0/24 --mca btl_tcp_if_include 10.78.0.0/24 --mca orte_tmpdir_base "$hosts_dir" \
    --oversubscribe --bind-to none "$@"
}

hosts_bytes() {
  local i
  for i in $(seq "$hosts_n"); do
    nsenter -t "$(cat "$hosts_dir/h$i.pid")" -n sh -c 'echo "$(cat /proc/net/dev)"' |
      awk -v host="h$i" '$1 == "eth0:" {print host, "received", $2, "sent", $10}'
  done
}

hosts_down() {
  [ -n "${hosts_dir:-}" ] || return 0
  local f
  for f in "$hosts_dir"/*.pid "$hosts_dir"/*.parent "$hosts_dir/switch"; do
    [ -s "$f" ] && kill -KILL "$(cat "$f")" 2>/dev/null
  done
  ip link del mobula-head 2>/dev/null
  hosts_wait "rm -rf '$hosts_dir' 2>/dev/null" >/dev/null
  rm -rf "$hosts_dir"
}
