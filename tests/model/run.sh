#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Check the models, that each mistake that can be put in is found, and that what
# looks like a mistake but is none is not. As many searches at once as there are
# CPUs. TAP.
#
#	run.sh				all
#	run.sh --one MODEL [CHANGE]	one search, without a number
set -euo pipefail

models=$(cd "$(dirname "$0")" && pwd)

# In the current directory. Exit status 0: no error; 1: an error was found;
# 2: the search did not finish.
search() {	# MODEL [-DCHANGE]
	spin -a "${@:2}" "$1" >spin.log 2>&1 || { cp spin.log pan.log; return 2; }
	# Not optimized: that would take longer than the search
	gcc -DSAFETY -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c >pan.log 2>&1 || return 2
	./pan -m200000 >pan.log 2>&1 || return 2
	grep -q 'Search not completed\|max search depth too small' pan.log && ! grep -q 'errors: [1-9]' pan.log && return 2
	grep -q 'errors: 0' pan.log
}

one() {	# MODEL [CHANGE]
	local name=$1 change=${2:-} status=0 expect=0 what='the protocol holds' work
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	cd "$work"
	case $change in
	MISTAKE_*) expect=1 what="$change is found" ;;
	HARMLESS_*) what="$change is harmless" ;;
	esac
	search "$models/$name" ${change:+-D"$change"} || status=$?
	if [ $status -eq $expect ]; then
		echo "ok - $name: $what ($(awk '/states, stored/ { print $1 }' pan.log) states)"
	else
		echo "not ok - $name: $what"$'\n'"$(sed 's/^/# /' pan.log)"
	fi
}

if [ "${1:-}" = --one ]; then
	one "${@:2}"
	exit
fi

cd "$models"
# The two that take longest first
searches=$(printf '%s\n' *.pml | sort -r; grep -oE '(HARMLESS|MISTAKE)_[A-Z_]*[A-Z]' ./*.pml | sort -u | sed 's|^\./||; s/:/ /')
echo "1..$(wc -l <<<"$searches")"
xargs -P "$(nproc)" -L 1 "$models/run.sh" --one <<<"$searches" |
	awk '/^(not )?ok - / { n++; sub(/ok -/, "ok " n " -"); bad += /^not/ } { print; fflush() } END { exit bad != 0 }'
