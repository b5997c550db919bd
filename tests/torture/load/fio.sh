# Written once and verified by header and checksum, buffered, mapped and direct
failed() {
	grep -q 'verify:' fio.log && wrong "$(cat fio.log)"
	cat fio.log >&2
	exit 1
}
# All four have ended well: a job that dies by a signal is no error to fio
all() { [ "$(grep -c 'err= 0' fio.log)" = "$1" ] && ! grep -q 'got signal' fio.log; }
size=24m
short && size=8m
while more; do
	rm -f buffered* mapped* uring* direct*
	fio --output=fio.log --directory=. --size=$size --verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 \
		--name=buffered --rw=randwrite --bs=4k-64k --bsrange=4k-64k \
		--name=mapped --ioengine=mmap --rw=randwrite --bs=4k \
		--name=uring --ioengine=io_uring --iodepth=8 --rw=write --bs=16k \
		--name=direct --ioengine=psync --direct=1 --rw=randwrite --bs=4k && all 4 || failed
	sleep 6		# cold, perhaps gone
	fio --output=fio.log --directory=. --size=$size --verify=crc32c --verify_fatal=1 --verify_only \
		--name=buffered --rw=randwrite --bs=4k-64k --bsrange=4k-64k \
		--name=mapped --ioengine=psync --rw=randwrite --bs=4k \
		--name=uring --ioengine=mmap --rw=write --bs=16k && all 3 || failed
	count 4
done
