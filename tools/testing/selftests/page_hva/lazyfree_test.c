// SPDX-License-Identifier: GPL-2.0
/*
 * page_hva=lazyfree: what MADV_FREE has given up becomes volatile while it is
 * mapped. Whoever looks at such a page finds what was last stored, or zeros, and
 * zeros from then on; whoever stores to it keeps what he has stored. With
 * page_hva=full a store needs no page fault; only the storage key knows of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "page_hva_util.h"
#include "uring.h"
#include "../kselftest_harness.h"

#ifndef MADV_FREE
#define MADV_FREE	8
#endif
#ifndef MADV_COLD
#define MADV_COLD	20
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

#define SIZE		MIB(1)
#define NR_PAGES	((long)(SIZE / hva_page))
/* What must be volatile, or gone, for a test to mean something */
#define MOST		(NR_PAGES * 9 / 10)
#define SECONDS		8

static char *mem, *want;

/* A load that the compiler cannot do without, nor do twice */
static char byte_at(const char *p)
{
	char byte;

	asm volatile("" : : : "memory");
	byte = *p;
	asm volatile("" : "+r" (byte));
	return byte;
}

/*
 * What MADV_FREE allows, byte by byte: the old content, which has no zero bytes,
 * and from some byte on zeros, if the page is dropped while we look.
 */
static bool old_or_zeros(const char *now, const char *old, size_t len,
			 bool *gone)
{
	size_t i;

	for (i = 0; i < len; i++) {
		char c = byte_at(now + i);

		if (!*gone && c == old[i])
			continue;
		if (c)
			return false;
		*gone = true;
	}
	return true;
}

struct tally {
	long old, zero, wrong;
};

/* One byte of each page may have been stored to */
struct stored {
	size_t at;
	char value;
};

static bool page_ok(const char *now, const char *old, const struct stored *st,
		    bool *gone)
{
	size_t at = st ? st->at : hva_page;

	if (!old_or_zeros(now, old, at, gone))
		return false;
	if (!st)
		return true;
	return now[at] == st->value &&
	       old_or_zeros(now + at + 1, old + at + 1, hva_page - at - 1, gone);
}

static struct tally look_at(const char *p, const struct stored *st, size_t size)
{
	struct tally t = { };
	size_t off;

	for (off = 0; off < size; off += hva_page) {
		bool gone = false;

		if (!page_ok(p + off, want + off, st, &gone))
			t.wrong++;
		/* Zeros are there to stay, also where we have looked before */
		else if (gone && !page_ok(p + off, want + off, st, &gone))
			t.wrong++;
		else if (gone)
			t.zero++;
		else
			t.old++;
	}
	return t;
}

static struct tally look(void)
{
	return look_at(mem, NULL, SIZE);
}

static void free_all(void)
{
	if (madvise(mem, SIZE, MADV_FREE))
		hva_die("MADV_FREE");
}

/* How many pages of lazily freed memory has the scanner made volatile? */
static long offer(void)
{
	long before = hva_count("hva_lazyfree");

	hva_offer();
	return hva_count("hva_lazyfree") - before;
}

static long drop(void)
{
	long offered = offer();

	hva_host_reclaim();
	return offered;
}

/* Volatile, and gone if the host is an eager one */
static void free_and_offer(struct __test_metadata *_metadata)
{
	free_all();
	EXPECT_GE(offer(), MOST);
}

static bool mode_is(const char *what)
{
	char mode[32];

	return hva_get(HVA_DIR "/mode", mode, sizeof(mode)) &&
	       !strncmp(mode, what, strlen(what));
}

static void new_memory(void)
{
	if (mem)
		munmap(mem, SIZE);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		hva_die("mmap");
	memcpy(mem, want, SIZE);
}

static void fill_memory(void)
{
	want = malloc(SIZE);
	hva_fill(want, SIZE, 1, 0);
	new_memory();
}

FIXTURE(lazyfree) {
};

FIXTURE_SETUP(lazyfree)
{
	const char *why = hva_begin(true);

	if (!why && !mode_is("lazyfree") && !mode_is("full"))
		why = "boot with page_hva=lazyfree or full";
	if (why)
		SKIP(return, "%s", why);
	fill_memory();
}

FIXTURE_TEARDOWN(lazyfree)
{
	hva_end();
}

/* What becomes volatile, and what does not */

static long may_be_dropped(const struct hva_states *s)
{
	return s->vol.resident + s->vol.zero + s->pvol.resident;
}

TEST_F_TIMEOUT(lazyfree, freed_memory_is_volatile, HVA_TIMEOUT)
{
	struct hva_states before, after;

	hva_offer();
	hva_states_read(&before);
	free_all();
	EXPECT_GE(offer(), NR_PAGES);
	hva_states_read(&after);
	EXPECT_GE(may_be_dropped(&after), may_be_dropped(&before) + NR_PAGES -
		  HVA_NOISE);
}

TEST_F_TIMEOUT(lazyfree, other_memory_is_not, HVA_TIMEOUT)
{
	EXPECT_LE(offer(), HVA_NOISE);
	hva_host_reclaim();
	EXPECT_EQ(look().old, NR_PAGES);
}

TEST_F_TIMEOUT(lazyfree, memory_stored_to_since_is_not, HVA_TIMEOUT)
{
	free_all();
	memcpy(mem, want, SIZE);
	EXPECT_LE(offer(), HVA_NOISE);
	hva_host_reclaim();
	EXPECT_EQ(look().old, NR_PAGES);
	/* Until it is freed again */
	free_all();
	EXPECT_GE(offer(), NR_PAGES);
}

TEST_F_TIMEOUT(lazyfree, memory_of_userfaultfd_is_not, HVA_TIMEOUT)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (unsigned long)mem, SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0)
		SKIP(return, "no userfaultfd");
	ASSERT_EQ(ioctl(uffd, UFFDIO_API, &api), 0);
	ASSERT_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	free_all();
	EXPECT_LE(offer(), HVA_NOISE);
	EXPECT_EQ(look().old, NR_PAGES);
	close(uffd);
	EXPECT_GE(offer(), NR_PAGES);
}

static bool scanner_sleeps(void)
{
	long scans;
	int i;

	for (i = 0; i < 20; i++) {
		scans = hva_count("hva_scan");
		sleep(6);
		if (hva_count("hva_scan") == scans)
			return true;
	}
	return false;
}

TEST_F_TIMEOUT(lazyfree, scanner_is_told_and_goes_to_sleep, HVA_TIMEOUT)
{
	long before;

	EXPECT_TRUE(scanner_sleeps());
	before = hva_count("hva_lazyfree");
	free_all();
	sleep(10);
	EXPECT_GE(hva_count("hva_lazyfree") - before, NR_PAGES);
	/* Memory that was stored to again does not keep it awake */
	memcpy(mem, want, SIZE);
	EXPECT_TRUE(scanner_sleeps());
}

