# Written once and verified by header and checksum, buffered, mapped and direct
while more; do
	fio --output=fio.log --directory=. --size=24m --verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 \
		--group_reporting --name=buffered --rw=randwrite --bs=4k-64k --bsrange=4k-64k \
		--name=mapped --ioengine=mmap --rw=randwrite --bs=4k \
		--name=uring --ioengine=io_uring --iodepth=8 --rw=write --bs=16k \
		--name=direct --ioengine=psync --direct=1 --rw=randwrite --bs=4k || { cat fio.log >&2; exit 1; }
	sleep 6		# cold, perhaps gone
	fio --output=fio.log --directory=. --size=24m --verify=crc32c --verify_fatal=1 --verify_only \
		--group_reporting --name=buffered --rw=randwrite --bs=4k-64k --bsrange=4k-64k \
		--name=mapped --ioengine=psync --rw=randwrite --bs=4k \
		--name=uring --ioengine=mmap --rw=write --bs=16k || { cat fio.log >&2; exit 1; }
	count 4
	rm -f buffered* mapped* uring* direct*
done
