// SPDX-License-Identifier: GPL-2.0
/*
 * What is offered to the host and what is not, and whether the counters and
 * the table of states tell the truth about it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#define FILE_SIZE	MIB(8)
#define PAGES		((long)(FILE_SIZE / hva_page))
/* A page may be in use for a moment; hundreds are not */
#define MOST(n)		((n) / 32 * 31)

/* How many pages of a file are volatile?  None is afterwards. */
static long volatile_pages(int fd)
{
	long before = hva_lookups();

	hva_read(fd, FILE_SIZE);
	return hva_lookups() - before;
}

static char *map_file(int fd, int prot, int flags)
{
	char *map = mmap(NULL, FILE_SIZE, prot, flags, fd, 0);

	if (map == MAP_FAILED)
		hva_die("mmap");
	return map;
}

static void touch(const char *map)
{
	size_t off;

	for (off = 0; off < FILE_SIZE; off += hva_page)
		hva_touch(map + off);
}

FIXTURE(offer) {
	char writeback[32], expire[32];
};

#define VM_WRITEBACK	"/proc/sys/vm/dirty_writeback_centisecs"
#define VM_EXPIRE	"/proc/sys/vm/dirty_expire_centisecs"

FIXTURE_SETUP(offer)
{
	const char *why = hva_begin(false);

	if (why)
		SKIP(return, "%s", why);
	/* What is dirty stays dirty until the test says otherwise */
	if (!hva_get(VM_WRITEBACK, self->writeback, sizeof(self->writeback)) ||
	    !hva_get(VM_EXPIRE, self->expire, sizeof(self->expire)) ||
	    !hva_put(VM_WRITEBACK, "0") || !hva_put(VM_EXPIRE, "360000"))
		hva_die("cannot stop writeback");
	/* What others left behind changes its state now and not later */
	sync();
	hva_offer();
}

FIXTURE_TEARDOWN(offer)
{
	hva_put(VM_WRITEBACK, self->writeback);
	hva_put(VM_EXPIRE, self->expire);
	hva_end();
}

TEST_F_TIMEOUT(offer, written_pages_are_volatile_after_two_scans, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	long made;

	made = hva_count("hva_volatile");
	hva_scan(2);
	made = hva_count("hva_volatile") - made;
	EXPECT_GE(made, MOST(PAGES));

	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	/* ... and having been looked up, not any more */
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
}

/* How many pages have buffer heads, or what else their file system keeps there */
static long private_pages(const unsigned long *pfn, long nr)
{
	int flags = open("/proc/kpageflags", O_RDONLY);
	const int private = 35;	/* KPF_PRIVATE */
	long i, n = 0;
	uint64_t word;

	for (i = 0; i < nr; i++) {
		if (pread(flags, &word, 8, pfn[i] * 8) != 8)
			hva_die("/proc/kpageflags");
		n += word >> private & 1;
	}
	close(flags);
	return n;
}

/* Who has pinned a page may store to it, and not ask the file system before */
TEST_F_TIMEOUT(offer, private_data_of_referenced_pages_stays, HVA_TIMEOUT)
{
	const size_t size = 16 * hva_page;
	int fd = hva_create("file", size, 1), pipes[2];
	char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct iovec iov = { map, size };
	unsigned long pfn[16];
	size_t off;
	long had;

	ASSERT_NE(map, MAP_FAILED);
	for (off = 0; off < size; off += hva_page) {
		map[off]++;
		asm volatile("" : : : "memory");
		map[off]--;
	}
	ASSERT_EQ(fsync(fd), 0);
	ASSERT_EQ(hva_present(map, size, pfn), 16);
	ASSERT_EQ(pipe(pipes), 0);
	ASSERT_EQ(vmsplice(pipes[1], &iov, 1, 0), size);
	munmap(map, size);
	had = private_pages(pfn, 16);
	if (!had)
		SKIP(return, "this file system keeps nothing there");
	hva_scan(4);
	EXPECT_EQ(private_pages(pfn, 16), had);
	/* Control: it goes when they are not referenced any more */
	close(pipes[0]);
	close(pipes[1]);
	hva_scan(4);
	EXPECT_LE(private_pages(pfn, 16), had / 4);
	EXPECT_EQ(hva_check(fd, size, 1), 0);
}

TEST_F_TIMEOUT(offer, read_pages_are_volatile_after_two_scans, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);

	hva_drop_caches();
	hva_read(fd, FILE_SIZE);
	hva_scan(2);
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
}

