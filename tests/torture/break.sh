#!/bin/bash
# In the guest, in a chroot: break.sh DIR [once]
#
# The negative control: while the loads run, a byte of their files changes now
# and then, as it might by a bug. Each of them has to notice; but for stress-ng,
# whose files have no names; freed changes its memory itself. once: one byte of any file.
cd "$1" || exit 2

# A byte of a file
flip() {
	local byte
	byte=$(dd if="$1" bs=1 skip="$2" count=1 2>/dev/null | od -An -tu1) || return
	[ -n "$byte" ] || return
	# shellcheck disable=SC2059
	printf "\\$(printf '%03o' $(((byte + 85) % 256)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

if [ "${2:-}" = once ]; then
	flip "$(find . -type f -size +16k | head -n 1)" 5000
	exit
fi
while sleep 1; do
	pkill -USR1 -x freed
	flip fsx/file1 $((RANDOM % 1000))
	# May be written or gone before anybody reads it: several
	find churn/files -type f -size +8k 2>/dev/null | head -n 4 | while read -r file; do
		flip "$file" 100
	done
	for file in fio/buffered.* fio/mapped.* fio/uring.*; do
		flip "$file" 5000
	done
	flip sqlite/db 8192				# what kind of page it is
	# shellcheck disable=SC2012
	flip "postgres/$(cd postgres && ls -S data/base/*/* 2>/dev/null | head -n 1)" 12000
	flip git/work/mm/filemap.c 100
	flip tree/copy/mm/filemap.c 100
	for file in build/source/want/*.out build/source/*.c.first build/source/conf/*.c.first; do
		flip "$file" 200
	done
done