/* Loads */

TEST_F_TIMEOUT(lazyfree, loads_give_zeros_once_dropped, HVA_TIMEOUT)
{
	long faults = hva_count("hva_fault");
	struct tally t;

	free_all();
	drop();
	t = look();
	EXPECT_EQ(t.wrong, 0);
	EXPECT_GE(t.zero, MOST);
	EXPECT_GE(hva_count("hva_fault") - faults, t.zero);
	/* For good, and without a fault */
	faults = hva_count("hva_fault");
	EXPECT_EQ(look().zero, t.zero);
	EXPECT_LE(hva_count("hva_fault") - faults, HVA_NOISE);
	drop();
	EXPECT_GE(look().zero, t.zero);
	/* Control: we do notice a byte that is neither */
	mem[5 * hva_page + 99] = want[5 * hva_page + 99] ^ 0x55;
	EXPECT_EQ(look().wrong, 1);
}

TEST_F_TIMEOUT(lazyfree, loads_of_the_kernel, HVA_TIMEOUT)
{
	int out = open(hva_path("out"), O_RDWR | O_CREAT, 0600);
	char *buf = malloc(SIZE);
	struct tally t;

	free_all();
	drop();
	ASSERT_EQ(pwrite(out, mem, SIZE, 0), SIZE);
	ASSERT_EQ(pread(out, buf, SIZE, 0), SIZE);
	t = look_at(buf, NULL, SIZE);
	EXPECT_EQ(t.wrong, 0);
	EXPECT_GE(t.zero, MOST);
	EXPECT_GE(look().zero, t.zero);
	EXPECT_EQ(look().wrong, 0);
	/* strncpy_from_user() and futex: no EFAULT */
	drop();
	EXPECT_EQ(access(mem, F_OK), -1);
	EXPECT_NE(errno, EFAULT);
	EXPECT_EQ(syscall(SYS_futex, mem + hva_page, FUTEX_WAIT, 0x77777777,
			  NULL), -1);
	EXPECT_EQ(errno, EAGAIN);
}

/* Stores */

static const struct stored st = { 1234, 0x5a };

static void store_all(char *p)
{
	size_t off;

	for (off = 0; off < SIZE; off += hva_page)
		p[off + st.at] = st.value;
}

/* Whatever the stores found, they keep it */
static void check_stored(struct __test_metadata *_metadata, char *p)
{
	struct tally t = look_at(p, &st, SIZE), again;

	EXPECT_EQ(t.wrong, 0);
	drop();
	again = look_at(p, &st, SIZE);
	EXPECT_EQ(again.wrong, 0);
	EXPECT_EQ(again.zero, t.zero);
}

TEST_F_TIMEOUT(lazyfree, stores_before_it_is_dropped, HVA_TIMEOUT)
{
	long found = hva_lookups();

	free_and_offer(_metadata);
	store_all(mem);
	/* Else the host knows, not we */
	if (!mode_is("full"))
		EXPECT_GE(hva_lookups() - found, NR_PAGES);
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, stores_after_it_is_dropped, HVA_TIMEOUT)
{
	free_all();
	drop();
	store_all(mem);
	EXPECT_GE(look_at(mem, &st, SIZE).zero, MOST);
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, stores_of_the_kernel, HVA_TIMEOUT)
{
	int in = open(hva_path("in"), O_RDWR | O_CREAT, 0600);
	size_t off;

	ASSERT_EQ(pwrite(in, &st.value, 1, 0), 1);
	free_and_offer(_metadata);
	for (off = 0; off < SIZE; off += hva_page)
		ASSERT_EQ(pread(in, mem + off + st.at, 1, 0), 1);
	check_stored(_metadata, mem);
	free_and_offer(_metadata);
	EXPECT_EQ(syscall(SYS_futex, want, FUTEX_WAKE_OP_PRIVATE, 0, 0, mem,
			  FUTEX_OP(FUTEX_OP_SET, 77, FUTEX_OP_CMP_EQ, 0)), 0);
	drop();
	EXPECT_EQ(*(int *)mem, 77);
}

TEST_F_TIMEOUT(lazyfree, stores_of_a_debugger, HVA_TIMEOUT)
{
	int debugger = open("/proc/self/mem", O_RDWR);
	size_t off;

	free_and_offer(_metadata);
	/* Exclusive, but not writable */
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ), 0);
	for (off = 0; off < SIZE; off += hva_page)
		ASSERT_EQ(pwrite(debugger, &st.value, 1, (off_t)mem + off + st.at), 1);
	check_stored(_metadata, mem);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ | PROT_WRITE), 0);
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, stores_after_mprotect, HVA_TIMEOUT)
{
	free_and_offer(_metadata);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_NONE), 0);
	hva_host_reclaim();
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ | PROT_WRITE), 0);
	store_all(mem);
	check_stored(_metadata, mem);
}

/* References */

TEST_F_TIMEOUT(lazyfree, get_user_pages, HVA_TIMEOUT)
{
	struct iovec local = { malloc(SIZE), SIZE }, remote = { mem, SIZE };
	struct tally t;
	size_t off;

	free_and_offer(_metadata);
	ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), SIZE);
	t = look_at(local.iov_base, NULL, SIZE);
	EXPECT_EQ(t.wrong, 0);
	EXPECT_EQ(look().wrong, 0);
	EXPECT_GE(look().zero, t.zero);
	/* Writing does not make the pte dirty, but the page */
	free_and_offer(_metadata);
	for (off = 0; off < SIZE; off += hva_page) {
		local = (struct iovec) { (void *)&st.value, 1 };
		remote = (struct iovec) { mem + off + st.at, 1 };
		ASSERT_EQ(process_vm_writev(getpid(), &local, 1, &remote, 1, 0),
			  1);
	}
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, get_user_pages_fast, HVA_TIMEOUT)
{
	int fd = open(hva_path("direct"), O_RDWR | O_CREAT | O_DIRECT, 0600);
	char *buf = malloc(SIZE);
	struct tally t;

	if (fd < 0 && errno == EINVAL)
		SKIP(return, "no direct I/O here");
	free_and_offer(_metadata);
	ASSERT_EQ(pwrite(fd, mem, SIZE, 0), SIZE);
	close(fd);
	fd = open(hva_path("direct"), O_RDWR);
	ASSERT_EQ(pread(fd, buf, SIZE, 0), SIZE);
	t = look_at(buf, NULL, SIZE);
	EXPECT_EQ(t.wrong, 0);
	EXPECT_EQ(look().wrong, 0);
	EXPECT_GE(look().zero, t.zero);
	/* And a device that stores */
	ASSERT_EQ(pwrite(fd, want, SIZE, 0), SIZE);
	ASSERT_EQ(fsync(fd), 0);
	close(fd);
	fd = open(hva_path("direct"), O_RDONLY | O_DIRECT);
	free_and_offer(_metadata);
	ASSERT_EQ(pread(fd, mem, SIZE, 0), SIZE);
	drop();
	EXPECT_EQ(look().old, NR_PAGES);
}

