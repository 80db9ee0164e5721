#!/bin/sh
# Installs the Debian packages of some groups of tests/packages, unless they are there already.
# usage: install.sh GROUP...
set -eu
here=$(dirname "$0")
wanted=
for group; do
	wanted="$wanted $(sed -n "s/^$group: //p" "$here/packages")"
done
missing=
for package in $wanted; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
		missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# Servers among them are for tests: none is started now, nor at the next boot.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
install() {
	# shellcheck disable=SC2086 # a list of words
	apt-get install -y -q --no-install-recommends $missing >/dev/null
}
if ! install 2>/dev/null; then
	apt-get update -q >/dev/null
	install
fi
case "$missing " in
*" prometheus "*) systemctl disable -q prometheus 2>/dev/null || true ;;
esac
