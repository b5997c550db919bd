# stress-ng checks what it writes; anonymous memory takes what there is
while more; do
	rm -rf tmp-stress-ng-*
	stress-ng --quiet --verify --timeout 20 --temp-path . --oomable \
		--vm 1 --vm-bytes 96m --vm-keep --mmap 1 --mmap-bytes 48m --mmap-file --hdd 1 --hdd-bytes 24m \
		--fork 1 --madvise 1 --msync 1 --readahead 1 --sendfile 1 --splice 1 || exit 1
	count 1
done
