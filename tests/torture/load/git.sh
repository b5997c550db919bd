# A repository's checksums of everything
git clone -q --no-local /torture/repo.git work || exit 1
cd work || exit 1
while more; do
	git fsck --full --no-progress || exit 1
	count "$(git rev-list --objects --all | wc -l)"
	rm -rf ./*
	git checkout -q -f HEAD || exit 1
	sleep 5
	[ -z "$(git status --porcelain)" ] || { echo "git: files differ" >&2; git status --short | head >&2; exit 1; }
	count "$(git ls-files | wc -l)"
	more || break
	git repack -q -a -d -f --window=3 || exit 1
done