/* Whoever writes to it by way of pinned pages need not say that they are dirty */
TEST_F_TIMEOUT(lazyfree, written_by_registered_buffer, HVA_TIMEOUT)
{
	struct iovec iov = { mem, SIZE };
	int i, in = open(hva_path("in"), O_RDWR | O_CREAT, 0600);

	ASSERT_EQ(pwrite(in, want, SIZE, 0), SIZE);
	if (!uring_setup())
		SKIP(return, "no io_uring: %s", strerror(errno));
	for (i = 0; i < 2; i++) {
		free_all();
		if (i)
			EXPECT_GE(offer(), MOST);
		ASSERT_EQ(syscall(SYS_io_uring_register, uring.fd,
				  IORING_REGISTER_BUFFERS, &iov, 1), 0);
		ASSERT_EQ(uring_do(IORING_OP_READ_FIXED, in, mem, SIZE, 0), SIZE);
		ASSERT_EQ(syscall(SYS_io_uring_register, uring.fd,
				  IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
		drop();
		EXPECT_EQ(look().old, NR_PAGES);
	}
}

/* Those pages may have been pinned before they were freed */
TEST_F_TIMEOUT(lazyfree, written_by_buffer_registered_before, HVA_TIMEOUT)
{
	struct iovec iov = { mem, SIZE };
	int i, in = open(hva_path("in"), O_RDWR | O_CREAT, 0600);

	ASSERT_EQ(pwrite(in, want, SIZE, 0), SIZE);
	if (!uring_setup())
		SKIP(return, "no io_uring: %s", strerror(errno));
	for (i = 0; i < 3; i++) {
		memset(mem, i + 1, SIZE);
		ASSERT_EQ(syscall(SYS_io_uring_register, uring.fd,
				  IORING_REGISTER_BUFFERS, &iov, 1), 0);
		free_all();
		if (i)
			free_all();
		if (i > 1)
			EXPECT_LE(offer(), HVA_NOISE);
		ASSERT_EQ(uring_do(IORING_OP_READ_FIXED, in, mem, SIZE, 0), SIZE);
		ASSERT_EQ(syscall(SYS_io_uring_register, uring.fd,
				  IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
		drop();
		EXPECT_EQ(look().old, NR_PAGES);
	}
}

/* The first who looks is the kernel, by an address of its own */
TEST_F_TIMEOUT(lazyfree, spliced_after_it_was_freed, HVA_TIMEOUT)
{
	struct iovec iov = { mem, hva_page };
	char *buf = malloc(hva_page);
	bool gone = false;
	int pipes[2];

	ASSERT_EQ(pipe(pipes), 0);
	free_and_offer(_metadata);
	ASSERT_EQ(vmsplice(pipes[1], &iov, 1, 0), hva_page);
	ASSERT_EQ(read(pipes[0], buf, hva_page), hva_page);
	EXPECT_TRUE(page_ok(buf, want, NULL, &gone));
	EXPECT_TRUE(page_ok(mem, want, NULL, &gone));
}

TEST_F_TIMEOUT(lazyfree, memory_in_a_pipe_stays, HVA_TIMEOUT)
{
	struct iovec iov = { mem, hva_page };
	bool gone = false, gone_now = false;
	char *buf = malloc(hva_page);
	int pipes[2];

	ASSERT_EQ(pipe(pipes), 0);
	free_and_offer(_metadata);
	ASSERT_EQ(vmsplice(pipes[1], &iov, 1, 0), hva_page);
	EXPECT_TRUE(page_ok(mem, want, NULL, &gone));
	drop();
	drop();
	ASSERT_EQ(read(pipes[0], buf, hva_page), hva_page);
	EXPECT_TRUE(page_ok(buf, want, NULL, &gone_now));
	EXPECT_EQ(gone, gone_now);
}

TEST_F_TIMEOUT(lazyfree, mlocked_memory_stays, HVA_TIMEOUT)
{
	struct tally t;

	free_and_offer(_metadata);
	ASSERT_EQ(mlock(mem, SIZE), 0);
	t = look();
	EXPECT_EQ(t.wrong, 0);
	EXPECT_LE(offer(), HVA_NOISE);
	hva_host_reclaim();
	EXPECT_EQ(look().zero, t.zero);
	EXPECT_EQ(look().old, t.old);
	ASSERT_EQ(munlock(mem, SIZE), 0);
}

/* Two processes */

static int status_of(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child)
		hva_die("waitpid");
	return status;
}

/* The child's need is in its pte only */
TEST_F_TIMEOUT(lazyfree, freed_by_the_parent_not_by_the_child, HVA_TIMEOUT)
{
	int go[2];
	pid_t child;
	char c;

	ASSERT_EQ(pipe(go), 0);
	child = fork();
	if (!child) {
		read(go[0], &c, 1);
		_exit(look().old != NR_PAGES);
	}
	free_all();
	EXPECT_LE(offer(), HVA_NOISE);
	hva_host_reclaim();
	EXPECT_EQ(look().wrong, 0);
	ASSERT_EQ(write(go[1], "x", 1), 1);
	EXPECT_EQ(status_of(child), 0);
	drop();
	EXPECT_EQ(look().wrong, 0);
	store_all(mem);
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, freed_by_the_child_not_by_the_parent, HVA_TIMEOUT)
{
	int go[2], done[2];
	pid_t child;
	char c;

	ASSERT_EQ(pipe(go), 0);
	ASSERT_EQ(pipe(done), 0);
	child = fork();
	if (!child) {
		free_all();
		write(done[1], "x", 1);
		read(go[0], &c, 1);
		_exit(look().wrong != 0);
	}
	ASSERT_EQ(read(done[0], &c, 1), 1);
	drop();
	EXPECT_EQ(look().old, NR_PAGES);
	ASSERT_EQ(write(go[1], "x", 1), 1);
	EXPECT_EQ(status_of(child), 0);
	drop();
	EXPECT_EQ(look().old, NR_PAGES);
}

static void pin_all(void)
{
	struct iovec local = { malloc(SIZE), SIZE }, remote = { mem, SIZE };

	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != (ssize_t)SIZE)
		hva_die("process_vm_readv");
}

/* A copy that was made for a pin has a clean pte, in both of those who share it */
TEST_F_TIMEOUT(lazyfree, child_has_only_clean_ptes, HVA_TIMEOUT)
{
	int go[2], hold[2];
	pid_t first, child;
	char c;

	ASSERT_EQ(pipe(go), 0);
	ASSERT_EQ(pipe(hold), 0);
	first = fork();
	if (!first) {
		read(hold[0], &c, 1);
		_exit(0);
	}
	pin_all();
	child = fork();
	if (!child) {
		read(go[0], &c, 1);
		/* The only one that has it mapped */
		pin_all();
		drop();
		_exit(look().old != NR_PAGES);
	}
	free_all();
	ASSERT_EQ(munmap(mem, SIZE), 0);
	ASSERT_EQ(write(go[1], "x", 1), 1);
	EXPECT_EQ(status_of(child), 0);
	ASSERT_EQ(write(hold[1], "x", 1), 1);
	EXPECT_EQ(status_of(first), 0);
}

TEST_F_TIMEOUT(lazyfree, freed_before_the_fork, HVA_TIMEOUT)
{
	int go[2];
	pid_t child;
	struct tally t;
	char c;

	ASSERT_EQ(pipe(go), 0);
	free_and_offer(_metadata);
	child = fork();
	if (!child) {
		/* The copies are made of volatile pages */
		store_all(mem);
		t = look_at(mem, &st, SIZE);
		read(go[0], &c, 1);
		if (t.wrong || look_at(mem, &st, SIZE).zero != t.zero)
			_exit(1);
		_exit(look_at(mem, &st, SIZE).wrong != 0);
	}
	drop();
	EXPECT_EQ(look().wrong, 0);
	ASSERT_EQ(write(go[1], "x", 1), 1);
	EXPECT_EQ(status_of(child), 0);
	/* The child is gone: no copies, but ptes that were shared */
	EXPECT_EQ(look().wrong, 0);
	store_all(mem);
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, child_exits_before_the_store, HVA_TIMEOUT)
{
	pid_t child;

	free_and_offer(_metadata);
	child = fork();
	if (!child)
		_exit(0);
	EXPECT_EQ(status_of(child), 0);
	store_all(mem);
	check_stored(_metadata, mem);
}

/* Pages that move, merge or go */

TEST_F_TIMEOUT(lazyfree, moved_by_mremap, HVA_TIMEOUT)
{
	char *to = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);

	free_and_offer(_metadata);
	mem = mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	ASSERT_EQ(mem, to);
	hva_host_reclaim();
	EXPECT_EQ(look().wrong, 0);
	store_all(mem);
	check_stored(_metadata, mem);
}

TEST_F_TIMEOUT(lazyfree, unmapped_while_volatile, HVA_TIMEOUT)
{
	long freed = hva_count("hva_freed");

	free_and_offer(_metadata);
	ASSERT_EQ(munmap(mem, SIZE), 0);
	EXPECT_GE(hva_count("hva_freed") - freed, MOST);
}

TEST_F_TIMEOUT(lazyfree, migrated, HVA_TIMEOUT)
{
	struct tally t;
	long moved = 0;
	int i;

	for (i = 0; i < 4; i++) {
		hva_take_memory();
		new_memory();
		free_and_offer(_metadata);
		if (i & 1)
			hva_host_reclaim();
		if (i & 2)
			t = look();
		moved += hva_compact();
		if (i & 2)
			EXPECT_GE(look().zero, t.zero);
		EXPECT_EQ(look().wrong, 0);
	}
	/* Where pages are is a matter of luck */
	EXPECT_GE(moved, NR_PAGES);
}

static bool ksm_put(const char *name, const char *val)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", name);
	return hva_put(path, val);
}

