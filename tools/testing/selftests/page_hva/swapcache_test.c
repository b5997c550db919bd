// SPDX-License-Identifier: GPL-2.0
/*
 * page_hva=full: a clean page of the swap cache has a copy in its swap slot, so
 * the host may drop it. Whoever uses it gets what was stored last, not more and
 * not less, from the page or from the slot.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#ifndef MADV_FREE
#define MADV_FREE	8
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define SIZE		MIB(1)
#define NR_PAGES	((long)(SIZE / hva_page))
/* What must be in the swap cache for a test to mean something */
#define MOST		(NR_PAGES * 3 / 4)
#define SECONDS		10
#define PASSES		60	/* of the adversary, at least */

static char *mem, *want;

static long wrong_pages(const char *p)
{
	long wrong = 0;
	size_t off;

	for (off = 0; off < SIZE; off += hva_page)
		wrong += !!memcmp(p + off, want + off, hva_page);
	return wrong;
}

static void store(size_t off, char value)
{
	mem[off] = value;
	want[off] = value;
}

static void store_all(char value)
{
	size_t off;

	for (off = 777; off < SIZE; off += hva_page)
		store(off, value);
}

static void page_out(void)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (madvise(mem, SIZE, MADV_PAGEOUT))
			hva_die("MADV_PAGEOUT");
	}
}

/* Returns how many pages became volatile */
static long load_and_offer(void)
{
	long before = hva_count("hva_swapcache");

	hva_touch_all(mem, SIZE);
	hva_offer();
	return hva_count("hva_swapcache") - before;
}

/* Of so many that were offered, all are dropped that the host has not left */
static long drop(long offered)
{
	struct hva_states states;

	hva_host_reclaim();
	hva_states_read(&states);
	return offered - states.pvol.resident - states.vol.resident;
}

/* Written to swap and read again */
static long swap_in_and_offer(void)
{
	page_out();
	return load_and_offer();
}

static long swap_in_and_drop(void)
{
	return drop(swap_in_and_offer());
}

static int status_of(pid_t child)
{
	int status;

	waitpid(child, &status, 0);
	return status;
}

static bool mode_is_full(void)
{
	char mode[32];

	return hva_get(HVA_DIR "/mode", mode, sizeof(mode)) &&
	       !strncmp(mode, "full", 4);
}

FIXTURE(swapcache) {
};

FIXTURE_SETUP(swapcache)
{
	const char *why = hva_begin(true);

	if (!why && !mode_is_full())
		why = "boot with page_hva=full";
	if (!why && !hva_swap_on(MIB(16)))
		why = "no swap files here";
	if (why)
		SKIP(return, "%s", why);
	want = malloc(SIZE);
	hva_fill(want, SIZE, 1, 0);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(mem, MAP_FAILED);
	memcpy(mem, want, SIZE);
}

FIXTURE_TEARDOWN(swapcache)
{
	hva_swap_off();
	hva_end();
}

TEST_F_TIMEOUT(swapcache, clean_pages_are_volatile, HVA_TIMEOUT)
{
	struct hva_states states;

	EXPECT_GE(swap_in_and_offer(), MOST);
	hva_states_read(&states);
	EXPECT_GE(states.pvol.resident + states.vol.resident + states.vol.zero, MOST);
	EXPECT_EQ(wrong_pages(mem), 0);
}

TEST_F_TIMEOUT(swapcache, other_memory_is_not, HVA_TIMEOUT)
{
	long before = hva_count("hva_swapcache");

	/* Never in swap */
	hva_offer();
	/* In swap, but stored to since */
	page_out();
	store_all(1);
	hva_offer();
	EXPECT_LE(hva_count("hva_swapcache") - before, HVA_NOISE);
	hva_host_reclaim();
	EXPECT_EQ(wrong_pages(mem), 0);
}

TEST_F_TIMEOUT(swapcache, dropped_pages_are_read_from_swap, HVA_TIMEOUT)
{
	long read, dropped, major;
	struct rusage before, after;

	EXPECT_GE(swap_in_and_drop(), MOST);
	read = hva_count("pswpin");
	dropped = hva_count("hva_discarded");
	getrusage(RUSAGE_SELF, &before);
	EXPECT_EQ(wrong_pages(mem), 0);
	getrusage(RUSAGE_SELF, &after);
	major = after.ru_majflt - before.ru_majflt;
	EXPECT_GE(hva_count("pswpin") - read, MOST);
	EXPECT_GE(hva_count("hva_discarded") - dropped, MOST);
	EXPECT_GE(major, 1);
	/* Control: we do notice a byte */
	mem[5 * hva_page + 99] ^= 0x55;
	EXPECT_EQ(wrong_pages(mem), 1);
}

