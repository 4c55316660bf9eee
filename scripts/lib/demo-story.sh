#!/bin/bash
# The demo itself. Needs a containerd that has the image work; ctr finds it by
# CONTAINERD_ADDRESS and CONTAINERD_NAMESPACE.
set -euo pipefail

image=docker.io/library/work:latest
checkpoint=docker.io/library/redis:frozen
network=cedana-demo
errors=$(mktemp)

# A client that connects once and counts its visits. A second connection would show
# as another port.
client='
import socket, time
s = socket.create_connection(("127.0.0.1", 6379))
while True:
    s.sendall(b"INCR visits\r\n")
    n = s.recv(64).decode().strip(":\r\n")
    with open("/tmp/client", "w") as f:
        f.write("visit %s over the connection from port %d" % (n, s.getsockname()[1]))
    time.sleep(0.05)'
main="redis-server --save '' --daemonize no >/dev/null & until redis-cli ping; do :; done; python3 -c '$client' & wait"

cleanup() {
  local status=$?
  ctr task kill -s KILL redis >/dev/null 2>&1 || :
  wait
  ctr task rm redis >/dev/null 2>&1 || :
  ctr container rm redis >/dev/null 2>&1 || :
  ctr image rm "$checkpoint" >/dev/null 2>&1 || :
  ip netns del "$network" 2>/dev/null || :
  ((status == 0)) || sort -u "$errors" >&2
  rm -f "$errors"
}
trap cleanup EXIT

inside() { ctr task exec --exec-id "ask-$((asked += 1))" redis "$@" 2>>"$errors"; }
asked=0
restore=

# step TITLE COMMAND...: runs the command and prints its duration.
step() {
  local title=$1 from=${EPOCHREALTIME/./} took
  shift
  : >"$errors" # failed attempts of the step before are no errors
  "$@" >/dev/null 2>>"$errors"
  took=$(((${EPOCHREALTIME/./} - from) / 1000))
  printf '%6d ms  %s\n' "$took" "$title"
}

# answers: waits (15 s at most) until redis and its client work.
answers() {
  local try
  for ((try = 0; try < 150; try++)); do
    ! inside sh -c 'redis-cli ping && cat /tmp/client' || return 0
    [[ -z $restore ]] || kill -0 "$restore" || return 1
    sleep 0.1
  done
  return 1
}

# Docker and CNI create a network namespace for every start. ctr leaves that to its
# user.
fresh_network() {
  ip netns del "$network" 2>/dev/null || :
  ip netns add "$network"
  ip -n "$network" link set lo up
}

start() {
  fresh_network
  ctr run -d --runtime "$RUNTIME" --with-ns "network:/run/netns/$network" "$image" redis sh -c "$main"
  answers
}

fill() {
  inside redis-cli eval "for i = 1, 200000 do redis.call('set', 'user:' .. i, 'name-' .. i) end" 0
}

freeze() { ctr container checkpoint --rw --task --image redis "$checkpoint"; }

kill_it() {
  local try
  ctr task kill -s KILL redis
  for ((try = 0; try < 150; try++)); do
    ! ctr task rm redis || break
    sleep 0.1
  done
  ctr container rm redis
}

# `ctr container restore` returns only when the container exits.
thaw() {
  fresh_network
  ctr container restore --live --rw redis "$checkpoint" </dev/null &
  restore=$!
  answers
}

show() {
  printf '           keys: %s   user:123456 = %s\n' "$(inside redis-cli dbsize)" "$(inside redis-cli get user:123456)"
  printf '           client: %s\n' "$(inside cat /tmp/client)"
}

begin=${EPOCHREALTIME/./}
echo "A redis with data and a connected client, under the runtime $RUNTIME:"
step 'ctr run: redis and its client are at work' start
step '200,000 keys written' fill
show
step 'ctr container checkpoint: frozen to disk' freeze
step 'ctr task kill -s KILL; ctr container rm: no process is left' kill_it
step 'ctr container restore --live: it answers again' thaw
show
printf '%6d ms  in all\n' $(((${EPOCHREALTIME/./} - begin) / 1000))
