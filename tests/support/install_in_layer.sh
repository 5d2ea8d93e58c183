#!/bin/sh
# Runs `./bootstrap install` in a chroot on an overlay; started by install.py in a mount and a pid
# namespace of its own, with LAYER_LOWER, LAYER_BUILDING and CHECKOUT.
set -eu
cd "$LAYER_BUILDING"
mount -t overlay -o "lowerdir=$LAYER_LOWER,upperdir=upper,workdir=work" layer root
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
exec chroot . sh -c 'cd /mnt && exec ./bootstrap install'