TEST_F_TIMEOUT(swapcache, stores_before_it_is_dropped, HVA_TIMEOUT)
{
	int i;

	for (i = 1; i < 6; i++) {
		EXPECT_GE(swap_in_and_offer(), MOST);
		store_all(i);
		hva_host_reclaim();
		EXPECT_EQ(wrong_pages(mem), 0);
		hva_discard();
		EXPECT_EQ(wrong_pages(mem), 0);
	}
}

TEST_F_TIMEOUT(swapcache, stores_after_it_is_dropped, HVA_TIMEOUT)
{
	int i;

	for (i = 1; i < 6; i++) {
		EXPECT_GE(swap_in_and_drop(), MOST);
		store_all(i);
		EXPECT_EQ(wrong_pages(mem), 0);
		hva_discard();
		EXPECT_EQ(wrong_pages(mem), 0);
	}
}

TEST_F_TIMEOUT(swapcache, get_user_pages, HVA_TIMEOUT)
{
	struct iovec local = { malloc(SIZE), SIZE }, remote = { mem, SIZE };
	size_t off;

	EXPECT_GE(swap_in_and_drop(), MOST);
	ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), SIZE);
	EXPECT_EQ(wrong_pages(local.iov_base), 0);
	EXPECT_GE(swap_in_and_drop(), MOST);
	for (off = 0; off < SIZE; off += hva_page) {
		want[off] = off >> 12;
		local = (struct iovec) { want + off, 1 };
		remote = (struct iovec) { mem + off, 1 };
		ASSERT_EQ(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), 1);
	}
	hva_discard();
	EXPECT_EQ(wrong_pages(mem), 0);
}

TEST_F_TIMEOUT(swapcache, stores_of_a_debugger, HVA_TIMEOUT)
{
	int debugger = open("/proc/self/mem", O_RDWR);
	size_t off;

	EXPECT_GE(swap_in_and_drop(), MOST);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ), 0);
	for (off = 0; off < SIZE; off += hva_page) {
		want[off] = off >> 12;
		ASSERT_EQ(pwrite(debugger, want + off, 1, (off_t)mem + off), 1);
	}
	EXPECT_EQ(wrong_pages(mem), 0);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ | PROT_WRITE), 0);
	hva_discard();
	EXPECT_EQ(wrong_pages(mem), 0);
}

TEST_F_TIMEOUT(swapcache, forked, HVA_TIMEOUT)
{
	int i, go[2];
	pid_t child;
	char c;

	ASSERT_EQ(pipe(go), 0);
	for (i = 0; i < 4; i++) {
		/* What the last child has shared is offered no more until stored to */
		store_all(i + 50);
		EXPECT_GE(i & 1 ? swap_in_and_drop() : swap_in_and_offer(), MOST);
		child = fork();
		if (!child) {
			read(go[0], &c, 1);
			if (wrong_pages(mem))
				_exit(1);
			store_all(i + 100);
			_exit(wrong_pages(mem) != 0);
		}
		hva_host_reclaim();
		EXPECT_EQ(i & 2 ? 0 : wrong_pages(mem), 0);
		if (i & 2)
			store_all(i);
		/* Its copy of what is wanted is from before the store */
		ASSERT_EQ(write(go[1], "x", 1), 1);
		EXPECT_EQ(status_of(child), 0);
		EXPECT_EQ(wrong_pages(mem), 0);
		hva_discard();
		EXPECT_EQ(wrong_pages(mem), 0);
	}
}

TEST_F_TIMEOUT(swapcache, paged_out_while_dropped, HVA_TIMEOUT)
{
	int i;

	for (i = 0; i < 5; i++) {
		EXPECT_GE(swap_in_and_drop(), MOST);
		page_out();
		EXPECT_EQ(wrong_pages(mem), 0);
		EXPECT_GE(swap_in_and_offer(), MOST);
		store_all(i);
		page_out();
		EXPECT_EQ(wrong_pages(mem), 0);
	}
}

