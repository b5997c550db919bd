# Shared by the scripts of this directory (bash).  Sourced, not run.
# shellcheck shell=bash disable=SC2034

set -euo pipefail
export LC_ALL=C.UTF-8
umask 022

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$TOP/build
JOBS=${JOBS:-$(nproc)}
CROSS=s390x-linux-gnu-
# Nothing is preprocessed twice: saves an eighth of a first build
export CCACHE_DEPEND=1
# The distribution's interpreter: what setup installs modules for
PYTHON=/usr/bin/python3
# shellcheck source=../sources.mk
source "$TOP/sources.mk"

say()  { printf '== %s\n' "$*"; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }

# Run a long command with its output in a log file; say what it is, how long
# it may take, and every half minute how far it is.
#   step "what (how long)" LOG command...
step() {
	local what=$1 log=$BUILD/log/$2 start=$SECONDS pid rc=0 ticker
	shift 2
	mkdir -p "$BUILD/log"
	say "$what"
	set -m	# a process group of its own, to be stopped as a whole
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	(
		trap 'kill "$nap" 2>/dev/null; exit' TERM
		# Not longer than the command, should this shell be killed
		while sleep 30 & nap=$!; wait "$nap" && kill -0 "$pid" 2>/dev/null; do
			printf '   %3d s: %s\n' $((SECONDS - start)) \
				"$(tail -n 1 "$log" | tr -d '\r' | cut -c 1-100)"
		done
	) &
	ticker=$!
	# shellcheck disable=SC2064
	trap "kill -- -$pid $ticker 2>/dev/null" EXIT
	wait "$pid" || rc=$?
	kill "$ticker" 2>/dev/null || true
	wait "$ticker" 2>/dev/null || true
	trap - EXIT
	if [ $rc -ne 0 ]; then
		tail -n 15 "$log" | sed 's/^/   | /' >&2
		if grep -qi 'no space left on device' "$log"; then
			die "no space left on device while: ${what% (*} (log: build/log/${log##*/})"
		fi
		die "failed: ${what% (*} (log: build/log/${log##*/})"
	fi
	printf '   done in %d s\n' $((SECONDS - start))
}

# need_space MIB WHAT: stop before, not in the middle
need_space() {
	local have
	mkdir -p "$BUILD"
	have=$(df --output=avail -m "$BUILD" | tail -n 1 | tr -d ' ')
	[ "$have" -ge "$1" ] ||
		die "no space: $2 needs $1 MiB in build/, $have MiB are free"
}

# One user of a build directory at a time.  lock NAME (held until exit)
lock() {
	local fd
	mkdir -p "$BUILD/lock"
	exec {fd}>"$BUILD/lock/$1"
	flock -n "$fd" && return
	say "waiting for another build of $1 to end"
	flock "$fd"
}

# The content of a source tree, uncommitted edits included, as one hash: the
# tree object git would commit.  The user's own index is not touched.
tree_hash() {
	local index
	index=$(mktemp)
	cp "$(git -C "$1" rev-parse --absolute-git-dir)/index" "$index"
	GIT_INDEX_FILE=$index git -C "$1" add -A
	GIT_INDEX_FILE=$index git -C "$1" write-tree
	rm -f "$index"
}

# Stamps: a step whose inputs have this key was completed.
stamp_is()  { [ -f "$BUILD/stamp/$1" ] && [ "$(cat "$BUILD/stamp/$1")" = "$2" ]; }
stamp_set() { mkdir -p "$BUILD/stamp"; echo "$2" >"$BUILD/stamp/$1.new"; mv "$BUILD/stamp/$1.new" "$BUILD/stamp/$1"; }
key() { sha256sum | cut -c 1-40; }