TEST_F_TIMEOUT(offer, looked_up_between_scans_is_not, HVA_TIMEOUT)
{
	int hot = hva_create("hot", FILE_SIZE, 1);
	int cold = hva_create("cold", FILE_SIZE, 2);
	int round, wrong = 0;
	bool early;

	for (round = 0; round < 5; round++) {
		hva_read(cold, FILE_SIZE);
		hva_read(hot, FILE_SIZE);
		hva_scan(1);
		early = volatile_pages(hot) > HVA_NOISE;
		hva_scan(1);
		/* The periodic scanner may come between in one of them */
		if (volatile_pages(hot) > HVA_NOISE || early)
			wrong++;
		EXPECT_GE(volatile_pages(cold), MOST(PAGES));
	}
	EXPECT_LE(wrong, 1);
}

TEST_F_TIMEOUT(offer, dirty_pages_are_not, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	char *buf = malloc(FILE_SIZE);
	long refused;

	hva_fill(buf, FILE_SIZE, 2, 0);
	ASSERT_EQ(pwrite(fd, buf, FILE_SIZE, 0), FILE_SIZE);
	refused = hva_count("hva_refused_dirty");
	hva_discard();
	EXPECT_GE(hva_count("hva_refused_dirty") - refused, PAGES);
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 2), 0);

	/* The same pages when they are clean */
	ASSERT_EQ(fsync(fd), 0);
	hva_discard();
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 2), 0);
}

TEST_F_TIMEOUT(offer, dirty_mapped_pages_are_not, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	char *map = map_file(fd, PROT_READ | PROT_WRITE, MAP_SHARED);

	hva_fill(map, FILE_SIZE, 2, 0);
	hva_discard();
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 2, 0), -1);
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);

	ASSERT_EQ(msync(map, FILE_SIZE, MS_SYNC), 0);
	hva_discard();
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 2, 0), -1);
}

TEST_F_TIMEOUT(offer, pages_under_writeback_are_not, HVA_TIMEOUT)
{
	char group[160], dev[32], dir[256], max[300], limit[64];
	long refused, found;
	struct stat st;
	char *buf;
	int fd;

	if (!hva_cgroup_enter("io", group, sizeof(group)))
		SKIP(return, "no io controller to slow down writeback");
	fd = hva_create("file", FILE_SIZE, 1);
	ASSERT_EQ(fstat(fd, &st), 0);
	if (!hva_sysdev(fd, dir, sizeof(dir)))
		SKIP(return, "not on a block device");
	snprintf(dev, sizeof(dev), "%u:%u", major(st.st_dev),
		 minor(st.st_dev));
	snprintf(max, sizeof(max), "%s/io.max", group);
	snprintf(limit, sizeof(limit), "%s wbps=65536", dev);
	if (!hva_put(max, limit))
		SKIP(return, "cannot limit writes to %s", dev);

	buf = malloc(FILE_SIZE);
	hva_fill(buf, FILE_SIZE, 2, 0);
	ASSERT_EQ(pwrite(fd, buf, FILE_SIZE, 0), FILE_SIZE);
	ASSERT_EQ(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE), 0);
	refused = hva_count("hva_refused_writeback");
	hva_discard();
	refused = hva_count("hva_refused_writeback") - refused;
	found = volatile_pages(fd);
	snprintf(limit, sizeof(limit), "%s wbps=max", dev);
	ASSERT_TRUE(hva_put(max, limit));
	EXPECT_GE(refused, PAGES / 2);
	EXPECT_LE(found, PAGES / 4);
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 2), 0);

	ASSERT_EQ(fsync(fd), 0);
	hva_discard();
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 2), 0);
}

TEST_F_TIMEOUT(offer, mlocked_pages_are_not, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	char *map = map_file(fd, PROT_READ, MAP_SHARED);
	long refused, faults;

	ASSERT_EQ(mlock(map, FILE_SIZE), 0);
	refused = hva_count("hva_refused_mlocked");
	faults = hva_count("pgfault");
	hva_discard();
	EXPECT_GE(hva_count("hva_refused_mlocked") - refused, PAGES);
	/* Nor has anybody unmapped them */
	touch(map);
	EXPECT_LE(hva_count("pgfault") - faults, PAGES / 8);
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 1, 0), -1);

	ASSERT_EQ(munlock(map, FILE_SIZE), 0);
	hva_discard();
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 1, 0), -1);
}

