# shellcheck shell=bash
# An instance's cgroups: one group in every hierarchy that the machine mounts
# (v1, hybrid or v2 alone). It becomes the root of the instance's cgroup
# namespace. A list file has one group per line:
#   FSTYPE MOUNTPOINT CONTROLLERS GROUP

# own_cgroup MOUNT CONTROLLERS: prints the caller's cgroup. The instance's group is
# created below it, so the caller's limits apply to the instance.
own_cgroup() {
  local path
  path=$(awk -F: -v c="$2" '$2 == c { print $3; exit }' /proc/self/cgroup)
  # Without a cgroup namespace the mount may not show the path.
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
      # A v2 group with processes can't delegate controllers to children, so
      # with controllers only the root can be the parent.
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
    for file in cpuset.cpus cpuset.mems; do # empty in a new v1 group, which then can't have processes
      [[ $type != cgroup || ! -e $group/$file ]] || cat "$parent/$file" >"$group/$file"
    done
  done </proc/mounts
}

delegate() { # GROUP: delegates every possible v2 controller to its children
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    echo "+$controller" 2>/dev/null >"$1/cgroup.subtree_control" || :
  done
}

# join_cgroups LIST: moves the calling (sub)shell into the groups. In a v2 instance
# that has delegated its controllers, the processes are in the group `init`.
join_cgroups() {
  local group
  while read -r _ _ _ group; do
    [[ ! -d $group/init ]] || group=$group/init
    echo "$BASHPID" >"$group/cgroup.procs"
  done <"$1"
}

# thaw_cgroups LIST: thaws the v1 groups. SIGKILL does not end a process that v1's
# freezer has frozen.
thaw_cgroups() {
  local type group
  while read -r type _ _ group; do
    [[ $type == cgroup && -e $group/freezer.state ]] || continue
    find "$group" -name freezer.state -exec sh -c 'for f; do echo THAWED >"$f"; done' _ {} +
  done <"$1"
}

# remove_cgroups LIST: kills the remaining processes of the groups and removes the
# groups. v1 does not report when a group is empty, so they are polled.
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
