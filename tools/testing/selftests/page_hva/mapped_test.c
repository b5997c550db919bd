// SPDX-License-Identifier: GPL-2.0
/*
 * page_hva=mapped: pages become volatile while they are mapped, and the host
 * has dropped them under the mapping. Whoever comes to such a page next by way
 * of the page table, the process or the kernel for it, must see its content.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#define FILE_SIZE	MIB(1)
#define NR_PAGES	((long)(FILE_SIZE / hva_page))
/* What must be dropped for a test to mean something */
#define MOST		(NR_PAGES / 32 * 31)

static int fd;
static char *want, *buf, *map;
static long discarded;

FIXTURE(mapped) {
};

/* Both are read-only in the page table, one may be written to (and copied) */
FIXTURE_VARIANT(mapped) {
	int prot, flags;
};

FIXTURE_VARIANT_ADD(mapped, private) {
	.prot = PROT_READ | PROT_WRITE,
	.flags = MAP_PRIVATE,
};

FIXTURE_VARIANT_ADD(mapped, shared) {
	.prot = PROT_READ,
	.flags = MAP_SHARED,
};

static long wrong_pages(const char *p)
{
	long wrong = 0;
	size_t off;

	for (off = 0; off < FILE_SIZE; off += hva_page)
		wrong += !!memcmp(p + off, want + off, hva_page);
	return wrong;
}

static void touch_all(void)
{
	hva_touch_all(map, FILE_SIZE);
}

static long faults(bool major)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return major ? usage.ru_majflt : usage.ru_minflt;
}

/* All pages of the mapping present, and dropped by the host */
static void drop_under_mapping(struct __test_metadata *_metadata)
{
	ASSERT_GE(hva_discard_mapped(hva_touch_all, map, FILE_SIZE), MOST);
	discarded = hva_count("hva_discarded");
}

/* How many of them have been found dropped? */
static long met(void)
{
	return hva_count("hva_discarded") - discarded;
}

FIXTURE_SETUP(mapped)
{
	const char *why = hva_begin(true);
	int flags = variant->flags == MAP_SHARED ? O_RDONLY : O_RDWR;

	if (!why && !hva_stays_mapped())
		why = "pages are unmapped first: boot with page_hva=mapped";
	if (why)
		SKIP(return, "%s", why);
	want = malloc(FILE_SIZE);
	buf = malloc(FILE_SIZE);
	hva_fill(want, FILE_SIZE, 1, 0);
	close(hva_create("file", FILE_SIZE, 1));
	fd = open(hva_path("file"), flags);
	map = mmap(NULL, FILE_SIZE, variant->prot, variant->flags, fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	madvise(map, FILE_SIZE, MADV_RANDOM);
	drop_under_mapping(_metadata);
}

FIXTURE_TEARDOWN(mapped)
{
	EXPECT_EQ(wrong_pages(map), 0);
	munmap(map, FILE_SIZE);
	close(fd);
	hva_end();
}

TEST_F_TIMEOUT(mapped, pages_stay_mapped, HVA_TIMEOUT)
{
	long volatile_before, mapped_before, unmapped;

	touch_all();
	volatile_before = hva_count("hva_volatile");
	mapped_before = hva_count("hva_mapped");
	unmapped = hva_count("hva_unmapped");
	hva_offer();
	EXPECT_GE(hva_count("hva_mapped") - mapped_before, NR_PAGES);
	EXPECT_LE(hva_count("hva_mapped") - mapped_before,
		  hva_count("hva_volatile") - volatile_before);
	EXPECT_LE(hva_count("hva_unmapped") - unmapped, HVA_NOISE);
}

TEST_F_TIMEOUT(mapped, touch_is_a_major_fault, HVA_TIMEOUT)
{
	long major = faults(true), discard = hva_count("hva_fault");

	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_GE(hva_count("hva_fault") - discard, NR_PAGES / 16);
	EXPECT_GE(faults(true) - major, NR_PAGES / 16);
	/* Control: what is there costs none */
	major = faults(true);
	discard = hva_count("hva_fault");
	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_LE(hva_count("hva_fault") - discard, HVA_NOISE);
	EXPECT_LE(faults(true) - major, 1);
}

TEST_F_TIMEOUT(mapped, copied_by_a_system_call, HVA_TIMEOUT)
{
	int out = open(hva_path("out"), O_RDWR | O_CREAT, 0600);

	ASSERT_EQ(pwrite(out, map, FILE_SIZE, 0), FILE_SIZE);
	ASSERT_EQ(pread(out, buf, FILE_SIZE, 0), FILE_SIZE);
	EXPECT_EQ(wrong_pages(buf), 0);
	close(out);
}

TEST_F_TIMEOUT(mapped, name_in_a_discarded_page, HVA_TIMEOUT)
{
	/* strncpy_from_user(): there is no such file, but no EFAULT either */
	EXPECT_EQ(access(map, F_OK), -1);
	EXPECT_NE(errno, EFAULT);
	EXPECT_GE(met(), 1);
}

TEST_F_TIMEOUT(mapped, get_user_pages, HVA_TIMEOUT)
{
	struct iovec local = { buf, FILE_SIZE };
	struct iovec remote = { map, FILE_SIZE };

	ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0),
		  FILE_SIZE);
	EXPECT_EQ(wrong_pages(buf), 0);
}

