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
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 && exit 0
apt-get update -q >/dev/null
# shellcheck disable=SC2086
apt-get install -y -q --no-install-recommends $missing >/dev/null
