#!/bin/bash
# Second half of an instance's PID 1: starts the engines, prints "ready", and
# from then on reaps orphans (bash waits for every child that it inherits).
set -euo pipefail

ip link set lo up
engine start containerd
[[ $1 != docker ]] || engine start dockerd
echo ready
exec </dev/null >/dev/null 2>&1
set +e
sleep infinity &
while :; do wait -n; done
