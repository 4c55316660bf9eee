#!/bin/bash
# First half of an instance's PID 1, in the new namespaces but on the machine's root.
# Mounts the instance's root, pivots into it and executes init.sh.
# shellcheck disable=SC2154 # settings assigns them
set -euo pipefail

dir=$1
# shellcheck source=/dev/null
. "$dir/settings"
# shellcheck source=scripts/lib/cgroups.sh
. "${0%/*}/cgroups.sh"

# /proc is still the machine's, so this is the PID in the machine's namespace.
read -r leader _ </proc/self/stat
echo "$leader" >"$dir/leader"

hostname "$name"
new=$dir/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$new" || {
  echo "$dir can't hold an overlay's upper layer: set TESTBED_HOME to a directory on a disk" >&2
  exit 1
}

mount -t proc -o nosuid,nodev,noexec proc "$new/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$new/sys"
mount -t tmpfs -o mode=0755 run "$new/run"
mount -t tmpfs -o mode=1777 tmp "$new/tmp"

mount -t tmpfs -o mode=0755 dev "$new/dev"
mkdir "$new"/dev/{pts,shm,mqueue}
while read -r node major minor; do
  mknod -m 0666 "$new/dev/$node" c "$major" "$minor"
done <<'NODES'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
loop-control 10 237
NODES
# The loop devices are the machine's. The kernel chooses the first free one, and
# without devtmpfs its node must exist.
for minor in {0..63}; do
  mknod -m 0660 "$new/dev/loop$minor" b 7 "$minor"
done
ln -s /proc/self/fd "$new/dev/fd"
ln -s fd/0 "$new/dev/stdin"
ln -s fd/1 "$new/dev/stdout"
ln -s fd/2 "$new/dev/stderr"
ln -s pts/ptmx "$new/dev/ptmx"
mount -t devpts -o newinstance,gid=5,mode=0620,ptmxmode=0666 devpts "$new/dev/pts"
mount -t tmpfs -o mode=1777 shm "$new/dev/shm"
mount -t mqueue mqueue "$new/dev/mqueue"

# New mounts of the hierarchies, in which the instance's groups are the roots.
# shellcheck disable=SC2094 # the list is only read
while read -r type mount controllers group; do
  if [[ $type == cgroup2 && $mount == /sys/fs/cgroup ]]; then
    mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
    mkdir "$group/init"
    join_cgroups "$dir/cgroups"
    delegate "$group"
    continue
  fi
  mountpoint -q "$new/sys/fs/cgroup" || mount -t tmpfs -o mode=0755 cgroup "$new/sys/fs/cgroup"
  here=$new/sys/fs/cgroup/${mount##*/}
  mkdir "$here"
  case $type:$controllers in
  cgroup2:*) mount -t cgroup2 cgroup2 "$here" ;;
  cgroup:name=*) mount -t cgroup -o "none,$controllers" cgroup "$here" ;;
  cgroup:*)
    mount -t cgroup -o "$controllers" cgroup "$here"
    for controller in ${controllers//,/ }; do
      [[ -e $new/sys/fs/cgroup/$controller ]] || ln -s "${mount##*/}" "$new/sys/fs/cgroup/$controller"
    done
    ;;
  esac
done <"$dir/cgroups"

# An overlay can't be the upper layer of the engines' own overlays. So the engines'
# directories are on the disk itself, and the images' layers are mounted in them.
for engine in containerd docker; do
  mount --bind "$dir/$engine" "$new/var/lib/$engine"
done
if [[ -n $layers ]]; then
  while read -r layer path; do
    mount -o bind,ro "$layers/layers/$layer" "$new/var/lib/$path"
  done <"$layers/layers/paths"
  # For `engine`, which must mount them again.
  mkdir -p "$new/usr/lib/testbed/layers"
  mount -o bind,ro "$layers/layers" "$new/usr/lib/testbed/layers"
  mount -t overlay overlay \
    -o "lowerdir=$layers/content,upperdir=$dir/content/upper,workdir=$dir/content/work" \
    "$new/var/lib/containerd/io.containerd.content.v1.content"
fi

for pair in "${mounts[@]}"; do
  from=${pair%%:*} to=$new${pair#*:}
  if [[ -d $from ]]; then
    mkdir -p "$to"
  else
    mkdir -p "${to%/*}"
    : >>"$to"
  fi
  mount --rbind "$from" "$to"
done

install -D -m 0755 "${0%/*}/init.sh" "$new/run/testbed/init"
mkdir "$new/run/testbed/old"
cd "$new"
pivot_root . run/testbed/old
cd /
umount -l /run/testbed/old
rmdir /run/testbed/old
exec env --ignore-environment --default-signal=INT,QUIT "${guest_env[@]}" /bin/bash /run/testbed/init "$docker"
