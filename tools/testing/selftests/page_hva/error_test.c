// SPDX-License-Identifier: GPL-2.0
/*
 * The host has discarded pages, and the disk cannot read them again: programs
 * get the error that any failed read gives them, never other bytes, and once the
 * disk works again, so do they.
 *
 * PAGE_HVA_DEV names a disk with an empty file system of the type PAGE_HVA_FS
 * (ext4, xfs). A device mapper table on top of it makes the sectors of a file
 * fail, or all of them. Memory to read a page into may be missing, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#define FILE_SIZE	MIB(1)
#define NR_PAGES	((long)(FILE_SIZE / hva_page))
#define NAME		"page_hva_error"
#define SECTOR		512
#define MAX_TARGETS	64

static int control, fd;
static unsigned long sectors;		/* of the disk */
static char disk[16];			/* major:minor */
static char buf[KIB(64)];
static int wanted = EIO;		/* the error that reads fail with */

/* --- a disk that fails where it is told to ------------------------------------- */

static struct {
	struct dm_ioctl head;
	char data[MAX_TARGETS * 128];
} dm;

static void dm_begin(unsigned int flags)
{
	memset(&dm, 0, sizeof(dm));
	dm.head.version[0] = DM_VERSION_MAJOR;
	dm.head.data_size = sizeof(dm);
	dm.head.data_start = offsetof(typeof(dm), data);
	dm.head.flags = flags;
	snprintf(dm.head.name, sizeof(dm.head.name), NAME);
}

/* Sectors from where the table ends now up to @end, good or bad ones */
static void dm_add(unsigned long end, bool good)
{
	static size_t used;
	static unsigned long begin;
	struct dm_target_spec *target;

	if (!dm.head.target_count) {
		used = 0;
		begin = 0;
	}
	if (end <= begin)
		return;
	if (used + 128 > sizeof(dm.data))
		hva_die("the file is in too many pieces");
	target = (void *)(dm.data + used);
	target->sector_start = begin;
	target->length = end - begin;
	target->next = 128;
	snprintf(target->target_type, sizeof(target->target_type),
		 good ? "linear" : "error");
	if (good)
		snprintf((char *)(target + 1), 80, "%s %lu", disk, begin);
	dm.head.target_count++;
	used += target->next;
	begin = end;
}

/* The table that was added takes effect; what is under way ends before */
static void dm_use(void)
{
	if (ioctl(control, DM_TABLE_LOAD, &dm))
		hva_die("device mapper table");
	dm_begin(DM_SKIP_LOCKFS_FLAG);
	if (ioctl(control, DM_DEV_SUSPEND, &dm))
		hva_die("device mapper resume");
}

static void all_sectors(bool good)
{
	dm_begin(0);
	dm_add(sectors, good);
	dm_use();
}

/* Where @nr pages of the file from page @first on are stored */
static void bad_pages(long first, long nr)
{
	static struct {
		struct fiemap map;
		struct fiemap_extent extents[MAX_TARGETS / 2];
	} file;
	unsigned int i;

	file.map = (struct fiemap) {
		.fm_start = first * hva_page,
		.fm_length = nr * hva_page,
		.fm_flags = FIEMAP_FLAG_SYNC,
		.fm_extent_count = MAX_TARGETS / 2,
	};
	if (ioctl(fd, FS_IOC_FIEMAP, &file.map) || !file.map.fm_mapped_extents)
		hva_die("fiemap");
	dm_begin(0);
	for (i = 0; i < file.map.fm_mapped_extents; i++) {
		struct fiemap_extent *e = &file.extents[i];
		/* The extents may begin before and end after what was asked for */
		unsigned long from = first * hva_page > e->fe_logical ?
				     first * hva_page - e->fe_logical : 0;
		unsigned long to = (first + nr) * hva_page - e->fe_logical;

		if (to > e->fe_length)
			to = e->fe_length;
		dm_add((e->fe_physical + from) / SECTOR, true);
		dm_add((e->fe_physical + to) / SECTOR, false);
	}
	dm_add(sectors, true);
	dm_use();
}