TEST_F_TIMEOUT(mapped, get_user_pages_fast, HVA_TIMEOUT)
{
	int out = open(hva_path("out"), O_RDWR | O_CREAT | O_DIRECT, 0600);

	if (out < 0 && errno == EINVAL)
		SKIP(return, "no direct I/O here");
	ASSERT_EQ(pwrite(out, map, FILE_SIZE, 0), FILE_SIZE);
	close(out);
	out = open(hva_path("out"), O_RDONLY);
	ASSERT_EQ(pread(out, buf, FILE_SIZE, 0), FILE_SIZE);
	EXPECT_EQ(wrong_pages(buf), 0);
	close(out);
}

TEST_F_TIMEOUT(mapped, vmsplice, HVA_TIMEOUT)
{
	struct iovec iov;
	size_t off;
	int pipes[2];

	ASSERT_EQ(pipe(pipes), 0);
	for (off = 0; off < FILE_SIZE; off += hva_page) {
		iov = (struct iovec) { map + off, hva_page };
		ASSERT_EQ(vmsplice(pipes[1], &iov, 1, 0), hva_page);
		ASSERT_EQ(read(pipes[0], buf + off, hva_page), hva_page);
	}
	EXPECT_GE(met(), MOST);
	EXPECT_EQ(wrong_pages(buf), 0);
}

TEST_F_TIMEOUT(mapped, futex, HVA_TIMEOUT)
{
	/* Another value: EAGAIN at once, not EFAULT, and no loop */
	EXPECT_EQ(syscall(SYS_futex, map, FUTEX_WAIT, *(int *)want + 1, NULL),
		  -1);
	EXPECT_EQ(errno, EAGAIN);
	if (!(variant->prot & PROT_WRITE))
		return;
	EXPECT_EQ(syscall(SYS_futex, buf, FUTEX_WAKE_OP_PRIVATE, 0, 0,
			  map + hva_page,
			  FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0)), 0);
	*(int *)(want + hva_page) += 1;
}

TEST_F_TIMEOUT(mapped, first_store_to_a_private_page, HVA_TIMEOUT)
{
	size_t off;

	if (!(variant->prot & PROT_WRITE))
		SKIP(return, "not for a read-only mapping");
	for (off = 0; off < FILE_SIZE; off += hva_page) {
		want[off + 9] ^= 0xff;
		/* Not a load before it, which would bring the page back */
		map[off + 9] = want[off + 9];
	}
	EXPECT_EQ(wrong_pages(map), 0);
}

TEST_F_TIMEOUT(mapped, read_into_private_pages, HVA_TIMEOUT)
{
	int zero = open("/dev/zero", O_RDONLY);

	if (!(variant->prot & PROT_WRITE))
		SKIP(return, "not for a read-only mapping");
	/* copy_to_user(): the second half of each page keeps its content */
	for (size_t off = 0; off < FILE_SIZE; off += hva_page) {
		ASSERT_EQ(read(zero, map + off, hva_page / 2), hva_page / 2);
		memset(want + off, 0, hva_page / 2);
	}
	EXPECT_EQ(wrong_pages(map), 0);
}

TEST_F_TIMEOUT(mapped, stores_of_a_debugger, HVA_TIMEOUT)
{
	int mem = open("/proc/self/mem", O_RDWR);

	if (!(variant->prot & PROT_WRITE))
		SKIP(return, "not for a read-only mapping");
	ASSERT_EQ(mprotect(map, FILE_SIZE, PROT_READ), 0);
	ASSERT_EQ(pwrite(mem, "debugger", 8, (off_t)map + 5000), 8);
	memcpy(want + 5000, "debugger", 8);
	EXPECT_EQ(wrong_pages(map), 0);
}

