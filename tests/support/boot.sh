#!/bin/sh
# Turns the namespaces it was started in (pid, mount, uts, ipc, cgroup, net) into a host and becomes
# its PID 1. hosts.WholeHost starts it and gives HOST_NAME, HOST_DIR, HOST_LOWER, HOST_MANAGER and
# CHECKOUT.
# Every mount is made in this mount namespace only, so all of them end with the host.
set -eu

read -r pid _ </proc/self/stat # this /proc is still the machine's: the number that it knows us by
echo "$pid" >"$HOST_DIR/pid"
read -r _                      # until our parent has left the control group that systemd will own

mount -t tmpfs -o mode=755 "$HOST_NAME" "$HOST_DIR/mnt"
cd "$HOST_DIR/mnt"
mkdir upper work root
mount -t overlay -o "lowerdir=$HOST_LOWER,upperdir=upper,workdir=work" "$HOST_NAME" root
cd root

# A host of its own: no name, network, DNS, disk or service of the machine below shines through.
echo "$HOST_NAME" >etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$HOST_NAME" >etc/hosts
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
# Ubuntu's NetworkManager would hand names to systemd-resolved, which not every host here has.
rm -rf etc/resolv.conf etc/fstab etc/crypttab etc/netplan etc/rc?.d etc/network/interfaces* \
  etc/systemd/network etc/systemd/system/*.wants etc/systemd/system/*.requires \
  etc/NetworkManager/system-connections etc/NetworkManager/conf.d \
  etc/NetworkManager/dispatcher.d/01-ifupdown \
  usr/lib/NetworkManager/conf.d/*globally-managed* usr/lib/NetworkManager/conf.d/*dns-resolved* \
  var/lib/NetworkManager var/log/journal
# Ubuntu's NetworkManager keeps its profiles in etc/netplan, and aborts where there is none.
mkdir -p etc/netplan etc/systemd/network etc/systemd/system/multi-user.target.wants \
  etc/systemd/journald.conf.d etc/NetworkManager/conf.d
: >etc/resolv.conf
: >etc/fstab
[ ! -d etc/cloud ] || : >etc/cloud/cloud-init.disabled
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n' \
  >etc/systemd/journald.conf.d/lab.conf
# The ifupdown plugin would leave alone what the machine's own interfaces file names.
printf '[main]\nplugins=keyfile\nno-auto-default=*\n[connectivity]\nenabled=false\n' \
  >etc/NetworkManager/conf.d/90-lab.conf
install -d -m 700 etc/NetworkManager/system-connections

# What talks to hardware or would set the machine's own kernel parameters has no place here.
for unit in getty.target console-getty.service systemd-udevd.service systemd-udev-trigger.service \
  systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service \
  modprobe@.service sys-kernel-config.mount sys-fs-fuse-connections.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount \
  systemd-networkd-wait-online.service NetworkManager-wait-online.service \
  NetworkManager.service systemd-networkd.service systemd-networkd.socket; do
  rm -f "etc/systemd/system/$unit"
  ln -s /dev/null "etc/systemd/system/$unit"
done
start_at_boot() {
  rm -f "etc/systemd/system/$1"
  ln -sf "/lib/systemd/system/$1" "etc/systemd/system/multi-user.target.wants/$1"
}
case $HOST_MANAGER in
networkmanager) start_at_boot NetworkManager.service ;;
networkd) start_at_boot systemd-networkd.service && rm etc/systemd/system/systemd-networkd.socket ;;
none) ;;
esac

mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net # of this network namespace; the rest is the machine's
mount -o remount,bind,ro proc/sys
# A /sys that is read-only tells NetworkManager and networkd that there is no udev to wait for.
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp

# The checkout may lie in /tmp or on another disk; tests run programs from it.
mkdir -p ".$CHECKOUT"
mount --bind "$CHECKOUT" ".$CHECKOUT"
mount -o remount,bind,ro ".$CHECKOUT"

mount -t tmpfs -o mode=755,nosuid dev dev
cd dev
mkdir net pts shm mqueue
node() { mknod -m 666 "$1" c "$2" "$3"; }
node null 1 3
node zero 1 5
node full 1 7
node random 1 8
node urandom 1 9
node tty 5 0
node net/tun 10 200
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5,nosuid,noexec devpts pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs shm
ln -s pts/ptmx ptmx
ln -s /proc/self/fd fd
ln -s /proc/self/fd/0 stdin
ln -s /proc/self/fd/1 stdout
ln -s /proc/self/fd/2 stderr
cd ..

mkdir run/host
mount --bind "$HOST_DIR/notify" run/host
hostname "$HOST_NAME"
pivot_root . mnt
umount -l /mnt
exec env -i container=lab NOTIFY_SOCKET=/run/host/socket PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --unit=multi-user.target </dev/null
