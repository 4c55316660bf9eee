#!/bin/bash
# Second half of an instance's PID 1: starts the engines, says "ready", and
# from then on only reaps what is orphaned (bash waits for every child it gets).
set -euo pipefail

ip link set lo up
engine start containerd
[[ $1 != docker ]] || engine start dockerd
echo ready
exec </dev/null >/dev/null 2>&1
set +e
sleep infinity &
while :; do wait -n; done