static const char *dm_create(const char *dev)
{
	int disk_fd = open(dev, O_RDONLY);
	unsigned long long bytes;
	struct stat st;

	control = open("/dev/mapper/control", O_RDWR);
	if (control < 0)
		return "no device mapper";
	if (disk_fd < 0 || fstat(disk_fd, &st) ||
	    ioctl(disk_fd, BLKGETSIZE64, &bytes))
		hva_die("%s", dev);
	close(disk_fd);
	sectors = bytes / SECTOR;
	snprintf(disk, sizeof(disk), "%u:%u", major(st.st_rdev),
		 minor(st.st_rdev));
	dm_begin(0);
	if (ioctl(control, DM_DEV_CREATE, &dm))
		hva_die("device mapper device");
	return NULL;
}

static bool dm_remove(void)
{
	dm_begin(0);
	return !ioctl(control, DM_DEV_REMOVE, &dm);
}

/* --- the tests ------------------------------------------------------------------ */

FIXTURE(error) {
	bool mounted;
};

/* Once more for what somebody held a reference on */
static void discard_all(void)
{
	hva_discard();
	hva_discard();
}

FIXTURE_SETUP(error)
{
	const char *dev = getenv("PAGE_HVA_DEV"), *fs = getenv("PAGE_HVA_FS");
	const char *why = dev ? hva_begin(true) : "no disk in PAGE_HVA_DEV";
	char node[32];

	if (!why)
		why = dm_create(dev);
	if (why)
		SKIP(return, "%s", why);
	all_sectors(true);
	snprintf(node, sizeof(node), "/dev/dm-%u", minor(dm.head.dev));
	ASSERT_EQ(mkdir(hva_path("mnt"), 0700), 0);
	if (mount(node, hva_path("mnt"), fs ? fs : "ext4", MS_NOATIME, NULL))
		hva_die("mount");
	self->mounted = true;
	fd = hva_create("mnt/file", FILE_SIZE, 1);
	sync();
	discard_all();
}

/* Whatever happened: the disk works again, and nothing was lost or is left */
FIXTURE_TEARDOWN(error)
{
	if (!self->mounted)
		return;
	all_sectors(true);
	EXPECT_EQ(hva_check(fd, FILE_SIZE, 1), 0);
	close(fd);
	EXPECT_EQ(umount(hva_path("mnt")), 0);
	EXPECT_TRUE(dm_remove());
	close(control);
	rmdir(hva_path("mnt"));
	hva_end();
}

static bool read_page(long nr)
{
	ssize_t n = pread(fd, buf, hva_page, nr * hva_page);

	if (n < 0 && errno != wanted)
		hva_die("read");
	if (n > 0 && hva_differs(buf, n, 1, nr * hva_page) >= 0)
		hva_die("page %ld is wrong", nr);
	return n == (ssize_t)hva_page;
}

static sigjmp_buf at_sigbus;

static void sigbus(int sig)
{
	siglongjmp(at_sigbus, 1);
}

static bool touch_gives_sigbus(const char *p)
{
	signal(SIGBUS, sigbus);
	if (sigsetjmp(at_sigbus, 1))
		return true;
	hva_touch(p);
	return false;
}

static bool store_gives_sigbus(char *p)
{
	signal(SIGBUS, sigbus);
	if (sigsetjmp(at_sigbus, 1))
		return true;
	*p = '?';
	asm volatile("" : : : "memory");
	return false;
}

/* What may be written to by way of the mapping is never volatile while mapped */
static char *map_read_only(void)
{
	int ro = open(hva_path("mnt/file"), O_RDONLY);
	char *map = mmap(NULL, FILE_SIZE, PROT_READ, MAP_SHARED, ro, 0);

	if (map == MAP_FAILED)
		hva_die("mmap");
	close(ro);
	madvise(map, FILE_SIZE, MADV_RANDOM);
	return map;
}