TEST_F_TIMEOUT(lazyfree, merged_by_ksm, HVA_TIMEOUT)
{
	size_t off, half = SIZE / 2;
	long offered = 0;
	double end;

	if (!ksm_put("sleep_millisecs", "1") ||
	    !ksm_put("pages_to_scan", "1000") || !ksm_put("run", "1"))
		SKIP(return, "no KSM");
	/* All pages the same; half of them are freed again and again */
	for (off = 0; off < SIZE; off += hva_page) {
		memcpy(want + off, want, hva_page);
		memcpy(mem + off, want, hva_page);
	}
	ASSERT_EQ(madvise(mem, SIZE, MADV_MERGEABLE), 0);
	for (end = hva_now() + SECONDS; hva_now() < end;) {
		ASSERT_EQ(madvise(mem, half, MADV_FREE), 0);
		offered += drop();
		EXPECT_EQ(look().wrong, 0);
		EXPECT_EQ(look_at(mem + half, NULL, half).old, NR_PAGES / 2);
		for (off = 0; off < half; off += hva_page)
			memcpy(mem + off, want, hva_page);
		drop();
		EXPECT_EQ(look().old, NR_PAGES);
	}
	EXPECT_TRUE(ksm_put("run", "2"));
	EXPECT_TRUE(ksm_put("run", "0"));
	/* Of one round */
	EXPECT_GE(offered, MOST / 2);
	EXPECT_EQ(look().old, NR_PAGES);
}

static void wait_for_ksm(int passes)
{
	char text[32];
	long begun = -1;

	while (hva_get("/sys/kernel/mm/ksm/full_scans", text, sizeof(text))) {
		if (begun < 0)
			begun = atol(text);
		if (atol(text) >= begun + passes)
			return;
		usleep(1000);
	}
	hva_die("full_scans of KSM");
}

/*
 * No two pages are the same. Each is compared with some that KSM has seen in this
 * pass, and that were freed since.
 */
TEST_F_TIMEOUT(lazyfree, compared_by_ksm, HVA_TIMEOUT)
{
	size_t half = SIZE / 2;
	unsigned int round;
	long offered = 0;
	double end;

	if (!ksm_put("smart_scan", "0") || !ksm_put("sleep_millisecs", "1") ||
	    !ksm_put("pages_to_scan", "32") || !ksm_put("run", "1"))
		SKIP(return, "no KSM");
	ASSERT_EQ(madvise(mem, SIZE, MADV_MERGEABLE), 0);
	for (round = 0, end = hva_now() + SECONDS; hva_now() < end; round++) {
		/* Only what has not changed for a pass is looked for */
		wait_for_ksm(2);
		usleep(round % 10 * 10000);
		ASSERT_EQ(madvise(mem, half, MADV_FREE), 0);
		offered += drop();
		wait_for_ksm(1);
		EXPECT_EQ(look().wrong, 0);
		EXPECT_EQ(memcmp(mem + half, want + half, half), 0);
		memcpy(mem, want, half);
	}
	EXPECT_TRUE(ksm_put("run", "2"));
	EXPECT_TRUE(ksm_put("run", "0"));
	EXPECT_TRUE(ksm_put("smart_scan", "1"));
	EXPECT_GE(offered, MOST / 2);
	EXPECT_EQ(look().old, NR_PAGES);
}

