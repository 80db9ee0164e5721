#!/bin/sh
# Shows tb4-gateway at work, from nothing: installs what it needs (Debian 12 or 13, as root), builds
# in build/, serves a volume of VM 200 to public NBD clients, kills the gateway in the middle of a
# write load and proves that nothing acknowledged is lost. Leaves nothing outside build/.
set -eu
cd "$(dirname "$0")/.."

step_count=0
step() {
	step_count=$((step_count + 1))
	printf '[%2d] %s\n' "$step_count" "$*"
}

work=
gateway_pid=
cleanup() {
	[ -z "$gateway_pid" ] || kill "$gateway_pid" 2>/dev/null || true
	[ -z "$work" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step 'install what is missing of the build tools and the public NBD clients'
sh tests/install.sh build demo

step 'build'
[ -d build ] || meson setup build >/dev/null
ninja -C build >build/demo-build.log || { cat build/demo-build.log; exit 1; }

# A directory with a short name, as the paths of unix sockets may not be longer than 107 bytes.
work=$(mktemp -d /tmp/tb4-demo.XXXXXX)
cat >"$work/tb4.conf" <<EOF
[paths]
run_dir = $work/run
volume_dir = $work/volumes
claim_dir = $work/claims
data_dir = $work/data
EOF
PATH="$PWD/build/gateway:$PWD/build/tests/tools:$PATH"
tb4() { command tb4 --config "$work/tb4.conf" "$@"; }
socket=$work/run/200/nbd.sock
uri="nbd+unix:///vm-200-disk-0?socket=$socket"

start_gateway() {
	tb4-gateway --config "$work/tb4.conf" 200 2>>"$work/gateway.log" &
	gateway_pid=$!
	for _ in $(seq 200); do
		tb4 status 200 2>/dev/null | grep -q ' serving ' && return
		sleep 0.02
	done
	cat "$work/gateway.log"
	exit 1
}

step 'tb4 volume create 200 256M'
tb4 volume create 200 256M

step 'start the gateway of VM 200'
start_gateway

step 'make an ext4 image and copy it in with nbdcopy'
truncate -s 256M "$work/in.img"
mkdir "$work/files"
cp -r gateway tests README.md LICENSE "$work/files"
mke2fs -q -t ext4 -d "$work/files" "$work/in.img"
nbdcopy "$work/in.img" "$uri"

step 'compare with qemu-img, copy it out with nbdcopy, check it with e2fsck'
qemu-img compare -f raw -F raw "$work/in.img" "$uri"
nbdcopy "$uri" "$work/out.img"
cmp "$work/in.img" "$work/out.img"
e2fsck -fn "$work/out.img" >"$work/e2fsck.log" 2>&1 || { cat "$work/e2fsck.log"; exit 1; }

step 'tb4 status'
tb4 status

step 'four clients write and read; after 2 s: kill -9 of the gateway, then start it again'
nbd-history --seconds 5 --region 64M "$socket" vm-200-disk-0 >"$work/history.log" 2>&1 &
history_pid=$!
sleep 2
kill -9 "$gateway_pid"
wait "$gateway_pid" 2>/dev/null || true
start_gateway

step 'every read before and after was possible: nothing acknowledged is lost'
wait "$history_pid" || { cat "$work/history.log"; exit 1; }
cat "$work/history.log"
grep -q ' [1-9][0-9]* reconnects' "$work/history.log"
tb4 claim show 200

step 'stop in order: the claim is released'
kill "$gateway_pid"
wait "$gateway_pid"
gateway_pid=
tb4 claim show 200 | grep released

step 'tb4 volume delete 200'
tb4 volume delete 200 --yes
for left in run data claims volumes; do
	[ -z "$(find "$work/$left" -type f ! -name .lock)" ] || { find "$work/$left"; exit 1; }
done
echo 'demo: all steps done'