TEST_F_TIMEOUT(swapcache, swapped_off_while_dropped, HVA_TIMEOUT)
{
	int i;

	for (i = 0; i < 4; i++) {
		EXPECT_GE(i & 1 ? swap_in_and_drop() : swap_in_and_offer(), MOST);
		if (i & 2)
			store_all(i);
		ASSERT_TRUE(hva_swap_off());
		EXPECT_EQ(wrong_pages(mem), 0);
		hva_discard();
		EXPECT_EQ(wrong_pages(mem), 0);
		ASSERT_TRUE(hva_swap_on(MIB(16)));
	}
}

/* A slot is freed when nobody needs it: not sooner, and not never */
TEST_F_TIMEOUT(swapcache, slots_are_freed, HVA_TIMEOUT)
{
	long before;
	int i;

	page_out();
	hva_touch_all(mem, SIZE);
	store_all(1);
	page_out();
	madvise(mem, SIZE, MADV_DONTNEED);
	before = hva_meminfo("SwapFree:");
	for (i = 0; i < 4; i++) {
		memcpy(mem, want, SIZE);
		EXPECT_GE(swap_in_and_drop(), MOST);
		if (i & 1)
			store_all(i);
		if (i & 2)
			EXPECT_EQ(madvise(mem, SIZE, MADV_FREE), 0);
		EXPECT_EQ(madvise(mem, SIZE, MADV_DONTNEED), 0);
	}
	hva_drop_caches();
	/* Half of a round; some are in the caches of the CPUs */
	EXPECT_GE(hva_meminfo("SwapFree:"), before - NR_PAGES * 2);
}

TEST_F_TIMEOUT(swapcache, freed_lazily_while_dropped, HVA_TIMEOUT)
{
	size_t off;
	int i;

	for (i = 1; i < 5; i++) {
		EXPECT_GE(swap_in_and_drop(), MOST);
		ASSERT_EQ(madvise(mem, SIZE, MADV_FREE), 0);
		if (i & 1)
			hva_discard();
		for (off = 777; off < SIZE; off += hva_page)
			mem[off] = i;
		hva_discard();
		for (off = 0; off < SIZE; off += hva_page) {
			ASSERT_EQ(mem[off + 777], i);
			ASSERT_TRUE(!mem[off] || mem[off] == want[off]);
		}
		memcpy(mem, want, SIZE);
	}
}

TEST_F_TIMEOUT(swapcache, locked_and_moved, HVA_TIMEOUT)
{
	char *to = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	EXPECT_GE(swap_in_and_drop(), MOST);
	ASSERT_EQ(mlock(mem, SIZE), 0);
	hva_host_reclaim();
	EXPECT_EQ(wrong_pages(mem), 0);
	ASSERT_EQ(munlock(mem, SIZE), 0);
	EXPECT_GE(swap_in_and_drop(), MOST);
	mem = mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_EQ(mem, to);
	EXPECT_EQ(wrong_pages(mem), 0);
	store_all(3);
	hva_discard();
	EXPECT_EQ(wrong_pages(mem), 0);
}

/* Swap is short: the slots of pages that have been read again are taken from them */
TEST_F_TIMEOUT(swapcache, slots_are_needed, HVA_TIMEOUT)
{
	char *more = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int i;

	hva_swap_off();
	ASSERT_TRUE(hva_swap_on(SIZE * 3 / 2));
	for (i = 0; i < 4; i++) {
		memset(more, i + 1, SIZE);
		/*
		 * Half of the slots: when more are in use, pages that are read
		 * give up theirs. A CPU keeps up to 64 for itself.
		 */
		EXPECT_GE(swap_in_and_drop(), NR_PAGES / 4);
		EXPECT_EQ(madvise(more, SIZE, MADV_PAGEOUT), 0);
		ksft_print_msg("%ld KiB of swap are free\n", hva_meminfo("SwapFree:"));
		if (i & 1)
			store_all(i);
		EXPECT_EQ(wrong_pages(mem), 0);
		madvise(more, SIZE, MADV_DONTNEED);
	}
}

