# shellcheck shell=bash disable=SC2034,SC2154 # shares variables with testbed, which sources it
# An instance: a suite's root with a fresh writable layer, in its own namespaces and
# cgroups.
#
#   testbed run ── leash (a pipe) ──> keeper ──> unshare ──> PID 1 of the instance
#        │                                                     ├─ containerd, dockerd
#        └── nsenter ──────────────────────────────────────────┴─ CMD
#
# The keeper removes the instance: on a signal, when PID 1 exits, or when the leash is
# closed because `testbed run` has exited or was killed. If the keeper is killed, the
# kernel kills PID 1 (parent-death signal), all processes of its PID namespace, and
# removes the mounts. The next start removes the files on disk.
#
# $TESTBED_HOME/instances/NAME:
#   lock       held (flock) by the keeper while the instance runs
#   settings   the options of the instance, as shell assignments
#   leader     PID 1's PID on the machine
#   cgroups    see cgroups.sh
#   log        output of keeper and PID 1 until the instance was ready
#   upper work root containerd docker content   its file systems

INSTANCES=$TESTBED_HOME/instances
LOCK_FD=9

# new_instance SUITE NAME: creates the directory, takes its lock, sets $dir.
new_instance() {
  local name=$2
  mkdir -p "$INSTANCES"
  # Another sweep would remove a directory that is created but not locked yet.
  exec {sweep}>"$TESTBED_HOME/instances.lock"
  flock "$sweep"
  sweep_instances
  if [[ -z $name ]]; then
    dir=$(mktemp -d "$INSTANCES/$1-XXXXXX")
  else
    [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,40}$ ]] || die "'$name' is no valid name of an instance"
    dir=$INSTANCES/$name
    mkdir "$dir" 2>/dev/null || die "an instance named '$name' exists already"
  fi
  chmod 0755 "$dir"
  eval "exec $LOCK_FD>\"\$dir/lock\""
  flock -n "$LOCK_FD"
  exec {sweep}>&-
}

sweep_instances() { # removes the files of instances without a keeper
  local dead lock
  for dead in "$INSTANCES"/*/; do
    [[ -d $dead ]] || continue
    exec {lock}>"$dead/lock"
    ! flock -n "$lock" || remove_instance "${dead%/}"
    exec {lock}>&-
  done
}

remove_instance() { # DIR
  if [[ -e $1/cgroups ]]; then
    thaw_cgroups "$1/cgroups"
    remove_cgroups "$1/cgroups"
  fi
  rm -rf "$1"
}

# furnish: fills $dir according to the command line's options (globals of testbed).
furnish() {
  local bin file
  mkdir -p "$dir"/{root,work,content/upper,content/work} "$dir"/upper/{usr/local/bin,etc}
  if [[ -n $state ]]; then
    mkdir -p "$state"/{containerd,docker}
    ln -s "$state"/{containerd,docker} "$dir/"
  else
    cp -a "$(state_path "$suite")"/{containerd,docker} "$dir/"
  fi
  install -m 0755 "$LIB/engine" "$dir/upper/usr/local/bin/engine"
  for bin in "${bins[@]}"; do
    [[ -d $bin ]] || die "--bin $bin: no such directory"
    for file in "$bin"/*; do
      [[ ! -f $file || ! -x $file ]] || install -m 0755 "$file" "$dir/upper/usr/local/bin/${file##*/}"
    done
  done
  local name=${dir##*/} root layers=
  root=$(root_path "$suite")
  [[ -n $state ]] || layers=$(state_path "$suite")
  printf '127.0.0.1 localhost %s\n::1 localhost\n' "$name" >"$dir/upper/etc/hosts"
  guest_env=(
    HOME=/root "TERM=${TERM:-dumb}" LANG=C.UTF-8
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    "CEDANA_TESTBED=$suite" "CEDANA_INSTANCE=$name" "${envs[@]}"
  )
  declare -p suite name root layers docker mounts guest_env >"$dir/settings"
  : >"$dir/log"
}

# start_instance LEASHED: starts the keeper and returns when the engines answer.
# With `leashed`, the instance ends with this process.
start_instance() {
  local log answer=
  furnish
  exec {log}<"$dir/log"
  coproc KEEPER { exec setsid "$SELF" keep "$dir" "$1" 2>>"$dir/log"; }
  keeper=$KEEPER_PID leash=${KEEPER[1]}
  read -r answer <&"${KEEPER[0]}" || :
  if [[ $answer != ready ]]; then
    cat <&"$log" >&2
    die "the $suite instance did not start"
  fi
  # From here only the keeper holds the lock.
  eval "exec $LOCK_FD>&- $log<&-"
  [[ -z $apps ]] || (enter "$dir" ctr image import - <"$(image_path apps)" >/dev/null) ||
    die "containerd could not import the image apps"
}

# keep DIR LEASHED: the keeper. Passes on PID 1's "ready" on stdout.
keep() {
  dir=$1 guest=
  echo "$$" >"$dir/keeper"
  trap 'exit 0' TERM INT HUP
  trap end_keep EXIT
  make_cgroups "${dir##*/}" "$dir/cgroups"
  exec 3<&0
  (
    trap - TERM INT HUP EXIT
    join_cgroups "$dir/cgroups"
    exec setpriv --pdeathsig KILL \
      unshare --mount --propagation private --uts --ipc --net --pid --cgroup --fork --kill-child \
      bash "$LIB/enter.sh" "$dir" </dev/null
  ) 9>&- 3<&- &
  guest=$!
  if [[ $2 == leashed ]]; then
    cat <&3 >/dev/null 9>&- & # exits when the leash is closed
  fi
  exec >/dev/null 3<&-
  wait -n
}

end_keep() {
  trap '' TERM INT HUP
  if [[ -n $guest ]] && jobs -rp | grep -qx "$guest"; then
    kill -KILL "$(cat "$dir/leader" 2>/dev/null || echo "$guest")" || :
    thaw_cgroups "$dir/cgroups"
    # unshare exits after PID 1, and PID 1 after all processes of its namespace.
    wait "$guest" 2>/dev/null || :
  fi
  remove_instance "$dir"
}

alive() { # DIR
  [[ -e $1/lock ]] && ! flock -n "$1/lock" true
}

# enter DIR CMD...: executes CMD in the instance instead of the calling subshell. A
# background job of a script ignores SIGINT and SIGQUIT, and its children inherit that.
# CMD handles them by default, and so do the engines (enter.sh) and their containers.
enter() {
  local dir=$1
  shift
  # shellcheck source=/dev/null
  . "$dir/settings"
  join_cgroups "$dir/cgroups"
  exec nsenter --target "$(<"$dir/leader")" --mount --uts --ipc --net --pid --cgroup \
    env --ignore-environment --default-signal=INT,QUIT --chdir=/root "${guest_env[@]}" "$@"
}

stop_instance() { # DIR
  local lock
  exec {lock}<"$1/lock"
  kill -TERM "$(<"$1/keeper")"
  flock "$lock"
  exec {lock}<&-
}