TEST_F_TIMEOUT(offer, mlocking_what_is_volatile_brings_it_back, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	char *map = map_file(fd, PROT_READ, MAP_PRIVATE);
	long before;

	hva_discard();
	before = hva_lookups();
	ASSERT_EQ(mlock(map, FILE_SIZE), 0);
	EXPECT_GE(hva_lookups() - before, MOST(PAGES));
	hva_discard();
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 1, 0), -1);
}

/* With page_hva=mapped those without a writable mapping stay mapped */
static long unmapped_or_mapped(void)
{
	return hva_count("hva_unmapped") + hva_count("hva_mapped");
}

TEST_F_TIMEOUT(offer, cold_mapped_pages_are_unmapped_first, HVA_TIMEOUT)
{
	int shared = hva_create("shared", FILE_SIZE, 1);
	int private = hva_create("private", FILE_SIZE, 2);
	char *map1 = map_file(shared, PROT_READ, MAP_SHARED);
	char *map2 = map_file(private, PROT_READ | PROT_EXEC, MAP_PRIVATE);
	long before;

	touch(map1);
	touch(map2);
	before = unmapped_or_mapped();
	hva_discard();
	EXPECT_GE(unmapped_or_mapped() - before, 2 * MOST(PAGES));

	before = hva_lookups();
	EXPECT_EQ(hva_differs(map1, FILE_SIZE, 1, 0), -1);
	EXPECT_EQ(hva_differs(map2, FILE_SIZE, 2, 0), -1);
	EXPECT_GE(hva_lookups() - before, 2 * MOST(PAGES));
}

TEST_F_TIMEOUT(offer, mapped_pages_in_use_stay_mapped, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	char *map = map_file(fd, PROT_READ, MAP_SHARED);
	long hot, unmapped;
	int i;

	touch(map);
	hot = hva_count("hva_refused_hot");
	unmapped = hva_count("hva_unmapped");
	for (i = 0; i < 6; i++) {
		touch(map);
		hva_scan(1);
	}
	EXPECT_GE(hva_count("hva_refused_hot") - hot, 2 * PAGES);
	/* The periodic scanner may come between, but not every time */
	EXPECT_LE(hva_count("hva_unmapped") - unmapped, PAGES + HVA_NOISE);
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 1, 0), -1);
}

static void read_pipe(int fd, char *buf, size_t len)
{
	size_t got = 0;
	ssize_t n;

	while (got < len) {
		n = read(fd, buf + got, len - got);
		if (n <= 0)
			hva_die("read from pipe");
		got += n;
	}
}

/* A pipe refers to pages of the file, its copy (tee) and the memory (vmsplice) */
TEST_F_TIMEOUT(offer, pages_in_a_pipe_are_not, HVA_TIMEOUT)
{
	size_t size = KIB(512), done;
	int one[2], two[2], three[2];
	char *buf = malloc(size);
	struct iovec iov;
	long refused;
	char *map;
	off_t off;
	int fd;

	fd = hva_create("file", FILE_SIZE, 1);
	map = map_file(fd, PROT_READ, MAP_SHARED);
	ASSERT_EQ(pipe(one) | pipe(two) | pipe(three), 0);
	ASSERT_GE(fcntl(one[1], F_SETPIPE_SZ, MIB(1)), 0);
	ASSERT_GE(fcntl(two[1], F_SETPIPE_SZ, MIB(1)), 0);
	ASSERT_GE(fcntl(three[1], F_SETPIPE_SZ, MIB(1)), 0);

	for (off = 0; off < (off_t)size;)
		ASSERT_GT(splice(fd, &off, one[1], NULL, size - off, 0), 0);
	for (done = 0; done < size; done += iov.iov_len) {
		iov.iov_base = map + MIB(1) + done;
		iov.iov_len = KIB(64);
		ASSERT_EQ(vmsplice(three[1], &iov, 1, 0), KIB(64));
	}
	munmap(map, FILE_SIZE);
	refused = hva_count("hva_refused_refs");
	hva_discard();
	EXPECT_GE(hva_count("hva_refused_refs") - refused,
		  2 * (long)(size / hva_page));
	ASSERT_EQ(tee(one[0], two[1], size, 0), size);
	read_pipe(one[0], buf, size);
	EXPECT_EQ(hva_differs(buf, size, 1, 0), -1);
	hva_discard();
	read_pipe(two[0], buf, size);
	EXPECT_EQ(hva_differs(buf, size, 1, 0), -1);
	read_pipe(three[0], buf, size);
	EXPECT_EQ(hva_differs(buf, size, 1, MIB(1)), -1);

	hva_discard();
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
}

