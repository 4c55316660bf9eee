#!/bin/bash
# Tests Docker in the microVM, which has cgroup v2 and the capabilities to dump another
# user's process: a postgres with an open transaction, and the kinds of the matrix that
# depend on either.
set -euo pipefail

# kinds: other filters for the matrix ('' for the whole matrix, which takes an hour).
# shellcheck source=/dev/null
. ./settings
install -m 0755 containerd-shim-cedana-v2 cedana-runc /usr/local/bin/

trap 'status=$?; ((status == 0)) || { echo "FAILED: $step" >&2; tail -n 25 /run/testbed/*.log >&2; }' EXIT
pass() { echo "ok: $step ($((SECONDS - begin)) s)" && begin=$SECONDS; }
begin=$SECONDS

# until_true COMMAND...: within five minutes (emulation is slow).
until_true() {
  local end=$((SECONDS + 300))
  while ((SECONDS < end)); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.2
  done
  echo "not so within five minutes: $*" >&2
  return 1
}

step='Docker starts, on cgroup v2 alone'
[[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]
# Modules that the kernel would load when dockerd and CRIU first need them. That first
# attempt would fail, and they would need a second one.
modprobe -a bridge veth br_netfilter nf_nat xt_conntrack xt_MASQUERADE xt_addrtype \
  iptable_nat iptable_filter nft_compat nft_chain_nat inet_diag tcp_diag udp_diag unix_diag \
  packet_diag netlink_diag raw_diag 2>/dev/null || :
engine start containerd
engine start dockerd
[[ $(docker info --format '{{.CgroupVersion}}') == 2 ]]
pass

# sql QUERY: runs it in a new session.
sql() { docker exec --user postgres -e PGHOST=/tmp db psql --no-psqlrc -tA -c "$1"; }
ended() { [[ $(docker inspect --format '{{.State.Running}}' db) == false ]]; }
asked() { [[ $(docker exec db cat /tmp/answers) == *"$1"* ]]; }
say() { docker exec db sh -c 'echo "$1" >/tmp/ask' _ "$1"; }

step='a postgres with an open transaction'
# The session's psql reads a fifo that a shell keeps open, so that the
# transaction lasts from before the checkpoint until after the restore.
# shellcheck disable=SC2016 # for the container's shell
docker run -d --runtime cedana --name db --user postgres work sh -c '
  bin=$(echo /usr/lib/postgresql/*/bin); data=/tmp/data
  $bin/initdb --no-sync --auth=trust "$data" >/dev/null &&
  $bin/pg_ctl -D "$data" -o "-k /tmp -c fsync=off" -w start >/dev/null || exit 1
  export PGHOST=/tmp; mkfifo /tmp/ask; exec 3<>/tmp/ask
  psql --no-psqlrc -tA <&3 >/tmp/answers 2>&1' >/dev/null
until_true sql 'select 1'
until_true docker exec db test -e /tmp/answers
sql 'create table kept (n int)' >/dev/null
say "begin; insert into kept values (41), (42); select 'sum', sum(n) from kept;"
until_true asked 'sum|83'
[[ $(sql 'select count(*) from kept') == 0 ]]
pass

step='its transaction continues after checkpoint and restore'
for round in one two; do
  docker checkpoint create db $round >/dev/null
  until_true ended
  docker start --checkpoint $round db >/dev/null
  [[ $(sql 'select count(*) from kept') == 0 ]]
  say "insert into kept values (1); select '$round', sum(n) from kept;"
  until_true asked "$round|8"
done
say 'commit;'
until_true asked COMMIT
[[ $(sql 'select sum(n) from kept') == 85 ]]
docker rm -f db >/dev/null
pass

step='the matrix'
((${#kinds[@]})) || kinds=(another_user more_groups limit cpuset cgroup default_bridge published_ports terminal)
# Serially, because two emulated processors are slow with one container already.
CEDANA_TEST_PATIENCE=10 ./docker_matrix --test-threads=1 "${kinds[@]}"
pass