TEST_F_TIMEOUT(lazyfree, paged_out, HVA_TIMEOUT)
{
	bool swap = hva_swap_on(MIB(8));
	struct tally t;
	int round;

	for (round = 0; round < 10; round++) {
		memcpy(mem, want, SIZE);
		free_and_offer(_metadata);
		/* Reclaimed, as ever */
		EXPECT_EQ(madvise(mem, SIZE / 2, MADV_PAGEOUT), 0);
		EXPECT_EQ(madvise(mem, SIZE, MADV_COLD), 0);
		EXPECT_EQ(look().wrong, 0);
		store_all(mem);
		t = look_at(mem, &st, SIZE);
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		offer();
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		EXPECT_EQ(madvise(mem, SIZE / 2, MADV_WILLNEED), 0);
		drop();
		EXPECT_EQ(look_at(mem, &st, SIZE).zero, t.zero);
		EXPECT_EQ(look_at(mem, &st, SIZE).old, t.old);
	}
	if (swap)
		EXPECT_TRUE(hva_swap_off());
	EXPECT_EQ(look_at(mem, &st, SIZE).zero, t.zero);
	EXPECT_EQ(look_at(mem, &st, SIZE).old, t.old);
}

/* Reclaim finds pages in use: they are kept, and may go to swap */
TEST_F_TIMEOUT(lazyfree, paged_out_while_in_use, HVA_TIMEOUT)
{
	bool swap = hva_swap_on(MIB(8));
	struct iovec iov = { mem, 16 * hva_page };
	struct tally t;
	int pipes[2], round;
	char *buf = malloc(iov.iov_len);

	ASSERT_EQ(pipe(pipes), 0);
	for (round = 0; round < 10; round++) {
		memcpy(mem, want, SIZE);
		ASSERT_EQ(vmsplice(pipes[1], &iov, 1, 0), iov.iov_len);
		free_and_offer(_metadata);
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		ASSERT_EQ(read(pipes[0], buf, iov.iov_len), iov.iov_len);
		EXPECT_EQ(look_at(buf, NULL, iov.iov_len).old, 16);
		offer();
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		drop();
		t = look();
		EXPECT_EQ(t.wrong, 0);
	}
	if (swap)
		EXPECT_TRUE(hva_swap_off());
}

/*
 * The adversary: a process that scans and reclaims until it is told to stop. The
 * others take their chances with it for some seconds.
 */
static struct {
	atomic_bool stop;
	atomic_long passes;
} *adversary;

