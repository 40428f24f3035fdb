#!/usr/bin/env bash
# The first process of a machine, in namespaces of its own: a disk, an address, a user `me` and an sshd.
#   machine.sh DISK NAME ADDRESS GATEWAY WHEELS [FOLDER ...]     FOLDERs are seen although the disk would hide them
set -euo pipefail
disk=$1 name=$2 address=$3 gateway=$4 wheels=$5
shift 5

mount --make-rprivate /
mount --bind "$disk" /mnt  # under this name it stays in sight, whatever is hidden below
for folder in "$@"; do
  case "$folder" in /root/* | /home/* | /tmp/*) mkdir -p "/mnt$folder" && mount --rbind "$folder" "/mnt$folder" ;; esac
done
mount --bind "$wheels" /mnt/wheels
mount -o remount,bind,ro /mnt/wheels
for folder in /root /home /tmp; do mount --rbind "/mnt$folder" "$folder"; done
for file in passwd hosts; do mount --bind "/mnt/etc/$file" "/etc/$file"; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
hostname "$name"

until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done  # from outside
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"  # Ray asks which of its addresses would reach the internet
exec "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /mnt/etc/sshd_config
