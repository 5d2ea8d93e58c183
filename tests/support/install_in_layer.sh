#!/bin/sh
# Runs `./bootstrap install` in a chroot on an overlay of this machine's root and packs what it wrote
# into the archive LAYER. install.py starts it in a mount and a pid namespace of its own, with BUILD
# (an empty folder), BELOW (the archive of the layer below, or nothing) and CHECKOUT.
set -eu
mount -t tmpfs -o mode=755 build "$BUILD" # a layer may not lie inside of the layer below it, /
cd "$BUILD"
mkdir below upper work root
[ -z "$BELOW" ] || tar --extract --file "$BELOW" --xattrs --xattrs-include='*' --directory below
mount -t overlay -o lowerdir=below:/,upperdir=upper,workdir=work layer root
cd root
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run # no /run/systemd: nothing in here talks to the machine's own
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --rbind /dev dev
# Where the name servers are written down under /run, the chroot needs them too.
servers=$(readlink -f /etc/resolv.conf || true)
case $servers in /run/*)
  mkdir -p ".${servers%/*}"
  cp "$servers" ".$servers"
  ;;
esac
mount --bind "$CHECKOUT" mnt
# What may be installed on this machine itself is no part of the lab.
[ ! -e opt/quicether ] || [ -n "$BELOW" ] || chroot . /mnt/bootstrap uninstall --purge
chroot . /mnt/bootstrap install
cd ..
umount --recursive --lazy root
tar --create --file "$LAYER.new" --xattrs --xattrs-include='*' --directory upper .
mv "$LAYER.new" "$LAYER"