/* All pages present; dropped by the host under the mapping, if it may */
static char *map_and_discard(void)
{
	char *map = map_read_only();
	long i;

	for (i = 0; i < NR_PAGES; i++)
		hva_touch(map + i * hva_page);
	discard_all();
	return map;
}

TEST_F_TIMEOUT(error, reads_fail_until_the_disk_works, HVA_TIMEOUT)
{
	long i;

	bad_pages(0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i += 8) {
		EXPECT_FALSE(read_page(i));
		EXPECT_FALSE(read_page(i));
	}
	all_sectors(true);
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_TRUE(read_page(i));
}

/* In front of them and behind them there is nothing wrong */
TEST_F_TIMEOUT(error, only_pages_on_bad_sectors_fail, HVA_TIMEOUT)
{
	const long first = NR_PAGES / 4, nr = 16;
	long i, failed = 0;

	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	bad_pages(first, nr);
	for (i = 0; i < NR_PAGES; i++) {
		bool ok = read_page(i);

		failed += !ok;
		if (i >= first && i < first + nr)
			EXPECT_FALSE(ok);
	}
	EXPECT_EQ(failed, nr);
}

/* Readahead runs into bad sectors, whose pages nobody asks for */
TEST_F_TIMEOUT(error, readahead_over_bad_sectors, HVA_TIMEOUT)
{
	const long first = NR_PAGES / 2;
	long i;

	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	bad_pages(first, 4);
	for (i = 0; i < first; i++)
		EXPECT_TRUE(read_page(i));
	EXPECT_FALSE(read_page(first));
}

TEST_F_TIMEOUT(error, loads_from_a_mapping_give_sigbus, HVA_TIMEOUT)
{
	char *map = map_and_discard();
	long i;

	bad_pages(0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i += 8) {
		EXPECT_TRUE(touch_gives_sigbus(map + i * hva_page));
		EXPECT_TRUE(touch_gives_sigbus(map + i * hva_page));
	}
	all_sectors(true);
	EXPECT_EQ(hva_differs(map, FILE_SIZE, 1, 0), -1);
	munmap(map, FILE_SIZE);
}

TEST_F_TIMEOUT(error, system_calls_with_such_a_buffer_fail, HVA_TIMEOUT)
{
	char *map = map_and_discard();
	int out = open(hva_path("out"), O_RDWR | O_CREAT, 0600);
	int pipes[2];
	long i;

	ASSERT_EQ(pipe(pipes), 0);
	bad_pages(0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i += 32) {
		const char *p = map + i * hva_page;

		EXPECT_EQ(write(pipes[1], p, hva_page), -1);
		EXPECT_EQ(errno, EFAULT);
		EXPECT_EQ(pwrite(out, p, hva_page, 0), -1);
		EXPECT_EQ(errno, EFAULT);
		EXPECT_EQ(open(p, O_RDONLY), -1);
		EXPECT_EQ(errno, EFAULT);
	}
	all_sectors(true);
	EXPECT_EQ(pwrite(out, map, sizeof(buf), 0), sizeof(buf));
	EXPECT_EQ(pread(out, buf, sizeof(buf), 0), sizeof(buf));
	EXPECT_EQ(hva_differs(buf, sizeof(buf), 1, 0), -1);
	close(out);
	munmap(map, FILE_SIZE);
}

/* The rest of the page has to be read first */
TEST_F_TIMEOUT(error, write_to_a_part_of_a_page_changes_nothing, HVA_TIMEOUT)
{
	long i;

	bad_pages(0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i += 8) {
		EXPECT_EQ(pwrite(fd, "?", 1, i * hva_page + 100), -1);
		EXPECT_EQ(errno, EIO);
	}
}

