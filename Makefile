# Page host virtual assist: see README.md and HACKING.md.  Every target is a
# thin wrapper of a script; nothing that is up to date is done again.

.DEFAULT_GOAL := help
.PHONY: help run check bench torture stress-host shell setup tree refresh series check-series qemu kernel guest clean

export DIR DISK_MIB LINUX_SRC QEMU_SRC JOBS FORCE BUILD DISCARD CPUS MEM APPEND MINUTES

help:
	@echo 'make run [DIR=path]  everything from nothing: set up, build, boot a guest, read the files in DIR,'
	@echo '                     let the host drop the page cache, read them again, compare'
	@echo 'make check           all tests (T=name: only those whose name contains it)'
	@echo 'make stress-host     QEMU, 4 guest CPUs and a reclaimer for minutes: migration, snapshots (S=180: seconds each)'
	@echo 'make check-debug     the kselftests on a kernel with lockdep, DEBUG_VM, ...'
	@echo 'make check-sanitizers  the kselftests under KASAN and KCSAN, QEMU under ASan, UBSan and TSan'
	@echo "make check-kselftests  the kernel's own selftests, with the option off and with dropped pages: any worse?"
	@echo 'make check-hooks     which test notices when a hook of the kernel series is taken out?'
	@echo 'make check-controls  do the tests of the host notice what is taken out of QEMU?'
	@echo 'make check-plain     does the series go onto a kernel.org tree?'
	@echo 'make bench           measurements: instructions per operation and of MADV_FREE, coverage, an idle guest (B=ops: one)'
	@echo 'make torture         real programs on ext4, xfs and btrfs while the host drops blocks (MINUTES=10)'
	@echo 'make shell           an interactive guest (ends with poweroff or C-a x)'
	@echo
	@echo 'make setup           packages and pinned sources     (LINUX_SRC=, QEMU_SRC=: bring your own)'
	@echo 'make qemu kernel guest    the parts: build/out/qemu-system-s390x, bzImage, bzImage-off, guest image'
	@echo 'make tree            build/tree/{linux,qemu}: one commit per patch'
	@echo 'make refresh         those commits back into new files and patches/'
	@echo 'make series          build/series/*.mbox, to be sent upstream'
	@echo 'make check-series    is the series in order?  BUILD=1: build every step'
	@echo 'make clean           remove what was built; keeps downloads and worktrees'

setup:
	@scripts/setup

# The worktrees as patches and overlay say, unless somebody works in them
sources: setup
	@scripts/series ensure
.PHONY: sources

qemu: sources
	@scripts/qemu
kernel: sources
	@scripts/kernel on
	@scripts/kernel off
kernel-on: sources
	@scripts/kernel on
.PHONY: kernel-on
guest: sources
	@scripts/guest

run: qemu kernel-on guest
	@scripts/run
stress-host: qemu
	@scripts/qemu-host-tests $(or $(S),180) reclaim migrate migrate_paging snapshot snapshot_paging hostile
bench: qemu kernel guest
	@bench/run $(B)
torture: qemu kernel-on guest
	@scripts/torture
shell: qemu kernel-on guest
	@scripts/run --shell
check: qemu kernel-on guest
	@tests/run $(T)
check-debug: qemu guest
	@scripts/kernel on debug
	@scripts/kernel on small
	@tests/run debug.
check-sanitizers: qemu guest
	@scripts/qemu sanitize
	@scripts/qemu tsan
	@scripts/kernel on kasan
	@scripts/kernel on kcsan
	@tests/run sanitizers.
check-kselftests: qemu kernel guest
	@tests/kselftests $(T)
check-hooks: qemu guest
	@tests/hooks $(T)
check-controls: qemu
	@tests/host-controls $(T)
check-plain: qemu guest
	@tests/plain-kernel
.PHONY: check-debug check-sanitizers check-kselftests check-hooks check-controls check-plain

tree: setup
	@scripts/series tree
refresh:
	@scripts/series refresh
series: sources
	@scripts/series mbox
check-series: sources
	@scripts/series check
	@[ -z "$(BUILD)" ] || tests/same-object arm64 riscv

clean:
	rm -rf build/obj build/out build/stamp build/check build/series build/guest
