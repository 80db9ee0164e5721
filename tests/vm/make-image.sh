#!/usr/bin/env bash
# Makes what run-vm.sh boots: a Debian of this machine's release with its stock kernel.
#
#   make-image.sh CACHE [PACKAGE...]
#
# Writes CACHE/root.img (ext4, sparse), CACHE/vmlinuz and CACHE/initrd. Packages stay in CACHE/debs, so that another image is made
# of them. The same packages again: nothing is done. Needs root, and the group vm of tests/packages.
set -euo pipefail

die() { echo "make-image.sh: $*" >&2; exit 1; }
[ $# -ge 1 ] || die "usage: make-image.sh CACHE [PACKAGE...]"
[ "$(id -u)" = 0 ] || die "needs root, as debootstrap does"
mkdir -p "$1"
cache=$(cd "$1" && pwd)
shift
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
base="systemd-sysv udev dbus kmod linux-image-amd64 iproute2 procps util-linux e2fsprogs fdisk nbd-client libnbd-bin fio ca-certificates"
# shellcheck disable=SC2086 # a list of words
packages=$(printf '%s\n' $base "$@" | sort -u | paste -sd,)
stamp="$suite $packages $(sha256sum <"$0")"

exec 9>"$cache/lock"
flock 9
[ "$(cat "$cache/stamp" 2>/dev/null)" != "$stamp" ] || exit 0
rm -f "$cache/stamp"

# shellcheck disable=SC2016 # apt's own fields
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Component: main' "Codename: $suite" | sort -u | head -n 1)
root=$cache/root
umount_root() { umount "$root/proc" 2>/dev/null || true; }
trap umount_root EXIT
umount_root
rm -rf "$root"
mkdir -p "$cache/debs" "$root/etc/dpkg/dpkg.cfg.d" "$root/etc/initramfs-tools"

# Less to unpack, and no fsync: it is thrown away with the cache. The initrd is made below.
cat >"$root/etc/dpkg/dpkg.cfg.d/test-image" <<'E'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
E
echo 'update_initramfs=no' >"$root/etc/initramfs-tools/update-initramfs.conf"
debootstrap --variant=minbase --cache-dir="$cache/debs" --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} \
	>"$cache/debootstrap.log" 2>&1 || die "debootstrap failed: $(tail -n 3 "$cache/debootstrap.log")"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
kernel=$(find "$root/lib/modules" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -V | tail -n 1)

# The files of some modules, in the order in which they are loaded.
files_of() {
	local module
	for module in "$@"; do
		modprobe -d "$root" -S "$kernel" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
	done | awk '!seen[$0]++'
}
# those that tests load, uncompressed: an emulated processor takes long over xz
files_of virtio_pci virtio_blk ext4 9p 9pnet_virtio virtio-rng nbd dummy | sed -n '/\.xz$/p' | xargs -r xz -d --force
depmod -b "$root" "$kernel"

# It boots to the test, and to nothing else.
: >"$root/etc/fstab"
echo vm >"$root/etc/hostname"
printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$root/etc/hosts"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
system=$root/etc/systemd/system
mkdir -p "$system/test.target.wants" "$system/systemd-udev-trigger.service.d" "$root/etc/systemd/journald.conf.d" \
	"$root/etc/systemd/system.conf.d"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/test.conf"
printf '[Manager]\nDefaultTimeoutStopSec=5s\nDefaultDeviceTimeoutSec=10s\n' >"$root/etc/systemd/system.conf.d/test.conf"
# all of it would load modules for every flag of the emulated processor
cat >"$system/systemd-udev-trigger.service.d/test.conf" <<'E'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=virtio --subsystem-match=misc --subsystem-match=virtio-ports
E
cat >"$system/test.target" <<'E'
[Unit]
Requires=sysinit.target basic.target
After=sysinit.target basic.target
AllowIsolate=yes
E
cat >"$system/test-run.service" <<'E'
[Unit]
After=basic.target systemd-udev-trigger.service
[Service]
ExecStart=/usr/local/sbin/test-run
KillMode=process
StandardOutput=null
StandardError=journal
LimitNOFILE=65536
E
ln -s ../test-run.service "$system/test.target.wants/"
ln -sf test.target "$system/default.target"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
	e2scrub_reap.service systemd-pstore.service getty.target systemd-update-utmp.service systemd-random-seed.service \
	systemd-logind.service systemd-user-sessions.service systemd-timesyncd.service ldconfig.service \
	systemd-journal-catalog-update.service systemd-journal-flush.service systemd-update-done.service \
	systemd-machine-id-commit.service systemd-firstboot.service systemd-sysusers.service systemd-hwdb-update.service \
	systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-boot-random-seed.service \
	systemd-tpm2-setup.service systemd-tpm2-setup-early.service dev-hugepages.mount dev-mqueue.mount \
	sys-kernel-tracing.mount sys-kernel-debug.mount networking.service; do
	ln -sf /dev/null "$system/$unit"
done
install -m 755 /dev/stdin "$root/usr/local/sbin/test-run" <<'E'
#!/bin/bash
# Says "ready" to run-vm.sh, waits for "go SECONDS", then runs the command of the share ctl, sends its output and its exit
# status to the host and turns the machine off. Between "ready" and "go" the machine may have been saved, and be started
# from that again and again; a share that is mounted would forbid it.
modprobe -a 9p 9pnet_virtio
ip link set lo up
for i in {1..200}; do [ -e /dev/virtio-ports/go ] && break; sleep 0.05; done
exec 3<>/dev/virtio-ports/go
echo "ready $(cut -d' ' -f1 /proc/uptime)" >&3
read -r go now <&3
date -s "@$now" >/dev/null
mkdir -p /run/ctl /share
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o $options ctl /run/ctl || systemctl poweroff --force --force
mount -t 9p -o $options share /share
cd /share
bash /run/ctl/command </dev/null >/dev/virtio-ports/out 2>&1 3>&-
echo $? >/run/ctl/status
sync
# by force: in order it would wait for what the command has left running
systemctl poweroff --force --force
E

# The stock kernel has the disk and its file system as modules.
initrd=$cache/initrd.d
rm -rf "$initrd"
mkdir -p "$initrd/bin" "$initrd/modules" "$initrd/dev" "$initrd/root"
cp "$(command -v busybox)" "$initrd/bin/busybox"
number=10
files_of virtio_pci virtio_blk ext4 | while read -r file; do
	cp "$file" "$initrd/modules/$number-${file##*/}"
	number=$((number + 1))
done
cat >"$initrd/init" <<'E'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module; done
i=0
until $b mount -t ext4 -o rw,noatime /dev/vda /root; do
	i=$((i + 1)); [ $i -lt 50 ] || $b poweroff -f
	$b usleep 100000
done
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
E
chmod 755 "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet) >"$cache/initrd.new"
cp "$root/boot/vmlinuz-$kernel" "$cache/vmlinuz.new"
rm -f "$cache/root.img.new" "$root"/boot/initrd* "$root"/boot/vmlinuz*
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -E lazy_itable_init=1,nodiscard -m 0 -d "$root" "$cache/root.img.new" 3G \
	>/dev/null
for file in root.img vmlinuz initrd; do mv "$cache/$file.new" "$cache/$file"; done
rm -rf "$initrd" "$root"
printf '%s\n' "$stamp" >"$cache/stamp"
