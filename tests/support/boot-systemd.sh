#!/usr/bin/env bash
# boot-systemd.sh DIR: the real systemd as PID 1 of namespaces of its own, on an overlay of this machine's root.
#
# DIR/share appears inside as /mnt/share. Nothing of the host's units starts; only what lab.target wants. Everything
# is in tmpfs and in private namespaces: when this process is killed, the kernel takes all of it away.
set -euo pipefail
export DIR=$1
unified=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
export GROUP=$unified/gpuwarden-lab-$$
mkdir -p "$GROUP" "$DIR/share" "$DIR/overlay"
echo "$GROUP" > "$DIR/cgroup"
echo $$ > "$GROUP/cgroup.procs"
exec unshare --cgroup --pid --mount --uts --ipc --net --fork --kill-child --propagation private bash -c '
set -euo pipefail
mount -t tmpfs tmpfs "$DIR/overlay"
mkdir "$DIR"/overlay/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/overlay/upper,workdir=$DIR/overlay/work" "$DIR/overlay/root"
root=$DIR/overlay/root
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty kmsg fuse; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
touch "$root/dev/console"
mkdir -p "$root/mnt/share"
mount --bind "$DIR/share" "$root/mnt/share"
rm -rf "$root"/etc/systemd/system/*.wants
mkdir -p "$root/etc/systemd/system"
printf "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n" > "$root/etc/systemd/system/lab.target"
ip link set lo up
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=lab.target --log-target=journal --show-status=no'