/* Copying the page for the writer fails: what the others see stays as it is */
TEST_F_TIMEOUT(error, first_store_to_a_private_page, HVA_TIMEOUT)
{
	char *map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			 fd, 0);
	long i;

	ASSERT_NE(map, MAP_FAILED);
	madvise(map, FILE_SIZE, MADV_RANDOM);
	for (i = 0; i < NR_PAGES; i++)
		hva_touch(map + i * hva_page);
	discard_all();
	bad_pages(0, NR_PAGES);
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_TRUE(store_gives_sigbus(map + i * hva_page));
	all_sectors(true);
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_FALSE(store_gives_sigbus(map + i * hva_page));
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(hva_differs(map + i * hva_page + 1, hva_page - 1, 1,
				      i * hva_page + 1), -1);
	munmap(map, FILE_SIZE);
}

/* Does nothing but read for some seconds; exits with 0 if nothing is wrong */
static __noreturn void reader(unsigned int seed, bool mapped,
			      void (*prepare)(void))
{
	static long pages, errors;	/* siglongjmp() spoils locals */
	double end = hva_now() + 4;
	char *map = map_read_only();

	signal(SIGBUS, sigbus);
	if (prepare)
		prepare();
	while (hva_now() < end) {
		long i = rand_r(&seed) % NR_PAGES;

		if (!mapped) {
			errors += !read_page(i);
		} else if (sigsetjmp(at_sigbus, 1)) {
			errors++;
		} else if (hva_differs(map + i * hva_page, hva_page, 1,
				       i * hva_page) >= 0) {
			_exit(1);
		}
		pages++;
	}
	/* A page fault is tried again when there is no memory */
	if (errors < pages && (errors || (mapped && wanted == ENOMEM)))
		_exit(0);
	hva_die("%ld errors for %ld pages, mapped %d", errors, pages, mapped);
}

#define NR_READERS	4

static void start_readers(void (*prepare)(void))
{
	int i;

	for (i = 0; i < NR_READERS; i++) {
		if (!fork())
			reader(i, i % 2, prepare);
	}
}

/* How many of them have ended since the last time; their status has to be 0 */
static int ended_readers(int *bad)
{
	int status, n = 0;

	while (waitpid(-1, &status, WNOHANG) > 0) {
		*bad += !!status;
		n++;
	}
	return n;
}

TEST_F_TIMEOUT(error, readers_of_a_disk_that_comes_and_goes, HVA_TIMEOUT)
{
	int i, ended = 0, bad = 0;

	start_readers(NULL);
	for (i = 0; ended < NR_READERS; i++) {
		if (i % 2)
			bad_pages(0, NR_PAGES);
		else
			all_sectors(true);
		hva_discard();
		usleep(30000);
		ended += ended_readers(&bad);
	}
	ksft_print_msg("the disk came and went %d times\n", i / 2);
	EXPECT_EQ(bad, 0);
}

/* --- memory that is not there (CONFIG_FAULT_INJECTION) ---------------------------- */

static bool inject(const char *which, const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", which, name);
	return hva_put(path, value);
}

static bool fail_allocations(const char *which)
{
	return inject(which, "task-filter", "Y") &&
	       inject(which, "ignore-gfp-wait", "N") &&
	       inject(which, "verbose", "0") &&
	       inject(which, "interval", "1") &&
	       inject(which, "times", "-1") &&
	       inject(which, "probability", "20");
}

static void make_it_fail(void)
{
	if (!hva_put("/proc/self/make-it-fail", "1"))
		hva_die("make-it-fail");
}

TEST_F_TIMEOUT(error, allocations_fail_now_and_then, HVA_TIMEOUT)
{
	int ended = 0, bad = 0;

	if (!fail_allocations("failslab") || !fail_allocations("fail_page_alloc"))
		SKIP(return, "no CONFIG_FAIL_PAGE_ALLOC or CONFIG_FAILSLAB");
	inject("fail_page_alloc", "min-order", "0");
	inject("fail_page_alloc", "ignore-gfp-highmem", "N");
	wanted = ENOMEM;
	start_readers(make_it_fail);
	while (ended < NR_READERS) {
		hva_discard();
		usleep(10000);
		ended += ended_readers(&bad);
	}
	inject("failslab", "probability", "0");
	inject("fail_page_alloc", "probability", "0");
	EXPECT_EQ(bad, 0);
}