static pid_t start_adversary(void)
{
	pid_t pid;

	adversary = mmap(NULL, hva_page, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid = fork();
	if (pid)
		return pid;
	munmap(mem, SIZE);
	while (!adversary->stop) {
		hva_scan(1);
		hva_host_reclaim();
		adversary->passes++;
		usleep(1000);
	}
	_exit(0);
}

/* Time for what is cold to become volatile and be dropped, however slow it is */
static void wait_for_adversary(void)
{
	long passes = adversary->passes;

	while (adversary->passes < passes + 3)
		usleep(1000);
}

static void stop_adversary(pid_t pid)
{
	adversary->stop = true;
	waitpid(pid, NULL, 0);
}

/* Each thread has a byte of its own in every page */
#define THREADS		8

static pthread_barrier_t barrier;
static atomic_long lost;
static atomic_bool last_round;

static void *store_a_byte(void *arg)
{
	size_t off, at = (long)arg * 509;
	unsigned char round;
	bool last = false;

	for (round = 1; !last; round = round % 255 + 1) {
		pthread_barrier_wait(&barrier);
		last = last_round;
		for (off = 0; off < SIZE; off += hva_page) {
			mem[off + at] = round;
			lost += byte_at(mem + off + at) != (char)round;
		}
		for (off = 0; off < SIZE; off += hva_page)
			lost += byte_at(mem + off + at) != (char)round;
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

TEST_F_TIMEOUT(lazyfree, many_threads_store_to_a_page, HVA_TIMEOUT)
{
	double end = hva_now() + SECONDS;
	pid_t pid = start_adversary();
	pthread_t thread[THREADS];
	long found = hva_lookups();
	int rounds = 0;

	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (long i = 0; i < THREADS; i++)
		ASSERT_EQ(pthread_create(&thread[i], NULL, store_a_byte,
					 (void *)i), 0);
	while (!last_round) {
		free_all();
		if (rounds++ % 4 == 0)
			wait_for_adversary();
		last_round = hva_now() >= end;
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	stop_adversary(pid);
	ksft_print_msg("%d rounds, %ld volatile pages found\n", rounds,
		       hva_lookups() - found);
	EXPECT_EQ(lost, 0);
	EXPECT_GE(rounds, 5);
	/* The host asks the key about the rest */
	EXPECT_GE(hva_lookups() - found, mode_is("full") ? 20 : 100);
}

/*
 * Everything at once, against a model. A sector has a version; version 0 is zeros.
 * A page that was freed has sectors that were stored to since, and others, which
 * are all as before, or all zeros from some moment on.
 */
#define SECTOR		512
#define SECTORS		8	/* in a page */
#define CHUNK_PAGES	8
#define CHUNKS		12
#define PAGES		(CHUNKS * CHUNK_PAGES)
#define WORKERS		4

static struct model {
	unsigned int rnd, seed, version;
	char *chunk[CHUNKS];
	struct page {
		unsigned short version[SECTORS];
		unsigned char stored;	/* sectors, since it was freed */
		bool freed;
	} page[PAGES];
	long checks, zeros;
	int direct;	/* a file for direct I/O */
	char *buf;
	bool control;	/* a mistake is in it on purpose */
} model;

static unsigned int pick(unsigned int n)
{
	return rand_r(&model.rnd) % n;
}

static char *address(unsigned int nr)
{
	return model.chunk[nr / CHUNK_PAGES] + nr % CHUNK_PAGES * hva_page;
}

static void sector_content(char *buf, unsigned int nr, int sector)
{
	unsigned int version = model.page[nr].version[sector];

	memset(buf, 0, SECTOR);
	if (version)
		hva_fill(buf, SECTOR, model.seed << 16 | version,
			 nr * hva_page + sector * SECTOR);
}

/* Is what was found as it should be? */
static bool page_as_modelled(unsigned int nr, const char *found, bool *gone)
{
	struct page *page = &model.page[nr];
	char old[SECTOR];
	int s;

	for (s = 0; s < SECTORS; s++) {
		bool kept = false;
		bool fixed = !page->freed || page->stored & 1 << s;

		sector_content(old, nr, s);
		if (!old_or_zeros(found + s * SECTOR, old, SECTOR,
				  fixed ? &kept : gone))
			return false;
		if (fixed && kept)
			return false;
	}
	return true;
}

static void check_page(unsigned int nr, const char *found)
{
	struct page *page = &model.page[nr];
	bool gone = false, ok;
	int s;

	model.checks++;
	ok = page_as_modelled(nr, found, &gone);
	/* Dropped while we looked at it: it must be all zeros now */
	if (ok && gone)
		ok = page_as_modelled(nr, address(nr), &gone);
	if (!ok && model.control)
		_exit(42);
	if (!ok) {
		fprintf(stderr, "# seed %u page %u freed %d stored %#x: wrong\n",
			model.seed, nr, page->freed, page->stored);
		for (s = 0; s < SECTORS; s++)
			fprintf(stderr, "# sector %d version %u: %#lx now %#lx\n", s,
				page->version[s],
				*(unsigned long *)(found + s * SECTOR),
				*(unsigned long *)(address(nr) + s * SECTOR));
		_exit(1);
	}
	if (gone) {
		model.zeros++;
		for (s = 0; s < SECTORS; s++) {
			if (!(page->stored & 1 << s))
				page->version[s] = 0;
		}
	}
	/* Stored to: from now on it is what it is */
	if (gone || page->stored)
		page->freed = false;
}

/* One for each process: they have different pages at the same place */
static void open_direct(void)
{
	char name[32];

	snprintf(name, sizeof(name), "direct%d", getpid());
	model.direct = open(hva_path(name), O_RDWR | O_CREAT | O_DIRECT, 0600);
	if (model.direct < 0)
		model.direct = open(hva_path(name), O_RDWR | O_CREAT, 0600);
	unlink(hva_path(name));
}

static void check_some(unsigned int how)
{
	unsigned int nr = pick(PAGES);
	char *buf = model.buf;
	struct iovec local = { buf, hva_page }, remote = { address(nr), hva_page };

	switch (how) {
	case 0:
		if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) !=
		    (ssize_t)hva_page)
			hva_die("process_vm_readv");
		check_page(nr, buf);
		break;
	case 1:
		if (pwrite(model.direct, address(nr), hva_page,
			   nr * hva_page) != (ssize_t)hva_page ||
		    pread(model.direct, buf, hva_page, nr * hva_page) !=
		    (ssize_t)hva_page)
			hva_die("direct I/O");
		check_page(nr, buf);
		break;
	default:
		check_page(nr, address(nr));
		break;
	}
}

static void store_some(unsigned int how)
{
	unsigned int nr = pick(PAGES), s = pick(SECTORS);
	struct page *page = &model.page[nr];
	char buf[SECTOR], *to = address(nr) + s * SECTOR;
	struct iovec local = { buf, SECTOR }, remote = { to, SECTOR };

	model.version = model.version % 60000 + 1;
	page->version[s] = model.version;
	if (page->freed)
		page->stored |= 1 << s;
	sector_content(buf, nr, s);
	switch (how) {
	case 0:
		if (process_vm_writev(getpid(), &local, 1, &remote, 1, 0) !=
		    SECTOR)
			hva_die("process_vm_writev");
		break;
	case 1:
		memset(to, 0x33, SECTOR);
		memcpy(to, buf, SECTOR);
		break;
	default:
		memcpy(to, buf, SECTOR);
		break;
	}
}

static void free_some(void)
{
	unsigned int nr = pick(PAGES), end = nr + 1 + pick(CHUNK_PAGES);

	for (; nr < end && nr < PAGES; nr++) {
		/* Before it may be gone: what do we have? */
		if (model.page[nr].freed && model.page[nr].stored)
			check_page(nr, address(nr));
		if (madvise(address(nr), hva_page, MADV_FREE))
			hva_die("MADV_FREE");
		model.page[nr].freed = true;
		model.page[nr].stored = 0;
	}
}

static void zap_some(void)
{
	unsigned int c = pick(CHUNKS);

	if (pick(2)) {
		munmap(model.chunk[c], CHUNK_PAGES * hva_page);
		model.chunk[c] = mmap(NULL, CHUNK_PAGES * hva_page,
				      PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	} else {
		madvise(model.chunk[c], CHUNK_PAGES * hva_page, MADV_DONTNEED);
	}
	memset(&model.page[c * CHUNK_PAGES], 0,
	       CHUNK_PAGES * sizeof(model.page[0]));
}

static void move_some(void)
{
	size_t size = CHUNK_PAGES * hva_page;
	unsigned int c = pick(CHUNKS);
	char *to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);

	model.chunk[c] = mremap(model.chunk[c], size, size,
				MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (model.chunk[c] == MAP_FAILED)
		hva_die("mremap");
}

static void advise_some(void)
{
	static const int advice[] = {
		MADV_PAGEOUT, MADV_COLD, MADV_WILLNEED, MADV_POPULATE_WRITE,
		MADV_POPULATE_READ,
	};
	char *p = model.chunk[pick(CHUNKS)];
	size_t size = CHUNK_PAGES * hva_page;

	switch (pick(8)) {
	case 0:
		mprotect(p, size, PROT_READ);
		mprotect(p, size, PROT_READ | PROT_WRITE);
		break;
	case 1:
		if (mlock(p, size))
			hva_die("mlock");
		if (munlock(p, size))
			hva_die("munlock");
		break;
	default:
		madvise(p, size, advice[pick(ARRAY_SIZE(advice))]);
		break;
	}
}

static void check_all(void)
{
	unsigned int nr;

	for (nr = 0; nr < PAGES; nr++)
		check_page(nr, address(nr));
}

static void random_steps(long steps, int depth);

/* The child goes on with what it has inherited; both go on at the same time */
static void fork_some(int depth)
{
	bool wait = pick(2);
	pid_t child;

	if (depth >= 2)
		return;
	child = fork();
	if (!child) {
		model.rnd += 12345;
		close(model.direct);
		open_direct();
		random_steps(20 + pick(200), depth + 1);
		check_all();
		_exit(0);
	}
	if (!wait)
		random_steps(pick(100), depth + 1);
	if (status_of(child)) {
		fprintf(stderr, "# the child of seed %u failed\n", model.seed);
		_exit(1);
	}
}

static void random_steps(long steps, int depth)
{
	while (steps--) {
		switch (pick(100)) {
		case 0 ... 34:
			store_some(pick(6));
			break;
		case 35 ... 69:
			check_some(pick(8));
			break;
		case 70 ... 84:
			free_some();
			break;
		case 85 ... 86:
			zap_some();
			break;
		case 87 ... 89:
			move_some();
			break;
		case 90 ... 93:
			advise_some();
			break;
		case 94:
			fork_some(depth);
			break;
		default:
			/* Give the scanner a chance */
			usleep(2000);
			break;
		}
	}
}

static void random_worker(unsigned int nr)
{
	const char *seed = getenv("PAGE_HVA_SEED");
	double end = hva_now() + 2 * SECONDS;
	int i;

	model.seed = nr + 1;
	model.rnd = nr * 7919 + (seed ? strtoul(seed, NULL, 0) : getpid());
	fprintf(stderr, "# worker %u: PAGE_HVA_SEED=%u\n", nr,
		model.rnd - nr * 7919);
	open_direct();
	model.buf = mmap(NULL, hva_page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < CHUNKS; i++)
		model.chunk[i] = mmap(NULL, CHUNK_PAGES * hva_page,
				      PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	while (hva_now() < end)
		random_steps(50, 0);
	check_all();
	fprintf(stderr, "# worker %u: %ld checks, %ld pages found dropped\n", nr,
		model.checks, model.zeros);
	/* Control: the model is able to find a mistake */
	model.page[0] = (struct page) { };
	model.control = true;
	address(0)[77] = 1;
	check_page(0, address(0));
	_exit(0);
}

TEST_F_TIMEOUT(lazyfree, random_against_a_model, HVA_TIMEOUT)
{
	pid_t pid[WORKERS], other = start_adversary();
	long found = hva_count("hva_discarded");
	int i;

	EXPECT_TRUE(hva_swap_on(MIB(16)));
	for (i = 0; i < WORKERS; i++) {
		pid[i] = fork();
		if (!pid[i])
			random_worker(i);
	}
	/* The worker's control has found its mistake, and nothing else has */
	for (i = 0; i < WORKERS; i++)
		EXPECT_EQ(status_of(pid[i]), 42 << 8);
	stop_adversary(other);
	ksft_print_msg("%ld dropped pages found\n",
		       hva_count("hva_discarded") - found);
	EXPECT_GE(hva_count("hva_discarded") - found, 100);
	EXPECT_TRUE(hva_swap_off());
}

/* The dirty bit in the storage key */

FIXTURE(potential) {
};

FIXTURE_SETUP(potential)
{
	const char *why = hva_begin(true);

	if (!why && !mode_is("full"))
		why = "boot with page_hva=full";
	if (why)
		SKIP(return, "%s", why);
	fill_memory();
}

FIXTURE_TEARDOWN(potential)
{
	hva_end();
}

static long page_faults(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return ru.ru_minflt + ru.ru_majflt;
}

static long stored(void)
{
	return look_at(mem, &st, SIZE).wrong == 0;
}

TEST_F_TIMEOUT(potential, freed_memory_is_potentially_volatile, HVA_TIMEOUT)
{
	long before = hva_count("hva_potential");
	struct hva_states states;

	free_and_offer(_metadata);
	EXPECT_GE(hva_count("hva_potential") - before, NR_PAGES);
	/* An eager host has dropped them all */
	hva_states_read(&states);
	EXPECT_GE(states.pvol.resident + states.vol.zero, NR_PAGES);
}

TEST_F_TIMEOUT(potential, first_store_is_no_page_fault, HVA_TIMEOUT)
{
	long faults;
	char *other;

	free_all();
	faults = page_faults();
	store_all(mem);
	EXPECT_LE(page_faults() - faults, HVA_NOISE);
	check_stored(_metadata, mem);
	/* Control: where the key is not asked it is one */
	other = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	faults = page_faults();
	store_all(other);
	EXPECT_GE(page_faults() - faults, NR_PAGES);
}

/* The host asks the key, and stores that come after the scanner are in it */
TEST_F_TIMEOUT(potential, what_was_stored_to_is_not_dropped, HVA_TIMEOUT)
{
	struct tally t;
	long faults;
	int i;

	free_and_offer(_metadata);
	faults = page_faults();
	store_all(mem);
	EXPECT_LE(page_faults() - faults, HVA_NOISE);
	t = look_at(mem, &st, SIZE);
	EXPECT_EQ(t.wrong, 0);
	for (i = 0; i < 3; i++) {
		drop();
		EXPECT_EQ(look_at(mem, &st, SIZE).zero, t.zero);
		EXPECT_EQ(look_at(mem, &st, SIZE).wrong, 0);
	}
}

TEST_F_TIMEOUT(potential, freed_again, HVA_TIMEOUT)
{
	int round;

	for (round = 0; round < 10; round++) {
		struct tally t;

		memcpy(mem, want, SIZE);
		free_all();
		if (round & 1)
			EXPECT_GE(offer(), MOST);
		store_all(mem);
		if (round & 2)
			drop();
		EXPECT_TRUE(stored());
		/* The key is asked anew: it must not remember those stores */
		free_all();
		drop();
		t = look();
		EXPECT_GE(t.zero, MOST);
		EXPECT_EQ(t.wrong + t.old, NR_PAGES - t.zero);
	}
}

/* The ptes are not tracked by the key any more, and the pages still volatile */
TEST_F_TIMEOUT(potential, freed_again_once_protected, HVA_TIMEOUT)
{
	free_and_offer(_metadata);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ), 0);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ | PROT_WRITE), 0);
	free_all();
	store_all(mem);
	drop();
	check_stored(_metadata, mem);
}

