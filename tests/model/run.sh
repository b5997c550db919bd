#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Check the models, that each mistake that can be put in is found, by the assertion
# that its model names, and that what looks like a mistake but is none is not. As
# many searches at once as there are CPUs. TAP.
#
#	run.sh				all but the last kind
#	run.sh --harmless		the last kind
#	run.sh --one MODEL [CHANGE]	one search, without a number
#	run.sh --names			are the functions that the models name in the tree?
#	run.sh --deep [SECONDS]		each model with PASSES=2: time and states; not a test
set -euo pipefail

models=$(cd "$(dirname "$0")" && pwd)
linux=$models/../../build/tree/linux

# In the current directory. Exit status 0: no error; 1: an error was found;
# 2: the search did not finish.
search() {	# MODEL [-DCHANGE]
	spin -a "${@:2}" "$1" >spin.log 2>&1 || { cp spin.log pan.log; return 2; }
	# To optimize takes longer than what it saves
	gcc -O0 -DSAFETY -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c >pan.log 2>&1 || return 2
	./pan -m200000 >pan.log 2>&1 || return 2
	grep -q 'Search not completed\|max search depth too small' pan.log && ! grep -q 'errors: [1-9]' pan.log && return 2
	grep -q 'errors: 0' pan.log
}

# What the search has found, as it is in the model
found() {	# MODEL [-DCHANGE]
	if grep -q 'pan:1: invalid end state' pan.log; then
		echo 'invalid end state'
	else
		spin -k "$(basename "$1").trail" -t "${@:2}" "$1" 2>&1 | sed -n 's/^spin: text of failed assertion: //p'
	fi
}

one() {	# MODEL [CHANGE]
	local name=$1 change=${2:-} status=0 expect=0 what='the protocol holds' work kind='' error=''
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	cd "$work"
	case $change in
	MISTAKE_*) expect=1 what="$change is found"
		kind=$(sed -n "s/^ \*	$change	*//p" "$models/$name")
		what+=" (${kind:-no kind is named})" ;;
	HARMLESS_*) what="$change is harmless" ;;
	esac
	search "$models/$name" ${change:+-D"$change"} || status=$?
	[ $status -ne 1 ] || error=$(found "$models/$name" ${change:+-D"$change"})
	if [ $status -eq $expect ] && { [ $status -eq 0 ] || { [ "$kind" ] && [[ ${error//[() ]/} = *"${kind//[() ]/}"* ]]; }; }; then
		echo "ok - $name: $what ($(awk '/states, stored/ { print $1 }' pan.log) states)"
	else
		echo "not ok - $name: $what"$'\n'"# found: $error"$'\n'"$(sed 's/^/# /' pan.log)"
	fi
}

# A name in a comment that is gone from the kernel says that the model is out of date.
names() {
	local name missing=() count=0
	if [ ! -d "$linux/mm" ]; then
		echo 'ok - names of functions # SKIP no kernel tree'
		return
	fi
	while read -r name; do
		count=$((count + 1))
		grep -qrwF "$name" "$linux"/mm/*.[ch] "$linux/include/linux/page_hva.h" \
			"$linux/arch/s390/mm" "$linux/arch/s390/include/asm" || missing+=("$name")
	done < <(sed -n 's|.*/\*||p; /^ \*/p' "$models"/*.pml | grep -oE '\b[a-z_][a-z0-9_]*\(\)' | tr -d '()' | sort -u |
		grep -vxE 'mprotect|mremap|fork|mlock|exit|read|write|assert')
	if [ ${#missing[@]} -eq 0 ]; then
		echo "ok - the $count functions that the models name are in the kernel"
	else
		echo 'not ok - functions that the models name are in the kernel'
		printf '# %s()\n' "${missing[@]}"
	fi
}

deep() {	# [SECONDS]
	local model work start limit=${1:-600}
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	cd "$work"
	for model in "$models"/*.pml; do
		spin -a -DPASSES=2 "$model" >spin.log
		gcc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=3900 -o pan pan.c
		start=$SECONDS
		timeout "$limit" ./pan -m400000 >pan.log 2>&1 || true
		echo "$(basename "$model"): $((SECONDS - start)) s," \
			"$(grep -o 'errors: [0-9]*' pan.log || echo "no end in $limit s")," \
			"$(awk '/states, stored/ { print $1 }' pan.log) states" \
			"$(grep -o -m1 'Search not completed' pan.log || true)"
	done
}

case ${1:-} in
--one) one "${@:2}"; exit ;;
--names) names; exit ;;
--deep) deep "${@:2}"; exit ;;
esac

cd "$models"
changes() { grep -oE "$1_[A-Z_]*[A-Z]" ./*.pml | sort -u | sed 's|^\./||; s/:/ /; s/^/--one /'; }
case ${1:-} in
--harmless) searches=$(changes HARMLESS) ;;
# Those that take longest first
*) searches=$(printf -- '--one %s\n' *.pml | sort -r; changes MISTAKE; echo --names) ;;
esac
echo "1..$(wc -l <<<"$searches")"
xargs -P "$(nproc)" -L 1 "$models/run.sh" <<<"$searches" |
	awk '/^(not )?ok - / { n++; sub(/ok -/, "ok " n " -"); bad += /^not/ } { print; fflush() } END { exit bad != 0 }'