TEST_F_TIMEOUT(offer, shmem_and_memfd_pages_are_not, HVA_TIMEOUT)
{
	int control = hva_create("control", FILE_SIZE, 2);
	int fd = memfd_create("page_hva", 0);
	char *buf = malloc(FILE_SIZE);

	ASSERT_GE(fd, 0);
	hva_fill(buf, FILE_SIZE, 1, 0);
	ASSERT_EQ(write(fd, buf, FILE_SIZE), FILE_SIZE);
	hva_discard();
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
	EXPECT_GE(volatile_pages(control), MOST(PAGES));
}

TEST_F_TIMEOUT(offer, pages_of_a_block_device_are_not, HVA_TIMEOUT)
{
	int control = hva_create("control", FILE_SIZE, 2);
	char dir[256], *one = malloc(FILE_SIZE);
	struct stat st;
	int fd;

	if (!hva_sysdev(control, dir, sizeof(dir)))
		SKIP(return, "not on a block device");
	ASSERT_EQ(fstat(control, &st), 0);
	ASSERT_EQ(mknod(hva_path("dev"), S_IFBLK | 0600, st.st_dev), 0);
	fd = open(hva_path("dev"), O_RDONLY);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pread(fd, one, FILE_SIZE, 0), FILE_SIZE);
	hva_discard();
	EXPECT_LE(volatile_pages(fd), HVA_NOISE);
	EXPECT_GE(volatile_pages(control), MOST(PAGES));
}

static long read_names(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	long sum = 0;

	while ((de = readdir(d)))
		sum += atol(de->d_name);
	closedir(d);
	return sum;
}

TEST_F_TIMEOUT(offer, directories_are_not, HVA_TIMEOUT)
{
	char dir[300], name[600];
	long before, sum = 0;
	int i;

	snprintf(dir, sizeof(dir), "%s", hva_path("dir"));
	ASSERT_EQ(mkdir(dir, 0700), 0);
	/* Long names: more than HVA_NOISE pages of them */
	for (i = 1; i <= 2000; i++) {
		snprintf(name, sizeof(name), "%s/%d_%0200d", dir, i, 0);
		ASSERT_EQ(mknod(name, S_IFREG | 0600, 0), 0);
		sum += i;
	}
	sync();
	hva_discard();
	before = hva_lookups();
	EXPECT_EQ(read_names(dir), sum);
	EXPECT_LE(hva_lookups() - before, HVA_NOISE);
}

/* Looking at pages is not looking into them */
TEST_F_TIMEOUT(offer, inspection_does_not_change_coverage, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	char *map = map_file(fd, PROT_READ, MAP_SHARED);
	unsigned char *vec = malloc(PAGES);
	char buf[KIB(64)];
	const char *const tables[] = {
		"/proc/kpageflags", "/proc/kpagecount",
		"/sys/kernel/mm/page_idle/bitmap", "/proc/self/smaps",
	};
	long before, faults, present = 0;
	size_t i;

	hva_discard();
	before = hva_lookups();
	faults = hva_count("hva_fault");
	ASSERT_EQ(mincore(map, FILE_SIZE, vec), 0);
	for (i = 0; i < (size_t)PAGES; i++)
		present += vec[i] & 1;
	EXPECT_EQ(lseek(fd, 0, SEEK_DATA), 0);
	EXPECT_EQ(lseek(fd, 0, SEEK_HOLE), FILE_SIZE);
	for (i = 0; i < ARRAY_SIZE(tables); i++) {
		int table = open(tables[i], O_RDONLY);

		while (read(table, buf, sizeof(buf)) > 0)
			;
		close(table);
	}
	EXPECT_LE(hva_lookups() - before, HVA_NOISE);
	EXPECT_EQ(hva_count("hva_fault"), faults);
	/* What the guest has not yet found discarded is still in its cache */
	EXPECT_EQ(present, PAGES);

	/* Touching is different */
	touch(map);
	EXPECT_GE(hva_lookups() - before, MOST(PAGES));
}

static void free_by_unlink(int fd)
{
	unlink(hva_path("file"));
	close(fd);
}

