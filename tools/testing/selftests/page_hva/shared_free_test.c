// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_FREE in a child, of memory that is also the parent's. The parent's pages
 * may have clean ptes, and still be all there is of the content: nobody may drop
 * them, reclaim as little as the host. In any mode.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#ifndef MADV_FREE
#define MADV_FREE	8
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

/* More than the kernel collects before it marks pages lazily freed */
#define SIZE		MIB(8)
#define ZRAM		"/sys/block/zram0/"

static char *mem, *want;

/* As reclaim and the host do; returns how many pages are wrong then */
static long drop(void)
{
	long wrong = 0;
	size_t off;

	hva_offer();
	hva_host_reclaim();
	if (madvise(mem, SIZE, MADV_PAGEOUT))
		hva_die("MADV_PAGEOUT");
	for (off = 0; off < SIZE; off += hva_page)
		wrong += !!memcmp(mem + off, want + off, hva_page);
	return wrong;
}

static pid_t child_that_waits(void)
{
	pid_t child = fork();

	if (!child) {
		pause();
		_exit(0);
	}
	return child;
}

static void child_that_frees(struct __test_metadata *_metadata)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(madvise(mem, SIZE, MADV_FREE) != 0);
	ASSERT_EQ(waitpid(child, &status, 0), child);
	ASSERT_EQ(status, 0);
}

FIXTURE(shared_free) {
};

FIXTURE_SETUP(shared_free)
{
	const char *why = hva_begin(true);

	if (why)
		SKIP(return, "%s", why);
	want = malloc(SIZE);
	hva_fill(want, SIZE, 1, 0);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(mem, MAP_FAILED);
	ASSERT_EQ(madvise(mem, SIZE, MADV_NOHUGEPAGE), 0);
	memcpy(mem, want, SIZE);
}

FIXTURE_TEARDOWN(shared_free)
{
	hva_end();
}

TEST_F_TIMEOUT(shared_free, stored_to, HVA_TIMEOUT)
{
	child_that_frees(_metadata);
	EXPECT_EQ(drop(), 0);
}

/* Pinned for reading while it is shared: the parent gets copies */
TEST_F_TIMEOUT(shared_free, copied_for_a_pin, HVA_TIMEOUT)
{
	struct iovec to = { malloc(SIZE), SIZE }, from = { mem, SIZE };
	pid_t child = child_that_waits();

	ASSERT_EQ(process_vm_readv(getpid(), &to, 1, &from, 1, 0), (ssize_t)SIZE);
	kill(child, SIGKILL);
	ASSERT_EQ(waitpid(child, NULL, 0), child);
	child_that_frees(_metadata);
	EXPECT_EQ(drop(), 0);
}

/* A page that only one process uses is read without the swap cache */
TEST_F_TIMEOUT(shared_free, read_from_zram, HVA_TIMEOUT)
{
	long read = hva_count("pswpin");
	size_t off;

	if (!hva_put(ZRAM "disksize", "16M"))
		SKIP(return, "no zram here");
	hva_swap_device = "/dev/zram0";
	ASSERT_TRUE(hva_swap_on(MIB(16)));
	ASSERT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
	for (off = 0; off < SIZE; off += hva_page)
		hva_touch(mem + off);
	EXPECT_GT(hva_count("pswpin") - read, 1000);
	child_that_frees(_metadata);
	EXPECT_EQ(drop(), 0);
	EXPECT_TRUE(hva_swap_off());
	hva_swap_device = NULL;
	EXPECT_TRUE(hva_put(ZRAM "reset", "1"));
}

TEST_HARNESS_MAIN