/* The last mapping that can be written to is gone: no need to ask the key */
TEST_F_TIMEOUT(potential, read_only_is_plain_volatile, HVA_TIMEOUT)
{
	struct hva_states before, after;

	free_and_offer(_metadata);
	hva_states_read(&before);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ), 0);
	hva_states_read(&after);
	EXPECT_LE(after.pvol.resident,
		  before.pvol.resident - before.pvol.resident * 9 / 10 + HVA_NOISE);
	EXPECT_GE(after.vol.resident + after.vol.zero, MOST);
	ASSERT_EQ(mprotect(mem, SIZE, PROT_READ | PROT_WRITE), 0);
	store_all(mem);
	check_stored(_metadata, mem);
}

/*
 * What takes the pte away or changes it gets the dirty bit: the stores were in the
 * key alone, before and after the scanner came.
 */
static void store_by_key(struct __test_metadata *_metadata, bool volatile_before)
{
	free_all();
	if (volatile_before)
		EXPECT_GE(offer(), MOST);
	store_all(mem);
}

TEST_F_TIMEOUT(potential, stored_to_and_protected, HVA_TIMEOUT)
{
	int i;

	for (i = 0; i < 2; i++) {
		store_by_key(_metadata, i);
		ASSERT_EQ(mprotect(mem, SIZE, PROT_NONE), 0);
		hva_offer();
		hva_host_reclaim();
		ASSERT_EQ(mprotect(mem, SIZE, PROT_READ | PROT_WRITE), 0);
		check_stored(_metadata, mem);
	}
}

