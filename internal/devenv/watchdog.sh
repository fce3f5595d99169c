# Runs beside every service, as its user, in a session of its own. Creates the
# service's directory, then reads "+ PID" and "- PID" lines about the processes
# that run in it. When standard input ends, because the program closed it or is
# gone, stops what still runs and removes the directory.
#
# arguments: directory, signal that stops a process cleanly
dir=$1 stop=$2 pids=

trap '' HUP INT TERM
umask 077
mkdir "$dir" || exit 1
echo ready
exec >/dev/null 2>&1

while read -r op pid; do
	case $op in
	+) pids="$pids $pid" ;;
	-)
		left=
		for p in $pids; do [ "$p" = "$pid" ] || left="$left $p"; done
		pids=$left
		;;
	esac
done

running() {
	for p in $pids; do kill -0 "$p" && return 0; done
	return 1
}

# A process that somebody froze takes the signal when it goes on.
for p in $pids; do kill -"$stop" "$p"; kill -CONT "$p"; done
tries=0
while running && [ $tries -lt 80 ]; do
	sleep 0.1
	tries=$((tries + 1))
done
for p in $pids; do kill -KILL "-$p"; done
# A killed process is still there for a moment.
groups() {
	for p in $pids; do kill -0 "-$p" && return 0; done
	return 1
}
tries=0
while groups && [ $tries -lt 20 ]; do
	sleep 0.1
	tries=$((tries + 1))
done

# A postmaster that was killed leaves a System V segment of a few bytes, named
# in the seventh line of its pid file.
if [ -f "$dir/data/postmaster.pid" ]; then
	segment=$(sed -n '7s/.* //p' "$dir/data/postmaster.pid")
	[ -n "$segment" ] && ipcrm -m "$segment"
fi

# Children of a killed process may still be writing for a moment.
tries=0
until rm -rf "$dir" || [ $tries -ge 50 ]; do
	sleep 0.1
	tries=$((tries + 1))
done
