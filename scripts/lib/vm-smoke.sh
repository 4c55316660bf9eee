#!/bin/bash
# The smoke test on cgroup v2, in the microVM: run, metrics, OOM event, checkpoint
# and restore of an unprivileged process with its memory intact, the same with crun,
# and the stories of users' own processes and jobs. Each step prints its name when it
# has passed. The first failure ends the run with containerd's log.
set -euo pipefail
# shellcheck source=/dev/null
. ./settings
install -m 0755 containerd-shim-cedana-v2 cedana-runc cedana cedana-process /usr/local/bin/
work=docker.io/library/work:latest busybox=docker.io/library/busybox:latest

trap 'status=$?; ((status == 0)) || { echo "FAILED: $step" >&2; tail -n 25 /run/testbed/containerd.log >&2; }' EXIT
pass() { echo "ok: $step"; }

# until_true COMMAND...: waits up to a minute (emulation is slow).
until_true() {
  local try
  for ((try = 0; try < 300; try++)); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.2
  done
  echo "not so within a minute: $*" >&2
  return 1
}

remove() {
  ctr task kill -s KILL "$1" 2>/dev/null || :
  until_true sh -c "! ctr task ls | grep -q '^$1 .*RUNNING'"
  ctr task rm "$1" >/dev/null 2>&1 || :
  ctr container rm "$1"
}

step='containerd starts, on cgroup v2 alone'
[[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]
engine start containerd
pass

step='a container runs and its exit status arrives'
status=0
out=$(ctr run --rm --runtime "$RUNTIME" "$busybox" run sh -c 'echo hello; exit 7') || status=$?
[[ $out == hello && $status == 7 ]]
pass

step='metrics are those of cgroup v2'
ctr run -d --runtime "$RUNTIME" "$busybox" metrics sleep 3600
# Not in a pipe: grep -q closes it early, and ctr would fail.
metrics=$(ctr task metrics metrics)
grep -qE '^memory\.usage +[1-9]' <<<"$metrics"
grep -q 'pids.current' <<<"$metrics"
remove metrics
pass

step='an OOM is announced'
ctr events >/tmp/events &
events=$!
ctr run -d --runtime "$RUNTIME" --memory-limit 33554432 "$work" oom \
  python3 -c 'import time; b = bytearray(200 << 20); time.sleep(600)'
until_true grep -q '/tasks/oom' /tmp/events
kill "$events"
remove oom
pass

# The container counts, as the user nobody, and writes with each count whether its
# memory is intact. Its init is a shell, because `sleep` of Debian's busybox ends early
# when CRIU interrupts it.
# shellcheck disable=SC2016 # for the container's shell
counter='
kept=$(seq 1 20000); sum=$(echo "$kept" | md5sum); n=0
while :; do
  n=$((n + 1))
  if [ "$(echo "$kept" | md5sum)" = "$sum" ]; then good=intact; else good=damaged; fi
  echo "$n $good" >/tmp/next && mv /tmp/next /tmp/count
  sleep 0.1
done'
count() { ctr task exec --exec-id "c$RANDOM" "$1" cat /tmp/count | cut -d' ' -f1; }
counts_beyond() { [[ $(count "$1") -gt $2 ]]; }

freeze_and_thaw() { # FLAG...
  local before after
  ctr run -d --runtime "$RUNTIME" "$@" --user 65534:65534 "$busybox" life sh -c "$counter"
  until_true counts_beyond life 5
  ctr container checkpoint --task --rw --image life docker.io/library/life:checkpoint >/dev/null
  before=$(count life)
  remove life
  ctr container restore --live --rw life docker.io/library/life:checkpoint </dev/null >/dev/null 2>&1 &
  until_true counts_beyond life "$before"
  after=$(ctr task exec --exec-id last life cat /tmp/count)
  [[ $after == *intact ]]
  ctr image rm docker.io/library/life:checkpoint >/dev/null
  remove life
}

step="a non-root process is checkpointed and restored with runc"
freeze_and_thaw
pass

step="the same with crun"
# ctr has a flag for the binary, but only for the name of containerd's own runtime.
echo 'BinaryName = "crun"' >/tmp/crun.toml
case $RUNTIME in
io.containerd.runc.v2) freeze_and_thaw --runc-binary crun ;;
*) freeze_and_thaw --runtime-config-path /tmp/crun.toml ;;
esac
pass

if [[ $RUNTIME != io.containerd.runc.v2 ]]; then
  # This needs soft-dirty tracking, which the other tests' kernels may lack.
  step='a checkpoint omits pages that have not changed since its pre-dump, and is restored'
  program=(cedana-runc --root /run/containerd/runc/default)
  ctr run -d --runtime "$RUNTIME" "$busybox" life sh -c "$counter"
  until_true counts_beyond life 5
  # stderr is a terminal, on which the progress line would precede the step's name.
  "${program[@]}" checkpoint --pre-dump --image-path /var/tmp/pre --work-path /var/tmp/pre.work life 2>&1 | cat
  "${program[@]}" checkpoint --leave-running --parent-path ../pre \
    --image-path /var/tmp/last --work-path /var/tmp/last.work life 2>&1 | cat
  before=$(count life)
  remove life
  # Any process may have the pages, because the shell's children change all the time.
  inspected=$(cedana-runc inspect --json /var/tmp/last)
  grep -q '"parent_bytes": [1-9]' <<<"$inspected"
  echo 'CriuImagePath = "/var/tmp/last"' >/tmp/last.toml
  ctr run -d --runtime "$RUNTIME" --runtime-config-path /tmp/last.toml "$busybox" life sh -c "$counter"
  until_true counts_beyond life "$before"
  [[ $(ctr task exec --exec-id last life cat /tmp/count) == *intact ]]
  remove life
  pass
fi

# CRIU needs CAP_SYS_RESOURCE to dump another user's process, which the other tests'
# machine may lack.
for story in process_user jobs_user; do
  step="the stories of $story"
  CEDANA_TEST_PATIENCE=10 ./$story --test-threads=1 --show-output
  pass
done