static void free_by_truncate(int fd)
{
	if (ftruncate(fd, 0))
		hva_die("ftruncate");
}

static void free_by_drop_caches(int fd)
{
	hva_drop_caches();
}

static void free_by_fadvise(int fd)
{
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

TEST_F_TIMEOUT(offer, freed_while_volatile_is_counted_as_such, HVA_TIMEOUT)
{
	static void (*const how[])(int fd) = {
		free_by_unlink, free_by_truncate, free_by_drop_caches,
		free_by_fadvise,
	};
	long freed, lookups;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(how); i++) {
		int fd = hva_create("file", FILE_SIZE, 1);

		hva_discard();
		freed = hva_count("hva_freed");
		lookups = hva_lookups();
		how[i](fd);
		EXPECT_GE(hva_count("hva_freed") - freed, MOST(PAGES));
		EXPECT_LE(hva_lookups() - lookups, HVA_NOISE);
	}
}

/* Counters and states */

static long volatile_by_counters(const struct hva_stat *st)
{
	return hva_stat_get(st, "hva_volatile") -
	       hva_stat_get(st, "hva_stable") -
	       hva_stat_get(st, "hva_discarded") -
	       hva_stat_get(st, "hva_freed");
}

static long volatile_now(const struct hva_states *s)
{
	return s->vol.resident + s->vol.zero;
}

TEST_F_TIMEOUT(offer, counters_add_up_to_what_is_volatile_now, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	struct hva_stat one, two;
	struct hva_states s;
	char *buf = malloc(MIB(4));
	int round, tries;

	/* Every way a page can leave the volatile state, in turn */
	for (round = 0; round < 5; round++) {
		if (round == 4)
			hva_discard();
		else
			hva_offer();
		if (round == 1)
			hva_read(fd, FILE_SIZE);
		if (round == 2)
			ASSERT_EQ(ftruncate(fd, FILE_SIZE / 2), 0);
		if (round == 3)
			ASSERT_EQ(pread(fd, buf, MIB(4), MIB(2)), MIB(2));
		/* Quiet means that nothing moved while the table was read */
		for (tries = 0; tries < 20; tries++) {
			hva_stat_read(&one);
			hva_states_read(&s);
			hva_stat_read(&two);
			if (hva_stat_get(&one, "hva_volatile") ==
			    hva_stat_get(&two, "hva_volatile") &&
			    volatile_by_counters(&one) ==
			    volatile_by_counters(&two))
				break;
			usleep(100000);
		}
		ASSERT_LT(tries, 20);
		EXPECT_EQ(volatile_by_counters(&one), volatile_now(&s)) {
			TH_LOG("round %d", round);
		}
		EXPECT_GE(volatile_now(&s), round == 1 ? 0 : PAGES / 4);
	}
}

/* hva_evicted, hva_discarded and hva_stable grow for the right reasons */
TEST_F_TIMEOUT(offer, intact_and_discarded_pages_are_told_apart, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	long stable, discarded, evicted;
	struct hva_states s;

	hva_offer();
	hva_states_read(&s);
	stable = hva_count("hva_stable");
	discarded = hva_count("hva_discarded");
	evicted = hva_count("hva_evicted");
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
	stable = hva_count("hva_stable") - stable;
	discarded = hva_count("hva_discarded") - discarded;
	evicted = hva_count("hva_evicted") - evicted;
	if (!s.vol.zero) {
		/* A host that waits for demand has dropped nothing */
		EXPECT_GE(stable, MOST(PAGES));
		EXPECT_LE(discarded, 0);
		EXPECT_LE(evicted, 0);
	}
	if (!s.vol.resident)
		EXPECT_GE(discarded, MOST(PAGES));
	EXPECT_LE(evicted, discarded);

	hva_offer();
	if (!hva_host_reclaim())
		SKIP(return, "no virtio port to ask the host for reclaim");
	stable = hva_count("hva_stable");
	discarded = hva_count("hva_discarded");
	evicted = hva_count("hva_evicted");
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
	EXPECT_LE(hva_count("hva_stable") - stable, HVA_NOISE);
	discarded = hva_count("hva_discarded") - discarded;
	evicted = hva_count("hva_evicted") - evicted;
	EXPECT_GE(discarded, MOST(PAGES));
	EXPECT_GE(evicted, PAGES / 2);
	EXPECT_LE(evicted, discarded);
}