TEST_F_TIMEOUT(potential, stored_to_and_moved, HVA_TIMEOUT)
{
	int i;

	for (i = 0; i < 2; i++) {
		char *to = mmap(NULL, SIZE, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		store_by_key(_metadata, i);
		mem = mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		ASSERT_EQ(mem, to);
		check_stored(_metadata, mem);
	}
}

TEST_F_TIMEOUT(potential, stored_to_and_paged_out, HVA_TIMEOUT)
{
	bool swap = hva_swap_on(MIB(8));
	int i;

	for (i = 0; i < 10; i++) {
		store_by_key(_metadata, i & 1);
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		EXPECT_EQ(madvise(mem, SIZE, MADV_PAGEOUT), 0);
		check_stored(_metadata, mem);
	}
	if (swap)
		EXPECT_TRUE(hva_swap_off());
	EXPECT_TRUE(stored());
}

TEST_F_TIMEOUT(potential, stored_to_and_aged, HVA_TIMEOUT)
{
	int i;

	for (i = 0; i < 2; i++) {
		store_by_key(_metadata, i);
		/* Not young: the next store is a page fault */
		EXPECT_EQ(madvise(mem, SIZE, MADV_COLD), 0);
		check_stored(_metadata, mem);
		free_all();
		EXPECT_EQ(madvise(mem, SIZE, MADV_COLD), 0);
		EXPECT_GE(drop(), MOST);
		store_all(mem);
		check_stored(_metadata, mem);
	}
}

/* What has been stored to since, by a pte that is old, is freed all the same */
TEST_F_TIMEOUT(potential, freed_again_when_old, HVA_TIMEOUT)
{
	store_by_key(_metadata, 0);
	EXPECT_EQ(madvise(mem, SIZE, MADV_COLD), 0);
	free_all();
	drop();
	EXPECT_GE(look().zero, MOST);
}

TEST_F_TIMEOUT(potential, stored_to_and_migrated, HVA_TIMEOUT)
{
	long moved = 0;
	int i;

	for (i = 0; i < 4; i++) {
		hva_take_memory();
		new_memory();
		store_by_key(_metadata, i & 1);
		moved += hva_compact();
		check_stored(_metadata, mem);
	}
	/* Where pages are is a matter of luck */
	EXPECT_GE(moved, NR_PAGES);
}

/* Which of the two goes first, and does either store again? */
TEST_F_TIMEOUT(potential, stored_to_and_forked, HVA_TIMEOUT)
{
	int i, go[2];
	pid_t child;
	char c;

	ASSERT_EQ(pipe(go), 0);
	for (i = 0; i < 4; i++) {
		store_by_key(_metadata, i & 1);
		child = fork();
		if (!child) {
			read(go[0], &c, 1);
			drop();
			_exit(!stored());
		}
		if (i & 2)
			memcpy(mem, want, SIZE);
		else
			free_all();
		drop();
		ASSERT_EQ(write(go[1], "x", 1), 1);
		EXPECT_EQ(status_of(child), 0);
		memcpy(mem, want, SIZE);
	}
}

/* The parent's pte was the only one that knew, and is gone */
TEST_F_TIMEOUT(potential, stored_to_and_inherited, HVA_TIMEOUT)
{
	int i, go[2];
	pid_t child;
	char c;

	ASSERT_EQ(pipe(go), 0);
	for (i = 0; i < 2; i++) {
		store_by_key(_metadata, i);
		child = fork();
		if (!child) {
			read(go[0], &c, 1);
			madvise(mem, SIZE, MADV_PAGEOUT);
			drop();
			_exit(!stored());
		}
		ASSERT_EQ(madvise(mem, SIZE, MADV_DONTNEED), 0);
		ASSERT_EQ(write(go[1], "x", 1), 1);
		EXPECT_EQ(status_of(child), 0);
		memcpy(mem, want, SIZE);
	}
}

static long smaps_kib(const char *name)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	bool inside = false;
	char line[256];
	long kib = 0;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start <= (unsigned long)mem &&
				 end > (unsigned long)mem;
		else if (inside && !strncmp(line, name, strlen(name)))
			kib = atol(line + strlen(name));
	}
	if (f)
		fclose(f);
	return kib;
}

TEST_F_TIMEOUT(potential, smaps_asks_the_key, HVA_TIMEOUT)
{
	free_and_offer(_metadata);
	EXPECT_EQ(smaps_kib("Private_Dirty:") * 1024 / SIZE, 0);
	store_all(mem);
	EXPECT_GE(smaps_kib("Private_Dirty:") * 1024, SIZE);
}

/* -1 if there is no such file */
static long numa_maps_dirty(void)
{
	FILE *f = fopen("/proc/self/numa_maps", "r");
	long pages = f ? 0 : -1;
	char line[256], *dirty;

	while (f && fgets(line, sizeof(line), f)) {
		dirty = strstr(line, " dirty=");
		if (strtoul(line, NULL, 16) == (unsigned long)mem && dirty)
			pages = atol(dirty + strlen(" dirty="));
	}
	if (f)
		fclose(f);
	return pages;
}

TEST_F_TIMEOUT(potential, numa_maps_asks_the_key, HVA_TIMEOUT)
{
	free_and_offer(_metadata);
	if (numa_maps_dirty() < 0)
		SKIP(return, "no numa_maps here");
	EXPECT_LE(numa_maps_dirty(), HVA_NOISE);
	store_all(mem);
	EXPECT_GE(numa_maps_dirty(), NR_PAGES);
}

/* Soft-dirty bits come with page faults, which there must be then */

static long not_soft_dirty(const char *p)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	unsigned long entry;
	long clean = 0;
	size_t off;

	for (off = 0; off < SIZE; off += hva_page) {
		if (pread(pagemap, &entry, 8,
			  (off_t)((unsigned long)p + off) / hva_page * 8) != 8)
			hva_die("pagemap");
		clean += !(entry >> 55 & 1);
	}
	close(pagemap);
	return clean;
}

TEST_F_TIMEOUT(potential, soft_dirty_is_not_missed, HVA_TIMEOUT)
{
	store_all(mem);
	if (not_soft_dirty(mem))
		SKIP(return, "no soft-dirty bits");
	free_and_offer(_metadata);
	ASSERT_TRUE(hva_put("/proc/self/clear_refs", "4"));
	/* Control */
	EXPECT_GE(not_soft_dirty(mem), NR_PAGES);
	store_all(mem);
	EXPECT_EQ(not_soft_dirty(mem), 0);
	check_stored(_metadata, mem);
	/* Watched from now on: MADV_FREE makes ptes clean, as ever */
	free_all();
	ASSERT_TRUE(hva_put("/proc/self/clear_refs", "4"));
	store_all(mem);
	EXPECT_EQ(not_soft_dirty(mem), 0);
}

TEST_HARNESS_MAIN
