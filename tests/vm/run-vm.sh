#!/usr/bin/env bash
# Runs a command as root in a virtual machine with the image of make-image.sh, emulated, so that it runs anywhere; prints what it
# prints and exits with its exit status.
#
#   run-vm.sh CACHE SHARE SECONDS COMMAND
#
# SHARE, a directory, is /share in the machine, for reading and writing, and the working directory. The image stays as it was. The
# first run boots and saves the booted machine in CACHE, the others go on from there. VM_MEMORY is its memory in MiB, 1024 if not set. Exit status 124: not within SECONDS; 125:
# the machine ended without a result, and its console is printed.
set -euo pipefail

die() { echo "run-vm.sh: $*" >&2; exit 125; }
[ $# -eq 4 ] || die "usage: run-vm.sh CACHE SHARE SECONDS COMMAND"
cache=$1 share=$2 limit=$3 memory=${VM_MEMORY:-1024}
[ -f "$cache/lock" ] || die "$cache: no image there: run make-image.sh first"
[ -d "$share" ] || die "$share: no such directory"
exec 9<"$cache/lock" # no image is made anew while machines run on it
flock -s -w "$limit" 9 || die "$cache: is being made"
[ -f "$cache/stamp" ] || die "$cache: no image there: run make-image.sh first"

work=$(mktemp -d "${TMPDIR:-/tmp}/run-vm.XXXXXX")
qemu='' tail=''
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
	[ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
	[ -z "$tail" ] || kill "$tail" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
mkdir "$work/ctl"
printf '%s\n' "$4" >"$work/ctl/command"

end=$((SECONDS + limit))
late() {
	echo "run-vm.sh: killed after $limit s" >&2
	exit 124
}
lost() {
	echo "run-vm.sh: the machine ended without a result; QEMU and the console said:" >&2
	tail -n 40 "$work/qemu" "$work/console" >&2 || true
	exit 125
}

# Starts QEMU; its monitor is at 4 and 5, the port "go" at 6 and 7. It ends with this script, however that ends.
launch() { # DISK FURTHER...
	local disk=$1
	shift
	rm -f "$work"/*.in "$work"/*.out
	mkfifo "$work/mon.in" "$work/mon.out" "$work/go.in" "$work/go.out"
	exec 4<>"$work/mon.in" 5<>"$work/mon.out" 6<>"$work/go.in" 7<>"$work/go.out"
	: >"$work/out"
	setpriv --pdeathsig KILL \
	qemu-system-x86_64 -accel tcg,thread=multi,tb-size=256 -machine pc,usb=off,vmport=off -cpu max -smp 2 -m "$memory" \
		-nodefaults -no-user-config -display none -no-reboot -kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
		-append "root=/dev/vda rw console=hvc0 quiet loglevel=4 mitigations=off nokaslr audit=0 selinux=0 apparmor=0 no_timer_check tsc=reliable cryptomgr.notests random.trust_cpu=on net.ifnames=0 panic=-1 systemd.show_status=0" \
		-drive "if=none,id=root,cache=unsafe,$disk" -device virtio-blk-pci,drive=root \
		-device virtio-rng-pci -device vmgenid,guid=auto -device virtio-serial-pci \
		-chardev "pipe,id=mon,path=$work/mon" -mon mon,mode=readline \
		-chardev "file,id=con,path=$work/console" -device virtconsole,chardev=con \
		-chardev "file,id=out,path=$work/out" -device virtserialport,chardev=out,name=out \
		-chardev "pipe,id=go,path=$work/go" -device virtserialport,chardev=go,name=go \
		-fsdev "local,id=ctl,path=$work/ctl,security_model=none" -device virtio-9p-pci,fsdev=ctl,mount_tag=ctl \
		-fsdev "local,id=share,path=$share,security_model=none,multidevs=remap" \
		-device virtio-9p-pci,fsdev=share,mount_tag=share \
		"$@" </dev/null >"$work/qemu" 2>&1 4>&- 5>&- 6>&- 7>&- 8>&- 9<&- &
	qemu=$!
}

wait_ready() {
	local word
	while kill -0 "$qemu" 2>/dev/null; do
		if read -r -t 1 word <&7; then
			case $word in ready*) return 0 ;; esac
		fi
		[ $SECONDS -lt $end ] || late
	done
	lost
}

# Boots, and saves the machine as it stands before the command.
save() {
	local line='' tries
	rm -f "$state".*
	qemu-img create -q -f qcow2 -b "$cache/root.img" -F raw "$state.disk"
	launch "file=$state.disk,format=qcow2"
	wait_ready
	printf 'migrate_set_parameter max-bandwidth 8g\nmigrate "exec:cat >%s.new"\ninfo migrate\n' "$state" >&4
	for ((tries = 0; tries < 100; tries++)); do
		while read -r -t 0.3 line <&5; do
			case $line in
			*'Migration status: completed'*)
				printf 'quit\n' >&4
				wait "$qemu" || true
				qemu=
				mv "$state.new" "$state.ram"
				return 0
				;;
			*'Migration status: failed'* | *rror:*) break 2 ;;
			esac
		done
		kill -0 "$qemu" 2>/dev/null || break
		printf 'info migrate\n' >&4
	done
	die "the booted machine could not be saved: $line"
}

state=$cache/state-$({ cat "$cache/stamp" "$0"; echo "$memory"; qemu-system-x86_64 --version; } | sha256sum | cut -c1-16)
exec 8>"$cache/state.lock"
flock -w "$limit" 8 || late
if [ ! -f "$state.ram" ]; then
	rm -f "$cache"/state-* # of another image, script or QEMU
	save
fi
exec 8>&-
launch "file=$state.disk,format=qcow2,snapshot=on" -incoming "exec:cat $state.ram"
echo "go $(date +%s.%N)" >&6
tail -c +1 -s 0.1 -f --pid="$qemu" "$work/out" 4>&- 5>&- 6>&- 7>&- 9<&- &
tail=$!
while kill -0 "$qemu" 2>/dev/null; do
	[ $SECONDS -lt $end ] || late
	sleep 0.1
done
wait "$qemu" 2>/dev/null || true
qemu=
wait "$tail" 2>/dev/null || true
tail=
[ -s "$work/ctl/status" ] || lost
exit "$(cat "$work/ctl/status")"