TEST_F_TIMEOUT(swapcache, migrated, HVA_TIMEOUT)
{
	long moved = 0, offered;
	int i;

	for (i = 0; i < 4; i++) {
		page_out();
		hva_take_memory();
		offered = load_and_offer();
		EXPECT_GE(i & 1 ? drop(offered) : offered, MOST);
		if (i & 2)
			store_all(i);
		moved += hva_compact();
		EXPECT_EQ(wrong_pages(mem), 0);
	}
	/* Where pages are is a matter of luck */
	EXPECT_GE(moved, NR_PAGES);
}

/*
 * Everything at once. The adversary scans and reclaims, and takes the swap away
 * and gives it back. Each worker knows what has to be in its pages.
 */
static struct {
	atomic_bool stop;
	atomic_long passes, swapoffs;
	atomic_long of_file;	/* pages of the swap file that were found dropped */
} *shared;

static void adversary(void)
{
	long found;

	while (!shared->stop) {
		hva_scan(1);
		hva_host_reclaim();
		if (++shared->passes % 20 == 0 && hva_swap_off()) {
			shared->swapoffs++;
			/* No page is in the swap cache now */
			found = hva_count("hva_discarded");
			hva_swap_on(MIB(16));
			shared->of_file += hva_count("hva_discarded") - found;
		}
		usleep(1000);
	}
	_exit(0);
}

/* However slow it is */
static bool go_on(double end)
{
	return hva_now() < end || shared->passes < PASSES;
}

/* Time for what is cold to become volatile and be dropped, however slow it is */
static void wait_for_adversary(void)
{
	long passes = shared->passes;

	while (shared->passes < passes + 3)
		usleep(1000);
}

static void one_step(unsigned int *rnd)
{
	size_t off = rand_r(rnd) % NR_PAGES * hva_page, to = rand_r(rnd) % hva_page;
	size_t len = (rand_r(rnd) % 64 + 1) * hva_page;
	pid_t child;

	if (off + len > SIZE)
		len = SIZE - off;
	switch (rand_r(rnd) % 16) {
	case 0 ... 3:
		store(off + to, rand_r(rnd));
		break;
	case 4 ... 8:
		if (memcmp(mem + off, want + off, len)) {
			fprintf(stderr, "# wrong content near page %zu\n",
				off / hva_page);
			_exit(1);
		}
		break;
	case 9 ... 10:
		madvise(mem + off, len, MADV_PAGEOUT);
		break;
	case 11:
		madvise(mem + off, len, MADV_PAGEOUT);
		hva_touch_all(mem + off, len);
		wait_for_adversary();
		break;
	case 12:
		madvise(mem + off, len, MADV_WILLNEED);
		break;
	case 13:
		mprotect(mem + off, len, PROT_READ);
		mprotect(mem + off, len, PROT_READ | PROT_WRITE);
		break;
	case 14:
		if (rand_r(rnd) % 8)
			break;
		child = fork();
		if (!child) {
			store(off + to, 0x77);
			_exit(wrong_pages(mem) != 0);
		}
		store(off, 0x66);
		if (status_of(child))
			_exit(2);
		/* As in forked */
		store_all(0x55);
		break;
	default:
		usleep(2000);
		break;
	}
}

static void worker(int nr)
{
	double end = hva_now() + SECONDS;
	unsigned int rnd = getpid();
	size_t off;

	hva_fill(want, SIZE, nr, 0);
	/* Something to compress: zswap does not take other pages */
	for (off = 0; off < SIZE; off += hva_page)
		memset(want + off, nr + 1, hva_page / 2);
	memcpy(mem, want, SIZE);
	while (go_on(end))
		one_step(&rnd);
	_exit(wrong_pages(mem) != 0);
}

#define WORKERS	4

/* Pages of the swap cache */
struct tally {
	long read, offered, dropped;
};

static struct tally count(void)
{
	return (struct tally) {
		hva_count("pswpin"), hva_count("hva_swapcache"),
		hva_count("hva_discarded") - (shared ? shared->of_file : 0)
	};
}