/* Not only the file: no I/O at all, of nobody */
TEST_F_TIMEOUT(error, disk_is_gone, HVA_TIMEOUT)
{
	char *map = map_and_discard();
	long i;

	all_sectors(false);
	for (i = 0; i < NR_PAGES; i += 8) {
		EXPECT_TRUE(touch_gives_sigbus(map + i * hva_page));
		EXPECT_FALSE(read_page(i));
	}
	munmap(map, FILE_SIZE);
}

/* Swap, whose slots have the only copy of what was dropped from the swap cache */

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

static bool swap_on(void)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s", hva_path("mnt/swap"));
	hva_swap_device = path;
	return hva_swap_on(MIB(8));
}

/* Memory most of which is in swap alone; NULL if it is not */
static char *swap_in_and_drop(void)
{
	char *mem = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long i, before = hva_count("hva_swapcache");

	if (mem == MAP_FAILED)
		hva_die("mmap");
	hva_fill(mem, FILE_SIZE, 2, 0);
	for (i = 0; i < 3; i++)
		madvise(mem, FILE_SIZE, MADV_PAGEOUT);
	for (i = 0; i < NR_PAGES; i++)
		hva_touch(mem + i * hva_page);
	hva_offer();
	hva_host_reclaim();
	if (hva_count("hva_swapcache") - before >= NR_PAGES * 3 / 4)
		return mem;
	munmap(mem, FILE_SIZE);
	return NULL;
}

static bool page_is_right(const char *mem, long nr)
{
	return hva_differs(mem + nr * hva_page, hva_page, 2, nr * hva_page) < 0;
}

TEST_F_TIMEOUT(error, swap_slots_cannot_be_read, HVA_TIMEOUT)
{
	const char *cluster = "/proc/sys/vm/page-cluster";
	long i, failed = 0;
	char mode[32], *mem;

	if (!hva_get(HVA_DIR "/mode", mode, sizeof(mode)) ||
	    strncmp(mode, "full", 4))
		SKIP(return, "boot with page_hva=full");
	ASSERT_TRUE(swap_on());
	/* What readahead could not read fails until reclaim takes it */
	ASSERT_TRUE(hva_put(cluster, "0"));
	mem = swap_in_and_drop();
	EXPECT_NE(mem, NULL);
	all_sectors(false);
	for (i = 0; mem && i < NR_PAGES; i += 8)
		failed += touch_gives_sigbus(mem + i * hva_page);
	EXPECT_GE(failed, NR_PAGES / 8 * 3 / 4);
	/* The others are as if nothing had happened */
	all_sectors(true);
	for (i = 0; mem && i < NR_PAGES; i++)
		EXPECT_TRUE(i % 8 == 0 || page_is_right(mem, i));
	munmap(mem, FILE_SIZE);

	/* Swapoff ends all the same, and what it could not read is lost, not wrong */
	mem = swap_in_and_drop();
	EXPECT_NE(mem, NULL);
	all_sectors(false);
	EXPECT_TRUE(hva_swap_off());
	all_sectors(true);
	for (i = failed = 0; mem && i < NR_PAGES; i++) {
		if (touch_gives_sigbus(mem + i * hva_page))
			failed++;
		else
			EXPECT_TRUE(page_is_right(mem, i));
	}
	EXPECT_GE(failed, NR_PAGES * 3 / 4);
	munmap(mem, FILE_SIZE);
	hva_put(cluster, "3");
	hva_swap_device = NULL;
	unlink(hva_path("mnt/swap"));
}

TEST_HARNESS_MAIN
