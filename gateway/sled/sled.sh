# sled.sh: what tb4 does on a sled. tb4 feeds it to `sh -s` there, with lines before it that set the variables and a
# line behind it that calls one of the functions in capitals.
#
# DIRECTORY PROGRAM ARGUMENTS ADDRESS          the sled, as tb4.conf describes it; ADDRESS without names
# PORT VOLUME NODE                             one region: DIRECTORY/PORT
# UUID                                         also of what UNDO takes away and READY keeps
# BLOCK_SIZE EXTENT_BLOCKS EXTENTS SEALED      what CREATE makes; SEALED: yes or no (encrypted)
#
# DIRECTORY/PORT.volume says whose a region is; no region without it, or with another volume in it, is ever removed.
# It stays "creating" until the volume file is written, so that what a tb4 that was killed left behind can be told from
# a volume; and only who knows the region's UUID takes that away. Exit status: as tb4's own; the last line on standard error says why.
# shellcheck shell=sh
# shellcheck disable=SC2015,SC2153,SC2154,SC3045 # A && B || give_up; variables set before; dash has ulimit -H
set -u
export LC_ALL=C
umask 077

ENVIRONMENT=/etc/tb4/downstairs
UNITS=/etc/systemd/system
OWNER=crucible # of regions, where systemd runs

give_up() { # STATUS TEXT
	printf '%s\n' "$2" >&2
	exit "$1"
}

has_systemd() { [ -d /run/systemd/system ]; }

# One at a time in this directory: an UNDO waits for a CREATE whose connection to tb4 was cut.
lock() {
	(umask 066 && mkdir -p "$DIRECTORY") || give_up 74 "$DIRECTORY: cannot be made"
	exec 9>"$DIRECTORY/.lock" || give_up 74 "$DIRECTORY/.lock: cannot be opened"
	flock 9
}

mark_of() { # PORT FIELD
	sed -n "s/^$2=//p" "$DIRECTORY/$1.volume" 2>/dev/null
}

# "PORT ADDRESS:PORT WHO" for each that listens at our address, or at all.
listeners() {
	ss -Hltnp | awk -v ours="$ADDRESS" '{
		port = $4
		sub(/.*:/, "", port)
		host = substr($4, 1, length($4) - length(port) - 1)
		gsub(/[][]|%.*/, "", host)
		if (host == ours || host == "*" || host == "0.0.0.0" || host == "::")
			print port " " $4 " " $6
	}'
}

# The most open files that a downstairs can be allowed.
files_limit() {
	if has_systemd; then
		cat /proc/sys/fs/nr_open
	else
		ulimit -H -n
	fi
}

files_needed() { echo $((4 * EXTENTS + 64)); }

existing_parent() {
	parent=$DIRECTORY
	while [ ! -d "$parent" ]; do
		parent=$(dirname "$parent")
	done
	printf '%s\n' "$parent"
}

json_number() { # NAME, of the JSON in $json
	printf '%s' "$json" | sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p"
}

# port volume node state uuid size allocated listens
survey_region() { # PORT, with the listeners in $listeners
	json=$(tr -d ' \n' <"$DIRECTORY/$1/region.json" 2>/dev/null)
	blocks=$(printf '%s' "$json" | sed -n 's/.*"extent_size":{[^}]*"value":\([0-9][0-9]*\).*/\1/p')
	block=$(json_number block_size)
	count=$(json_number extent_count)
	uuid=$(mark_of "$1" uuid) # also where it came to nothing else
	[ -n "$uuid" ] || uuid=$(printf '%s' "$json" | sed -n 's/.*"uuid":"\([-0-9a-f]*\)".*/\1/p')
	volume=$(mark_of "$1" volume)
	node=$(mark_of "$1" node)
	state=$(mark_of "$1" state)
	allocated=$(du -sk "$DIRECTORY/$1" 2>/dev/null | cut -f 1)
	listens=no
	! printf '%s\n' "$listeners" | grep -q "^$1 " || listens=yes
	printf 'region %s %s %s %s %s %s %s %s\n' "$1" "${volume:--}" "${node:--}" "${state:--}" "${uuid:--}" \
		$((${blocks:-0} * ${block:-0} * ${count:-0})) $((${allocated:-0} * 1024)) "$listens"
}

