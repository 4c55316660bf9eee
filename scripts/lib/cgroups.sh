# shellcheck shell=bash
# An instance's cgroups: one group in every hierarchy that the machine mounts
# (v1, hybrid or v2 alone), which becomes the root of the instance's cgroup
# namespace. A list file remembers them, one per line:
#   FSTYPE MOUNTPOINT CONTROLLERS GROUP

# own_cgroup MOUNT CONTROLLERS: where a group below the caller's may be made.
# Staying below it keeps the limits that the machine has put on the caller.
own_cgroup() {
  local path
  path=$(awk -F: -v c="$2" '$2 == c { print $3; exit }' /proc/self/cgroup)
  # Without a cgroup namespace the mount may show less than the path names.
  if [[ -d $1$path ]]; then echo "$1${path%/}"; else echo "$1"; fi
}

make_cgroups() { # NAME LIST
  local type mount options controllers parent group file
  while read -r _ mount type options _; do
    case $type in
    cgroup)
      controllers=$(awk -F: -v o=",$options," '$2 && index(o, "," $2 ",") { print $2; exit }' /proc/self/cgroup)
      parent=$(own_cgroup "$mount" "$controllers")
      ;;
    cgroup2)
      controllers=-
      parent=$(own_cgroup "$mount" "")
      # A v2 group with processes in it can't hand controllers to children, so
      # with controllers the root is the only parent there is.
      if [[ -n $(<"$mount/cgroup.controllers") ]]; then
        parent=$mount
        delegate "$parent"
      fi
      ;;
    *) continue ;;
    esac
    group=$parent/cedana-testbed.$1
    echo "$type $mount $controllers $group" >>"$2"
    mkdir "$group"
    for file in cpuset.cpus cpuset.mems; do # empty in a new v1 group: nothing could run
      [[ $type != cgroup || ! -e $group/$file ]] || cat "$parent/$file" >"$group/$file"
    done
  done </proc/mounts
}

delegate() { # GROUP: hand every v2 controller that may be handed to its children
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    echo "+$controller" 2>/dev/null >"$1/cgroup.subtree_control" || :
  done
}

# join_cgroups LIST: moves the calling (sub)shell. `init` is where processes of
# a v2 instance are once it has handed its controllers on.
join_cgroups() {
  local group
  while read -r _ _ _ group; do
    [[ ! -d $group/init ]] || group=$group/init
    echo "$BASHPID" >"$group/cgroup.procs"
  done <"$1"
}

# thaw_cgroups LIST: a process frozen by v1's freezer does not even die of SIGKILL.
thaw_cgroups() {
  local type group
  while read -r type _ _ group; do
    [[ $type == cgroup && -e $group/freezer.state ]] || continue
    find "$group" -name freezer.state -exec sh -c 'for f; do echo THAWED >"$f"; done' _ {} +
  done <"$1"
}

# remove_cgroups LIST: kills the processes left in the groups and removes them. v1
# reports no empty group, hence the short polls.
remove_cgroups() {
  local group try pids
  while read -r _ _ _ group; do
    for ((try = 0; try < 100; try++)); do
      [[ -d $group ]] || continue 2
      mapfile -t pids < <(find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null)
      ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || :
      ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || continue 2
      sleep 0.05
    done
    say "cgroup $group could not be removed"
  done <"$1"
}