TEST_F_TIMEOUT(offer, states_agree_with_the_host, HVA_TIMEOUT)
{
	struct hva_states one, two;
	struct sysinfo si;
	char answer[1024];
	int fd, tries;

	fd = hva_create("file", FILE_SIZE, 1);
	hva_discard();
	ASSERT_EQ(sysinfo(&si), 0);
	hva_states_read(&one);
	EXPECT_GE(hva_states_sum(&one),
		  (long)(si.totalram * si.mem_unit / hva_page));
	EXPECT_GE(volatile_now(&one), MOST(PAGES));

	if (!hva_host("states", answer, sizeof(answer)))
		SKIP(return, "no virtio port to ask the host for its states");
	EXPECT_EQ(hva_states_sum(&one), hva_json_get(answer, "blocks"));
	for (tries = 0; tries < 20; tries++) {
		hva_states_read(&one);
		hva_host("states", answer, sizeof(answer));
		hva_states_read(&two);
		if (!memcmp(&one.vol, &two.vol, sizeof(one.vol)))
			break;
		usleep(100000);
	}
	ASSERT_LT(tries, 20);
	EXPECT_EQ(one.vol.resident, hva_json_get(answer, "volatile-resident"));
	EXPECT_EQ(one.vol.zero, hva_json_get(answer, "volatile-zero"));
	EXPECT_EQ(one.vol.resident, 0);
	EXPECT_EQ(one.pvol.resident,
		  hva_json_get(answer, "potentially-volatile-resident"));
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
}

TEST_F_TIMEOUT(offer, scanner_covers_cold_pages_in_10s_then_sleeps, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	long scans, later = 0;
	int i;

	scans = hva_count("hva_scan");
	hva_read(fd, FILE_SIZE);
	sleep(10);
	EXPECT_GT(hva_count("hva_scan"), scans);
	EXPECT_GE(volatile_pages(fd), PAGES * 9 / 10);

	/* Others may do something once or twice, but not all the time */
	for (i = 0; i < 5; i++) {
		sleep(10);
		scans = hva_count("hva_scan");
		sleep(6);
		later = hva_count("hva_scan");
		if (later == scans)
			break;
	}
	EXPECT_EQ(later, scans);

	/* ... and wakes up again */
	hva_read(fd, FILE_SIZE);
	sleep(10);
	EXPECT_GT(hva_count("hva_scan"), later);
	EXPECT_GE(volatile_pages(fd), PAGES * 9 / 10);
}

/* It looks after dirty pages less and less often, but is told when they are clean */
TEST_F_TIMEOUT(offer, msync_wakes_the_scanner, HVA_TIMEOUT)
{
	int i, fd = hva_create("file", FILE_SIZE, 1);
	long scans = 0;
	char *map;

	map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	ASSERT_EQ(fsync(fd), 0);
	/* Four seconds without a pass: the next one is not due before another four */
	for (i = 0; i < 20; i++) {
		map[i * hva_page]++;
		scans = hva_count("hva_scan");
		sleep(4);
		if (hva_count("hva_scan") == scans)
			break;
	}
	ASSERT_EQ(msync(map, FILE_SIZE, MS_SYNC), 0);
	sleep(2);
	EXPECT_GT(hva_count("hva_scan"), scans);
}

/* Accesses by address, past every lookup */

/* Returns how many pages cannot be read */
static long read_segment(int fd, off_t off, size_t len)
{
	static char buf[KIB(64)];
	size_t least = hva_page;
	long errors = 0;
	ssize_t n;

	for (; len; off += n, len -= n) {
		n = pread(fd, buf, len < sizeof(buf) ? len : sizeof(buf), off);
		if (n > 0)
			continue;
		/* A hole is an error of that page, not of the others */
		if (len < least)
			least = len;
		n = pread(fd, buf, least, off);
		if (n <= 0) {
			errors++;
			n = least;
		}
	}
	return errors;
}

/* All of memory, but none of the address space of vmalloc() */
static void read_kcore(int fd)
{
	struct sysinfo si;
	struct elf64_hdr eh;
	struct elf64_phdr ph;
	int i;

	if (sysinfo(&si) || pread(fd, &eh, sizeof(eh), 0) != sizeof(eh))
		hva_die("/proc/kcore");
	for (i = 0; i < eh.e_phnum; i++) {
		if (pread(fd, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) !=
		    sizeof(ph))
			hva_die("/proc/kcore");
		if (ph.p_type != PT_LOAD || ph.p_paddr == ~0UL ||
		    ph.p_filesz > 2 * si.totalram * si.mem_unit)
			continue;
		read_segment(fd, ph.p_offset, ph.p_filesz);
	}
}

