#!/bin/bash
# PID 1 of the microVM (kernel argument init=/sbin/vm-init). Mounts the usual file
# systems, delegates all cgroup v2 controllers to children of the root as systemd
# does, runs /in/run from the job's disk (a tar), and writes its status and
# /out to the result's disk (also a tar).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LANG=C.UTF-8 CEDANA_TESTBED=vm

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue /in /out
mount -t devpts -o gid=5,mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir /run/testbed
for link in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  ln -sfn "${link#*:}" "/dev/${link%%:*}"
done

mkdir /sys/fs/cgroup/init.scope
echo 1 >/sys/fs/cgroup/init.scope/cgroup.procs
for controller in $(</sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

hostname vm
ip link set lo up
modprobe -a virtio_blk overlay tun br_netfilter

exec >/dev/hvc0 2>&1 </dev/null
stty -F /dev/hvc0 -opost -echo
tar -xf /dev/vda -C /in
# bash as PID 1 reaps orphans while it waits for this process.
(cd /in && exec setsid /bin/bash ./run) &
wait $!
echo $? >/run/status
tar -cf /dev/vdb -C /run status -C / out
sync
# `poweroff` would send a request to init, which does not handle it.
echo o >/proc/sysrq-trigger
sleep infinity
