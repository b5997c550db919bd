# A tree of files, copied, packed, unpacked; always the same checksum
sum() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum); }
want=$(sum /torture/tree) || exit 1
while more; do
	rm -rf copy new pack.tar
	cp -a /torture/tree copy || exit 1
	tar -cf pack.tar -C copy . || exit 1
	sleep 5
	mkdir new && tar -xf pack.tar -C new || exit 1
	for dir in copy new /torture/tree; do
		is=$(sum $dir) || exit 1
		[ "$is" = "$want" ] || wrong "$dir has other bytes"
	done
	count 3
done