TEST_F_TIMEOUT(mapped, child_of_a_fork, HVA_TIMEOUT)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(wrong_pages(map) != 0);
	EXPECT_EQ(wrong_pages(map), 0);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	EXPECT_EQ(status, 0);
	EXPECT_GE(met(), MOST);
}

TEST_F_TIMEOUT(mapped, protected_and_moved, HVA_TIMEOUT)
{
	ASSERT_EQ(mprotect(map, FILE_SIZE, PROT_NONE), 0);
	ASSERT_EQ(mprotect(map, FILE_SIZE, variant->prot), 0);
	map = mremap(map, FILE_SIZE, FILE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     mmap(NULL, FILE_SIZE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ASSERT_NE(map, MAP_FAILED);
	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_GE(met(), MOST);
}

TEST_F_TIMEOUT(mapped, mlock_brings_it_back_for_good, HVA_TIMEOUT)
{
	long major;

	ASSERT_EQ(mlock(map, FILE_SIZE), 0);
	hva_discard();
	major = faults(true) + faults(false);
	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_LE(faults(true) + faults(false) - major, 2);
	ASSERT_EQ(munlock(map, FILE_SIZE), 0);
}

/* Nobody populates the range: what is volatile is made stable because it is locked */
TEST_F_TIMEOUT(mapped, mlock_on_fault, HVA_TIMEOUT)
{
	long stable, discarded, fault;
	struct hva_states s;

	touch_all();
	hva_offer();
	hva_states_read(&s);
	stable = hva_count("hva_stable");
	discarded = hva_count("hva_discarded");
	ASSERT_EQ(syscall(SYS_mlock2, map, FILE_SIZE, MLOCK_ONFAULT), 0);
	stable = hva_count("hva_stable") - stable;
	discarded = hva_count("hva_discarded") - discarded;
	ksft_print_msg("%ld stable, %ld discarded, %ld were volatile\n", stable,
		       discarded, s.vol.resident);
	EXPECT_GE(stable + discarded, NR_PAGES / 32 * 31);
	hva_host_reclaim();
	fault = hva_count("hva_fault");
	EXPECT_EQ(wrong_pages(map), 0);
	/* A host that waits for demand came too late, others before mlock() */
	EXPECT_LE(hva_count("hva_fault") - fault, NR_PAGES - stable);

	/* For good, whatever was the case before */
	fault = hva_count("hva_refused_mlocked");
	hva_discard();
	EXPECT_GE(hva_count("hva_refused_mlocked") - fault, NR_PAGES);
	fault = hva_count("hva_fault");
	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_EQ(hva_count("hva_fault"), fault);
	ASSERT_EQ(munlock(map, FILE_SIZE), 0);
}

TEST_F_TIMEOUT(mapped, read_or_written_by_file_first, HVA_TIMEOUT)
{
	int rw = open(hva_path("file"), O_RDWR);

	EXPECT_EQ(hva_check(rw, FILE_SIZE, 1), 0);
	EXPECT_EQ(wrong_pages(map), 0);
	drop_under_mapping(_metadata);
	/* Part of one page, all of another */
	hva_fill(want + 100, 50, 2, 100);
	ASSERT_EQ(pwrite(rw, want + 100, 50, 100), 50);
	hva_fill(want + 4 * hva_page, hva_page, 2, 4 * hva_page);
	ASSERT_EQ(pwrite(rw, want + 4 * hva_page, hva_page, 4 * hva_page),
		  hva_page);
	EXPECT_EQ(wrong_pages(map), 0);
	ASSERT_EQ(fsync(rw), 0);
	drop_under_mapping(_metadata);
	EXPECT_EQ(wrong_pages(map), 0);
	close(rw);
}

TEST_F_TIMEOUT(mapped, shared_writable_mapping_comes_later, HVA_TIMEOUT)
{
	int rw = open(hva_path("file"), O_RDWR);
	char *wmap = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  rw, 0);
	size_t off;

	ASSERT_NE(wmap, MAP_FAILED);
	for (off = 0; off < FILE_SIZE; off += 2 * hva_page) {
		wmap[off + 3] ^= 0xff;
		want[off + 3] ^= 0xff;
	}
	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_EQ(wrong_pages(wmap), 0);
	munmap(wmap, FILE_SIZE);
	ASSERT_EQ(fsync(rw), 0);
	drop_under_mapping(_metadata);
	EXPECT_EQ(wrong_pages(map), 0);
	close(rw);
}

TEST_F_TIMEOUT(mapped, truncated_in_a_page, HVA_TIMEOUT)
{
	size_t cut = 8 * hva_page + 77;

	ASSERT_EQ(truncate(hva_path("file"), cut), 0);
	ASSERT_EQ(truncate(hva_path("file"), FILE_SIZE), 0);
	memset(want + cut, 0, FILE_SIZE - cut);
	EXPECT_EQ(wrong_pages(map), 0);
	EXPECT_GE(met(), cut / hva_page);
}

/* A lookup that does not read must not leave zeros to those who have it mapped */
TEST_F_TIMEOUT(mapped, found_but_not_read, HVA_TIMEOUT)
{
	struct iovec iov = { buf, hva_page };
	size_t off;

	for (off = 0; off < FILE_SIZE; off += hva_page) {
		if (preadv2(fd, &iov, 1, off, RWF_NOWAIT) < 0) {
			ASSERT_EQ(errno, EAGAIN);
			continue;
		}
		EXPECT_EQ(memcmp(buf, want + off, hva_page), 0);
	}
	EXPECT_EQ(wrong_pages(map), 0);
}

/*
 * Compaction moves pages towards the end of memory, into the holes that others
 * leave: read a file page by page, which gives small folios on every file
 * system, drop five of eight pages, let it move the rest, and look.
 */
static size_t wrong_after_compaction(const char *name, long *unmapped)
{
	size_t size = MIB(16), off, wrong = 0;
	char *page;
	int holes;

	close(hva_create(name, size, 3));
	holes = open(hva_path(name), O_RDONLY);
	posix_fadvise(holes, 0, 0, POSIX_FADV_DONTNEED);
	hva_take_memory();
	page = mmap(NULL, size, PROT_READ, MAP_SHARED, holes, 0);
	if (page == MAP_FAILED)
		hva_die("mmap");
	madvise(page, size, MADV_RANDOM);
	for (off = 0; off < size; off += hva_page)
		hva_touch(page + off);
	for (off = 0; off < size; off += 8 * hva_page) {
		madvise(page + off, 5 * hva_page, MADV_DONTNEED);
		posix_fadvise(holes, off, 5 * hva_page, POSIX_FADV_DONTNEED);
	}
	hva_discard();
	/* Whoever wants to move a dropped page unmaps it */
	*unmapped += hva_present(page, size, NULL);
	hva_compact();
	*unmapped -= hva_present(page, size, NULL);
	ksft_print_msg("%ld dropped pages unmapped\n", *unmapped);
	for (off = 5 * hva_page; off < size; off += 8 * hva_page) {
		hva_fill(buf, 3 * hva_page, 3, off);
		wrong += memcmp(page + off, buf, 3 * hva_page) != 0;
	}
	munmap(page, size);
	close(holes);
	return wrong;
}

TEST_F_TIMEOUT(mapped, migrated, HVA_TIMEOUT)
{
	long unmapped = 0;
	char name[16];
	int i;

	/* Where pages are is a matter of luck */
	for (i = 0; i < 4 && unmapped < NR_PAGES; i++) {
		snprintf(name, sizeof(name), "holes%d", i);
		EXPECT_EQ(wrong_after_compaction(name, &unmapped), 0);
	}
	EXPECT_GE(unmapped, NR_PAGES);
}

/* All at once: one refills, the others wait or take another fault */
TEST_F_TIMEOUT(mapped, by_many_at_once, HVA_TIMEOUT)
{
	pid_t child[8];
	int i, round, status;

	for (i = 0; i < 8; i++) {
		child[i] = fork();
		if (child[i])
			continue;
		for (round = 0; round < 6; round++) {
			if (wrong_pages(map))
				_exit(1);
			if (i == 0)
				hva_discard();
		}
		_exit(0);
	}
	for (i = 0; i < 8; i++) {
		ASSERT_EQ(waitpid(child[i], &status, 0), child[i]);
		EXPECT_EQ(status, 0);
	}
	EXPECT_GE(met(), 2 * MOST);
}

TEST_HARNESS_MAIN