TEST_F_TIMEOUT(offer, kcore_survives_discarded_pages, HVA_TIMEOUT)
{
	int fd = hva_create("file", FILE_SIZE, 1);
	int kcore = open("/proc/kcore", O_RDONLY);
	struct hva_states s;
	long faults;

	if (kcore < 0)
		SKIP(return, "no /proc/kcore");
	hva_discard();
	hva_states_read(&s);
	faults = hva_count("hva_fault");
	read_kcore(kcore);
	faults = hva_count("hva_fault") - faults;
	if (!s.vol.zero)
		SKIP(return, "the host has dropped nothing");
	/* Every dropped block is met once, and once more if read in parts */
	EXPECT_GE(faults, s.vol.zero - HVA_NOISE);
	EXPECT_LE(faults, 4 * s.vol.zero + HVA_NOISE);
	/* An access by address is no lookup: the pages are found as before */
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
}

/* Of the pages at these numbers, how many have the content of the file, or an error? */
static void read_pages(int mem, const unsigned long *pfn, long *right,
		       long *errors)
{
	char buf[hva_page];
	ssize_t n;
	long i;

	*right = *errors = 0;
	for (i = 0; i < PAGES; i++) {
		n = pread(mem, buf, hva_page, pfn[i] * hva_page);
		if (n < 0 && errno == EFAULT)
			(*errors)++;
		else if (n == (ssize_t)hva_page &&
			 hva_differs(buf, hva_page, 1, i * hva_page) < 0)
			(*right)++;
	}
	ksft_print_msg("%ld pages right, %ld errors\n", *right, *errors);
}

TEST_F_TIMEOUT(offer, dev_mem_survives_discarded_pages, HVA_TIMEOUT)
{
	long faults, right, errors, blocks, unused;
	int fd = hva_create("file", FILE_SIZE, 1);
	unsigned long *pfn;
	struct hva_states s;
	struct stat st;
	char byte, *map;
	int mem;

	/* Not every guest has udev */
	if (stat("/dev/mem", &st))
		mknod("/dev/mem", S_IFCHR | 0600, makedev(1, 1));
	mem = open("/dev/mem", O_RDONLY);
	if (mem < 0)
		SKIP(return, "no /dev/mem");
	if (pread(mem, &byte, 1, 0) < 0 && errno == EPERM)
		SKIP(return, "/dev/mem does not show memory");
	pfn = calloc(PAGES, sizeof(*pfn));
	map = map_file(fd, PROT_READ, MAP_SHARED);
	touch(map);
	ASSERT_GE(hva_present(map, FILE_SIZE, pfn), MOST(PAGES));
	munmap(map, FILE_SIZE);

	/* The pages of the file, while they are there, and dropped */
	read_pages(mem, pfn, &right, &errors);
	EXPECT_GE(right, MOST(PAGES));
	hva_discard();
	faults = hva_count("hva_fault");
	read_pages(mem, pfn, &right, &errors);
	EXPECT_LE(right, PAGES - MOST(PAGES));
	EXPECT_GE(errors, MOST(PAGES));
	EXPECT_GE(hva_count("hva_fault") - faults, errors);

	/* All of memory: what was dropped cannot be read, nor may what is free */
	hva_states_read(&s);
	blocks = hva_states_sum(&s);
	unused = s.unused.resident + s.unused.zero;
	faults = hva_count("hva_fault");
	errors = read_segment(mem, 0, blocks * hva_page);
	faults = hva_count("hva_fault") - faults;
	ksft_print_msg("%ld pages, %ld dropped, %ld + %ld free: %ld errors, %ld faults\n",
		       blocks, s.vol.zero, s.unused.resident, s.unused.zero,
		       errors, faults);
	EXPECT_GE(errors, s.vol.zero - HVA_NOISE);
	EXPECT_LE(errors, s.vol.zero + unused + 4 * HVA_NOISE);
	/* Everything else can */
	EXPECT_GE(blocks - errors, s.stable.resident / 2);
	/* A page more or less before it, all sixteen are read again */
	EXPECT_GE(faults, s.vol.zero - HVA_NOISE);
	EXPECT_LE(faults, 4 * s.vol.zero + HVA_NOISE);
	/* An access by address is no lookup: the pages are found as before */
	EXPECT_GE(volatile_pages(fd), MOST(PAGES));
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
}