static pid_t start_adversary(void)
{
	pid_t pid;

	shared = mmap(NULL, hva_page, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid = fork();
	if (!pid)
		adversary();
	return pid;
}

static struct tally run_workers(struct __test_metadata *_metadata)
{
	struct tally before = count(), t;
	pid_t pid[WORKERS], other = start_adversary();
	int i;

	for (i = 0; i < WORKERS; i++) {
		pid[i] = fork();
		if (!pid[i])
			worker(i);
	}
	for (i = 0; i < WORKERS; i++)
		EXPECT_EQ(status_of(pid[i]), 0);
	shared->stop = true;
	EXPECT_EQ(status_of(other), 0);
	t = count();
	t.read -= before.read;
	t.offered -= before.offered;
	t.dropped -= before.dropped;
	ksft_print_msg("%ld pages read, %ld offered, %ld found dropped, %ld times swapped off\n",
		       t.read, t.offered, t.dropped, shared->swapoffs);
	EXPECT_GE(shared->swapoffs, 1);
	return t;
}

TEST_F_TIMEOUT(swapcache, random_with_swapoff, HVA_TIMEOUT)
{
	struct tally t = run_workers(_metadata);

	EXPECT_GE(t.offered, 500);
	EXPECT_GE(t.dropped, 200);
}

/* Read again, a page of shared memory is no longer in the swap cache */
TEST_F_TIMEOUT(swapcache, shared_memory_is_not, HVA_TIMEOUT)
{
	long out = hva_count("pswpout");
	struct tally before = count();
	char group[160], reclaim[256] = "";
	double end;
	pid_t other;
	int i;

	/* Other memory of the group must not go to swap: it would be offered */
	munmap(mem, SIZE);
	ASSERT_EQ(mlock(want, SIZE), 0);
	other = start_adversary();
	if (hva_cgroup_enter("memory", group, sizeof(group)))
		snprintf(reclaim, sizeof(reclaim), "%s/memory.reclaim", group);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(mem, MAP_FAILED);
	memcpy(mem, want, SIZE);
	for (i = 0, end = hva_now() + SECONDS; i < 4 || go_on(end); i++) {
		page_out();
		/* In the swap cache, but not mapped */
		wait_for_adversary();
		/* In its slot only */
		hva_put(reclaim, "1M");
		if (i & 1)
			madvise(mem, SIZE, MADV_WILLNEED);
		wait_for_adversary();
		EXPECT_EQ(wrong_pages(mem), 0);
		wait_for_adversary();
		EXPECT_EQ(wrong_pages(mem), 0);
		if (i & 2)
			store_all(i);
	}
	shared->stop = true;
	EXPECT_EQ(status_of(other), 0);
	out = hva_count("pswpout") - out;
	ksft_print_msg("%d rounds, %ld pages written, %ld read, %ld offered\n", i, out,
		       count().read - before.read, count().offered - before.offered);
	EXPECT_GE(out, 500);
	/* Without a memory controller they do not leave the swap cache */
	EXPECT_GE(count().read - before.read, *reclaim ? 500 : 0);
	EXPECT_LE(count().offered - before.offered, HVA_NOISE);
}

/* Pages that only one process uses do not go by way of the swap cache then */
TEST_F_TIMEOUT(swapcache, random_on_zram, HVA_TIMEOUT)
{
	char stat[256] = "";

	if (!hva_put("/sys/block/zram0/disksize", "16M"))
		SKIP(return, "no zram here");
	hva_swap_off();
	hva_swap_device = "/dev/zram0";
	ASSERT_TRUE(hva_swap_on(MIB(16)));
	run_workers(_metadata);
	/* The first number: reads */
	ASSERT_TRUE(hva_get("/sys/block/zram0/stat", stat, sizeof(stat)));
	ksft_print_msg("%ld reads from zram\n", atol(stat));
	EXPECT_GE(atol(stat), 300);
	hva_swap_off();
	hva_swap_device = NULL;
	EXPECT_TRUE(hva_put("/sys/block/zram0/reset", "1"));
}

/* Pages that zswap has held are dirty: their slots hold nothing */
TEST_F_TIMEOUT(swapcache, random_with_zswap, HVA_TIMEOUT)
{
	const char *enabled = "/sys/module/zswap/parameters/enabled";
	long out = hva_count("zswpout"), in = hva_count("zswpin");

	if (!hva_put(enabled, "Y"))
		SKIP(return, "no zswap here");
	run_workers(_metadata);
	out = hva_count("zswpout") - out;
	in = hva_count("zswpin") - in;
	ksft_print_msg("%ld pages to zswap, %ld from it\n", out, in);
	EXPECT_GE(out, 300);
	EXPECT_GE(in, 300);
	EXPECT_TRUE(hva_put(enabled, "N"));
}

TEST_HARNESS_MAIN
