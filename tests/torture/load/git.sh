# A repository's checksums of everything: objects, packs, and the files of many commits, all of which are hashed again
failed() { cat "$1" >&2; exit 1; }
# A git that dies by a signal has found nothing
fsck() {
	git -C "$1" fsck --full --no-progress >../fsck 2>&1 || { [ $? -gt 128 ] && failed ../fsck; wrong "$1 is damaged: $(tail -n 3 ../fsck)"; }
	objects=$(git -C "$1" rev-list --objects --all | wc -l) || exit 1
	[ "$objects" -gt 0 ] || exit 1
	count "$objects"
}
# Files against the tree object of the commit; without an index git reads every byte
compare() {
	rm -f .git/index
	git add -A -f . >../add 2>&1 || failed ../add
	is=$(git write-tree) && of=$(git rev-parse "$1^{tree}") || exit 1
	[ "$is" = "$of" ] || wrong "files differ: $(git diff --cached --stat "$1" | tail -n 3)"
	files=$(git ls-files | wc -l) || exit 1
	count "$files"
}
[ -d work ] || { rm -rf new && git clone -q --no-local /torture/repo.git new && mv new work; } || exit 1
cd work || exit 1
find .git -name '*.lock' -exec rm {} +
# The oldest, the newest, and some between
all=$(git rev-list origin/HEAD) || exit 1
turn=0
while more; do
	mapfile -t commits <<<"$all"
	commit=${commits[turn * 7 % ${#commits[@]}]}
	turn=$((turn + 1))
	git checkout -q -f --detach "$commit" || exit 1
	sleep 5
	compare "$commit"
	more || break
	fsck .
	more || break
	git -c gc.pruneExpire=now -c pack.windowMemory=8m -c pack.threads=1 gc -q --prune=now || exit 1
	more || break
	rm -rf ../clone
	git clone -q --no-local --bare . ../clone || exit 1
	a=$(git rev-list --objects HEAD | sha256sum) && b=$(git -C ../clone rev-list --objects HEAD | sha256sum) || exit 1
	[ "$a" = "$b" ] || wrong "the clone has other objects"
	fsck ../clone
done