/* Pages in the lines of an event, each of which may be about several */
static long traced(const char *trace, const char *event)
{
	const char *line = trace, *nr, *end;
	char name[40];
	long sum = 0;

	snprintf(name, sizeof(name), ": %s: ", event);
	for (; (line = strstr(line, name)); line = end) {
		end = strchrnul(line, '\n');
		nr = strstr(line, " nr=");
		sum += nr && nr < end ? atol(nr + 4) : 1;
	}
	return sum;
}

/* Those of an event and of a counter: some pages are those of others */
static bool traced_as_counted(const char *trace, const char *event,
			      const struct hva_stat *before,
			      const struct hva_stat *after, const char *counter)
{
	long counted = hva_stat_get(after, counter) -
		       hva_stat_get(before, counter);
	long pages = traced(trace, event);

	ksft_print_msg("%s: %ld, %s: %ld\n", event, pages, counter, counted);
	return labs(pages - counted) <= HVA_NOISE;
}

#define TRACE_DIR	"/sys/kernel/tracing"
#define TRACE_EVENTS	TRACE_DIR "/events/page_hva/enable"

TEST_F_TIMEOUT(offer, tracepoints_fire, HVA_TIMEOUT)
{
	size_t file = MIB(2), size = MIB(4);
	int fd = hva_create("file", file, 1);
	struct hva_stat before, after;
	char *trace = malloc(size), *map;
	long pages = file / hva_page, mapped, n;

	if (access(TRACE_EVENTS, W_OK))
		mount("tracefs", TRACE_DIR, "tracefs", 0, NULL);
	if (access(TRACE_EVENTS, W_OK))
		SKIP(return, "no " TRACE_EVENTS);
	close(fd);
	fd = open(hva_path("file"), O_RDONLY);
	map = mmap(NULL, file, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	ASSERT_EQ(madvise(map, file, MADV_RANDOM), 0);
	hva_put(TRACE_DIR "/trace", "");
	hva_stat_read(&before);
	ASSERT_TRUE(hva_put(TRACE_EVENTS, "1"));
	/* Intact if the host waits for demand; dropped; dropped while mapped */
	hva_offer();
	hva_read(fd, file);
	hva_discard();
	hva_read(fd, file);
	mapped = hva_discard_mapped(hva_touch_all, map, file);
	EXPECT_EQ(hva_differs(map, file, 1, 0), -1);
	ASSERT_TRUE(hva_put(TRACE_EVENTS, "0"));
	hva_stat_read(&after);
	ASSERT_TRUE(hva_get(TRACE_DIR "/trace", trace, size));
	hva_put(TRACE_DIR "/trace", "");

	EXPECT_TRUE(traced_as_counted(trace, "page_hva_make_volatile",
				      &before, &after, "hva_volatile"));
	EXPECT_TRUE(traced_as_counted(trace, "page_hva_make_stable",
				      &before, &after, "hva_stable"));
	/* This one whenever it is found, as long as it is mapped; counted once */
	traced_as_counted(trace, "page_hva_discarded", &before, &after,
			  "hva_discarded");
	EXPECT_TRUE(traced_as_counted(trace, "page_hva_evict",
				      &before, &after, "hva_evicted"));
	EXPECT_TRUE(traced_as_counted(trace, "page_hva_fault",
				      &before, &after, "hva_fault"));
	/* ... and of all of these there were some */
	EXPECT_GE(traced(trace, "page_hva_make_volatile"), 3 * MOST(pages));
	n = hva_stat_get(&after, "hva_discarded") -
	    hva_stat_get(&before, "hva_discarded");
	EXPECT_GE(traced(trace, "page_hva_discarded"), n - HVA_NOISE);
	EXPECT_GE(traced(trace, "page_hva_make_stable") + n, 3 * MOST(pages));
	EXPECT_GE(n, 2 * MOST(pages));
	EXPECT_GE(traced(trace, "page_hva_evict"), MOST(pages));
	if (hva_stays_mapped()) {
		EXPECT_GE(mapped, MOST(pages));
		EXPECT_GE(traced(trace, "page_hva_fault"), MOST(pages));
	}
}

TEST_HARNESS_MAIN