SURVEY() {
	parent=$(existing_parent)
	command -v "$PROGRAM" >/dev/null 2>&1 || give_up 69 "$PROGRAM: not installed"
	"$PROGRAM" version 2>/dev/null | sed -n 's/.*Crucible Version: */version /p; s/.*Message Version: */messages /p'
	printf 'clock %s\n' "$(date +%s)"
	printf 'filesystem %s\n' "$(stat -f -c %T "$parent")"
	df -Pk "$parent" | awk 'NR == 2 { printf "space %s %s\n", $2, $4 }'
	printf 'files %s\n' "$(files_limit)"
	if has_systemd; then
		printf 'systemd %s\n' "$([ -n "$(systemctl cat 'crucible-downstairs@.service' 2>/dev/null)" ] && echo yes || echo without-unit)"
	else
		printf 'systemd no\n'
	fi
	listeners=$(listeners)
	printf '%s\n' "$listeners" | awk 'NF { print "port " $1 " " $3 }'
	{
		for path in "$DIRECTORY"/*/region.json; do
			basename "$(dirname "$path")"
		done
		for path in "$DIRECTORY"/*.volume; do
			basename "$path" .volume
		done
	} | sort -u | while read -r port; do
		case $port in
		*[!0-9]*) ;;
		*) survey_region "$port" ;;
		esac
	done
}

write_mark() { # STATE
	printf 'volume=%s\nnode=%s\nuuid=%s\nstate=%s\n' "$VOLUME" "$NODE" "$UUID" "$1" >"$DIRECTORY/$PORT.volume.new" &&
		sync "$DIRECTORY/$PORT.volume.new" && mv "$DIRECTORY/$PORT.volume.new" "$DIRECTORY/$PORT.volume" &&
		sync "$DIRECTORY" || give_up 74 "$DIRECTORY/$PORT.volume: cannot be written"
}

start_plain() {
	# shellcheck disable=SC2086 # a list of words
	setsid nohup "$PROGRAM" run -p "$PORT" -d "$DIRECTORY/$PORT" -a "$ADDRESS" $ARGUMENTS \
		>"$DIRECTORY/$PORT.log" 2>&1 </dev/null 9>&- &
	echo $! >"$DIRECTORY/$PORT.pid"
}

as_owner() { setpriv --reuid "$OWNER" --regid "$OWNER" --init-groups -- "$@"; }

# The unit runs it as an ordinary user, who has to get to the region and to what the arguments name.
prepare_owner() {
	getent passwd "$OWNER" >/dev/null || why=$(systemd-sysusers --inline "u $OWNER - \"Crucible downstairs\"" 2>&1) ||
		give_up 74 "user $OWNER: cannot be made: $(printf '%s' "$why" | tail -n 1)"
	parent=$(dirname "$DIRECTORY")
	as_owner test -x "$parent" ||
		give_up 77 "$parent: user $OWNER, as whom the downstairs runs, may not pass: chmod a+x it and what is above it"
	# shellcheck disable=SC2016 # for the inner shell
	as_owner sh -c 'command -v "$1" >/dev/null' sh "$PROGRAM" ||
		give_up 77 "$PROGRAM: user $OWNER, as whom the downstairs runs, may not run it: put it into /usr/local/bin"
	for word in $ARGUMENTS; do
		! [ -f "$word" ] || as_owner test -r "$word" ||
			give_up 77 "$word: user $OWNER, as whom the downstairs runs, may not read it: chgrp $OWNER and chmod 640 it"
	done
}

unit_quote() { printf '%s' "$1" | sed 's/[\\"]/\\&/g; s/%/%%/g'; }

# What this region may have, beside what the unit says of all.
write_drop_in() {
	(
		umask 022
		mkdir -p "$UNITS/crucible-downstairs@$PORT.service.d" &&
			printf '[Service]\nLimitNOFILE=%s\nProtectSystem=strict\nReadWritePaths="%s"\n' "$(files_needed)" \
				"$(unit_quote "$DIRECTORY/$PORT")" >"$UNITS/crucible-downstairs@$PORT.service.d/region.conf"
	) ||
		give_up 74 "$UNITS/crucible-downstairs@$PORT.service.d: cannot be written"
}

start_unit() {
	write_drop_in
	mkdir -p "$ENVIRONMENT" &&
		printf 'PROGRAM=%s\nREGION=%s\nADDRESS=%s\nARGUMENTS=%s\n' "$PROGRAM" "$DIRECTORY/$PORT" "$ADDRESS" "$ARGUMENTS" \
			>"$ENVIRONMENT/$PORT.env" || give_up 74 "$ENVIRONMENT/$PORT.env: cannot be written"
	why=$(systemctl enable --now "crucible-downstairs@$PORT.service" 2>&1) ||
		give_up 74 "crucible-downstairs@$PORT.service: $(printf '%s' "$why" | tail -n 1)"
}

stop_plain() {
	pid=$(cat "$DIRECTORY/$PORT.pid" 2>/dev/null)
	case $(tr '\0' ' ' 2>/dev/null <"/proc/${pid:-none}/cmdline") in
	*" run -p $PORT -d $DIRECTORY/$PORT "*) ;;
	*) return 0 ;; # another process by now
	esac
	kill "$pid"
	waited=0
	while kill -0 "$pid" 2>/dev/null && [ $waited -lt 100 ]; do
		sleep 0.1
		waited=$((waited + 1))
	done
	kill -9 "$pid" 2>/dev/null
	return 0
}

stop() {
	if has_systemd; then
		rm -rf "$UNITS/crucible-downstairs@$PORT.service.d"
		systemctl disable --now "crucible-downstairs@$PORT.service" >/dev/null 2>&1
		! systemctl is-active --quiet "crucible-downstairs@$PORT.service" ||
			give_up 74 "crucible-downstairs@$PORT.service: cannot be stopped"
		rm -f "$ENVIRONMENT/$PORT.env"
	fi
	stop_plain
}

take_away() {
	stop
	rm -rf "${DIRECTORY:?}/${PORT:?}" && rm -f "$DIRECTORY/$PORT.log" "$DIRECTORY/$PORT.pid" "$DIRECTORY/$PORT.volume.new" ||
		give_up 74 "$DIRECTORY/$PORT: cannot be removed"
	# the mark goes last: as long as it is there REMOVE can be repeated
	rm -f "$DIRECTORY/$PORT.volume" || give_up 74 "$DIRECTORY/$PORT.volume: cannot be removed"
}

# What a create of this node was cut short at, or has to take back.
is_unfinished() {
	[ "$(mark_of "$PORT" volume)" = "$VOLUME" ] && [ "$(mark_of "$PORT" node)" = "$NODE" ] &&
		[ "$(mark_of "$PORT" uuid)" = "$UUID" ] && [ "$(mark_of "$PORT" state)" = creating ]
}

CREATE() {
	lock
	[ ! -e "$DIRECTORY/$PORT" ] && [ ! -e "$DIRECTORY/$PORT.volume" ] ||
		give_up 73 "$DIRECTORY/$PORT: exists already$([ -f "$DIRECTORY/$PORT.volume" ] && printf ', for %s' "$(mark_of "$PORT" volume)")"
	holder=$(listeners | awk -v port="$PORT" '$1 == port || $1 == port + 4000 { print $1 " is taken: " $2 " " $3; exit }')
	[ -z "$holder" ] || give_up 73 "port $holder"
	limit=$(files_limit)
	[ "$limit" = unlimited ] || [ "$limit" -ge "$(files_needed)" ] ||
		give_up 73 "a region of $EXTENTS extents needs $(files_needed) open files, and $limit are allowed"
	! has_systemd || prepare_owner
	write_mark creating
	[ "$SEALED" = yes ] && sealed=--encrypted || sealed=
	# shellcheck disable=SC2086 # a word or none
	why=$("$PROGRAM" create -d "$DIRECTORY/$PORT" -u "$UUID" --block-size "$BLOCK_SIZE" --extent-size "$EXTENT_BLOCKS" \
		--extent-count "$EXTENTS" $sealed 2>&1 >/dev/null) ||
		give_up 74 "$PROGRAM create: $(printf '%s' "$why" | tail -n 1)"
	if has_systemd; then
		start_unit
	else
		start_plain
	fi
}

UNDO() {
	lock
	! is_unfinished || take_away
}

# Done already if there is none.
REMOVE() {
	lock
	[ -e "$DIRECTORY/$PORT" ] || [ -e "$DIRECTORY/$PORT.volume" ] || exit 0
	[ "$(mark_of "$PORT" volume)" = "$VOLUME" ] ||
		give_up 75 "$DIRECTORY/$PORT: not made for $VOLUME: left where it is"
	take_away
}

READY() {
	lock
	[ "$(mark_of "$PORT" volume)" = "$VOLUME" ] || give_up 66 "$DIRECTORY/$PORT: is gone"
	write_mark ready
}

# Addresses of clients that are connected to the port of a downstairs, wherever its region lies.
CLIENTS() {
	ss -Htn state established "( sport = :$PORT )" | awk '{ print $4 }'
}
