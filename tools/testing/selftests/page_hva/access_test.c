// SPDX-License-Identifier: GPL-2.0
/*
 * The host has dropped all of a file's page cache, and then somebody comes to
 * the content by a way of his own: io_uring, pipes, direct I/O from and into
 * the file's own mapping, a debugger, a tracer, an interrupt.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "page_hva_util.h"
#include "uring.h"
#include "../kselftest_harness.h"

#define SIZE		MIB(1)
#define PAGES		(SIZE / hva_page)
/* A page may be in use for a moment, or not any more */
#define MOST		(PAGES / 32 * 31)

#define TRACING		"/sys/kernel/tracing/"

FIXTURE(access) {
	int fd;
	char *buf;
	long discarded;
};

FIXTURE_SETUP(access)
{
	const char *why = hva_begin(true);

	if (why)
		SKIP(return, "%s", why);
	self->fd = hva_create("file", SIZE, 1);
	self->buf = calloc(1, SIZE);
	hva_discard();
	self->discarded = hva_count("hva_discarded");
}

FIXTURE_TEARDOWN(access)
{
	hva_end();
}

/* How many discarded pages have been met since set-up? */
static long met(const FIXTURE_DATA(access) *self)
{
	return hva_count("hva_discarded") - self->discarded;
}

static bool differs(const void *buf)
{
	return hva_differs(buf, SIZE, 1, 0) >= 0;
}

static char *map_file(int fd, int prot, int flags)
{
	char *map = mmap(NULL, SIZE, prot, flags, fd, 0);

	if (map == MAP_FAILED)
		hva_die("mmap");
	return map;
}

/*
 * Pages are dropped while they are mapped only where nobody can write to them by
 * a shared mapping: one of a file that is open for reading. Page by page, so that
 * a touch brings back no others.
 */
static char *map_read_only(int prot, int flags)
{
	int fd = open(hva_path("file"), O_RDONLY);
	char *map = map_file(fd, prot, flags);

	close(fd);
	if (madvise(map, SIZE, MADV_RANDOM))
		hva_die("madvise");
	return map;
}

/* Are they dropped while they are present in the page table of whoever touches? */
static bool drop_mapped(void (*touch)(const char *map, size_t size),
			const char *map)
{
	long unmapped = hva_count("hva_unmapped");
	long mapped = hva_discard_mapped(touch, map, SIZE);

	if (hva_stays_mapped())
		return mapped >= MOST;
	return hva_count("hva_unmapped") - unmapped >= MOST;
}

/* Discard faults since then: at least so many, or none where all is unmapped */
static bool faulted(long before, long pages)
{
	long n = hva_count("hva_fault") - before;

	ksft_print_msg("%ld discard faults\n", n);
	return hva_stays_mapped() ? n >= pages : !n;
}

/* io_uring */

TEST_F_TIMEOUT(access, io_uring, HVA_TIMEOUT)
{
	struct iovec iov = { self->buf, SIZE };
	int out = open(hva_path("out"), O_RDWR | O_CREAT, 0600);
	char *map = map_read_only(PROT_READ, MAP_SHARED);
	size_t off;
	long faults;

	if (!uring_setup())
		SKIP(return, "no io_uring: %s", strerror(errno));
	for (off = 0; off < SIZE; off += KIB(64))
		ASSERT_EQ(uring_do(IORING_OP_READ, self->fd, self->buf + off,
				   KIB(64), off), KIB(64));
	EXPECT_FALSE(differs(self->buf));
	EXPECT_GE(met(self), PAGES);

	/* Into memory that is pinned for good */
	if (!syscall(SYS_io_uring_register, uring.fd, IORING_REGISTER_BUFFERS,
		     &iov, 1)) {
		memset(self->buf, 0, SIZE);
		hva_discard();
		for (off = 0; off < SIZE; off += KIB(64))
			ASSERT_EQ(uring_do(IORING_OP_READ_FIXED, self->fd,
					   self->buf + off, KIB(64), off),
				  KIB(64));
		EXPECT_FALSE(differs(self->buf));
	}

	/* From a mapping that was discarded */
	ASSERT_TRUE(drop_mapped(hva_touch_all, map));
	faults = hva_count("hva_fault");
	ASSERT_EQ(uring_do(IORING_OP_WRITE, out, map, SIZE, 0), SIZE);
	EXPECT_TRUE(faulted(faults, MOST));
	EXPECT_EQ(hva_check(out, SIZE, 1), 0);
	/* ... and into one: the file becomes what it was */
	munmap(map, SIZE);
	map = map_file(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	EXPECT_FALSE(differs(map));
	ASSERT_EQ(fsync(out), 0);
	hva_discard();
	ASSERT_EQ(uring_do(IORING_OP_READ, out, map + 1000, SIZE - 2000, 1000),
		  SIZE - 2000);
	EXPECT_FALSE(differs(map));
	EXPECT_GE(met(self), 3 * PAGES);
}

/* The kernel looks pages up in batches: the first that is gone may be the last */
TEST_F_TIMEOUT(access, read_behind_what_is_there, HVA_TIMEOUT)
{
	static const size_t there[] = { 1, 14, 15, 16, 29, 30, 31, 32, 63 };
	size_t i, page, len = 64 * hva_page;

	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_RANDOM), 0);
	for (i = 0; i < ARRAY_SIZE(there); i++) {
		hva_discard();
		for (page = 0; page < there[i]; page++)
			ASSERT_EQ(pread(self->fd, self->buf, 1,
					page * hva_page), 1);
		memset(self->buf, 0, len);
		EXPECT_EQ(pread(self->fd, self->buf, len, 0), len);
		EXPECT_EQ(hva_differs(self->buf, len, 1, 0), -1);
	}
	EXPECT_GE(met(self), ARRAY_SIZE(there) * 64);
}

/* Pipes */

/* Read exactly that much */
static bool read_all(int fd, char *buf, size_t len)
{
	ssize_t n;

	for (; len; buf += n, len -= n) {
		n = read(fd, buf, len);
		if (n <= 0)
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(access, file_to_tee_to_file, HVA_TIMEOUT)
{
	int out = open(hva_path("out"), O_RDWR | O_CREAT, 0600);
	loff_t from = 0, to = 0;
	int one[2], two[2];
	ssize_t n, m;

	ASSERT_EQ(pipe(one) | pipe(two), 0);
	while (from < SIZE) {
		n = splice(self->fd, &from, one[1], NULL, KIB(32), 0);
		ASSERT_GT(n, 0);
		ASSERT_EQ(tee(one[0], two[1], n, 0), n);
		/* What is in two pipes is not dropped */
		hva_scan(3);
		ASSERT_TRUE(read_all(one[0], self->buf + from - n, n));
		for (; n; n -= m) {
			m = splice(two[0], NULL, out, &to, n, 0);
			ASSERT_GT(m, 0);
		}
	}
	EXPECT_FALSE(differs(self->buf));
	EXPECT_GE(met(self), PAGES);
	ASSERT_EQ(fsync(out), 0);
	hva_discard();
	EXPECT_EQ(hva_check(out, SIZE, 1), 0);
}

TEST_F_TIMEOUT(access, mapping_to_pipe, HVA_TIMEOUT)
{
	char *map = map_read_only(PROT_READ, MAP_SHARED);
	struct iovec iov;
	int p[2];
	size_t off;
	ssize_t n;

	ASSERT_TRUE(drop_mapped(hva_touch_all, map));
	ASSERT_EQ(pipe(p), 0);
	for (off = 0; off < SIZE; off += n) {
		iov = (struct iovec) { map + off, KIB(32) };
		n = vmsplice(p[1], &iov, 1, 0);
		ASSERT_GT(n, 0);
		hva_scan(3);
		hva_host_reclaim();
		ASSERT_TRUE(read_all(p[0], self->buf + off, n));
	}
	EXPECT_FALSE(differs(self->buf));
	EXPECT_GE(met(self), PAGES);
}

/* The buffer of direct I/O is page cache of the same file */
TEST_F_TIMEOUT(access, direct_io_into_own_mapping, HVA_TIMEOUT)
{
	char *map = map_file(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	int fd = open(hva_path("file"), O_RDWR | O_DIRECT);
	size_t n = KIB(128);

	if (fd < 0 && errno == EINVAL)
		SKIP(return, "no direct I/O here");
	/* The first part becomes the third, by reading */
	ASSERT_EQ(pread(fd, map + 2 * n, n, 0), n);
	EXPECT_EQ(hva_differs(map, 2 * n, 1, 0), -1);
	EXPECT_EQ(hva_differs(map + 2 * n, n, 1, 0), -1);
	EXPECT_EQ(hva_differs(map + 3 * n, SIZE - 3 * n, 1, 3 * n), -1);
	/* The second part becomes the fourth, by writing */
	ASSERT_EQ(fsync(fd), 0);
	hva_discard();
	ASSERT_EQ(pwrite(fd, map + n, n, 3 * n), n);
	EXPECT_EQ(hva_differs(map + 3 * n, n, 1, n), -1);
	EXPECT_GE(met(self), 3);

	hva_discard();
	ASSERT_EQ(pread(self->fd, self->buf, SIZE, 0), SIZE);
	EXPECT_EQ(hva_differs(self->buf, 2 * n, 1, 0), -1);
	EXPECT_EQ(hva_differs(self->buf + 2 * n, n, 1, 0), -1);
	EXPECT_EQ(hva_differs(self->buf + 3 * n, n, 1, n), -1);
	EXPECT_EQ(hva_differs(self->buf + 4 * n, SIZE - 4 * n, 1, 4 * n), -1);
}

/* The memory of another process, which has the pages in its page table */

static struct {
	pid_t pid;
	int ask, answer;
} other;

/* Touches its pages whenever it is asked to */
static void start_other(const char *map)
{
	int ask[2], answer[2];
	char c;

	if (pipe(ask) || pipe(answer))
		hva_die("pipe");
	other.pid = fork();
	if (!other.pid) {
		close(ask[1]);
		while (read(ask[0], &c, 1) == 1) {
			hva_touch_all(map, SIZE);
			if (write(answer[1], &c, 1) != 1)
				break;
		}
		_exit(0);
	}
	close(ask[0]);
	close(answer[1]);
	other.ask = ask[1];
	other.answer = answer[0];
}

static void touch_in_other(const char *map, size_t size)
{
	char c = 0;

	if (write(other.ask, &c, 1) != 1 || read(other.answer, &c, 1) != 1)
		hva_die("other process");
}

static void end_other(void)
{
	kill(other.pid, SIGKILL);
	waitpid(other.pid, NULL, 0);
	close(other.ask);
	close(other.answer);
}

static void do_not_touch(const char *map, size_t size)
{
}

TEST_F_TIMEOUT(access, memory_of_another_process, HVA_TIMEOUT)
{
	char *map = map_read_only(PROT_READ, MAP_SHARED), path[64];
	struct iovec local = { self->buf, SIZE }, remote = { map, SIZE };
	int mem;

	start_other(map);
	munmap(map, SIZE);
	ASSERT_TRUE(drop_mapped(touch_in_other, map));
	ASSERT_EQ(process_vm_readv(other.pid, &local, 1, &remote, 1, 0), SIZE);
	EXPECT_FALSE(differs(self->buf));

	snprintf(path, sizeof(path), "/proc/%d/mem", other.pid);
	mem = open(path, O_RDWR);
	memset(self->buf, 0, SIZE);
	ASSERT_TRUE(drop_mapped(touch_in_other, map));
	ASSERT_EQ(pread(mem, self->buf, SIZE, (off_t)map), SIZE);
	EXPECT_FALSE(differs(self->buf));
	/* Dropped at first, and under the mapping */
	EXPECT_GE(met(self), PAGES + 2 * MOST);
	close(mem);
	end_other();
}

TEST_F_TIMEOUT(access, debugger, HVA_TIMEOUT)
{
	char *map = map_read_only(PROT_READ, MAP_PRIVATE);
	long want[2], got;
	size_t off, wrong = 0;
	int status;
	pid_t pid;

	start_other(map);
	pid = other.pid;
	munmap(map, SIZE);
	ASSERT_TRUE(drop_mapped(touch_in_other, map));
	ASSERT_EQ(ptrace(PTRACE_ATTACH, pid, NULL, NULL), 0);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	for (off = 0; off < SIZE; off += hva_page) {
		hva_fill(want, 8, 1, off + 16);
		errno = 0;
		got = ptrace(PTRACE_PEEKDATA, pid, map + off + 16, NULL);
		wrong += errno || got != want[0];
	}
	EXPECT_EQ(wrong, 0);

	/* A breakpoint: written into the process, not into the file */
	ASSERT_TRUE(drop_mapped(do_not_touch, map));
	ASSERT_EQ(ptrace(PTRACE_POKEDATA, pid, map + 5 * hva_page, 0x1234), 0);
	hva_fill(want, 16, 1, 5 * hva_page);
	errno = 0;
	EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, map + 5 * hva_page, NULL),
		  0x1234);
	EXPECT_EQ(ptrace(PTRACE_PEEKDATA, pid, map + 5 * hva_page + 8, NULL),
		  want[1]);
	EXPECT_EQ(errno, 0);
	EXPECT_GE(met(self), PAGES + MOST + 1);
	end_other();
	EXPECT_EQ(hva_check(self->fd, SIZE, 1), 0);
}

/* Tracers */

#define PROBE_ENABLE	TRACING "events/page_hva_test/enable"

/* Does a file of tracefs have that text? */
static bool trace_has(const char *file, const char *text, char **where)
{
	static char buf[MIB(1)];
	char path[128];

	snprintf(path, sizeof(path), TRACING "%s", file);
	if (!hva_get(path, buf, sizeof(buf)))
		hva_die("%s", path);
	*where = strstr(buf, text);
	return *where;
}

static bool add_probe(const char *file, const char *probe)
{
	int fd = open(file, O_WRONLY | O_APPEND);
	ssize_t n;

	if (fd < 0)
		return false;
	n = write(fd, probe, strlen(probe));
	close(fd);
	return n == (ssize_t)strlen(probe);
}

#ifdef __s390x__
/* A function that returns 42: lghi %r2,42; br %r14 */
static const unsigned char code[] = { 0xa7, 0x29, 0x00, 0x2a, 0x07, 0xfe };
#else
static const unsigned char code[] = { };
#endif

/* Exit status of a process that calls the function */
static int call(const char *text)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(((int (*)(void))(text + 3 * hva_page))());
	return waitpid(pid, &status, 0) == pid ? status : -1;
}

static bool same_as_file(const char *text, int fd, char *buf)
{
	return pread(fd, buf, SIZE, 0) == (ssize_t)SIZE &&
	       !memcmp(text, buf, SIZE);
}

/* Its page, and so the place of the probe, is dropped whenever it can be */
TEST_F_TIMEOUT(access, uprobe, HVA_TIMEOUT)
{
	char probe[400], *line, *fn;
	bool early;
	int round;

	if (!sizeof(code))
		SKIP(return, "no code for this machine");
	ASSERT_EQ(pwrite(self->fd, code, sizeof(code), 3 * hva_page),
		  sizeof(code));
	ASSERT_EQ(fsync(self->fd), 0);
	hva_discard();
	snprintf(probe, sizeof(probe), "p:page_hva_test/u%d %s:%#zx", getpid(),
		 hva_path("file"), 3 * hva_page);
	if (!add_probe(TRACING "uprobe_events", probe))
		SKIP(return, "no uprobes: %s", strerror(errno));
	for (round = 0; round < 6; round++) {
		/* Every other time the breakpoint is put in by mmap() */
		early = round % 2;
		hva_discard();
		if (early)
			ASSERT_TRUE(hva_put(PROBE_ENABLE, "1"));
		fn = map_read_only(PROT_READ | PROT_EXEC, MAP_PRIVATE);
		/* Else into text that was dropped where it is mapped */
		ASSERT_TRUE(drop_mapped(hva_touch_all, fn));
		if (!early)
			ASSERT_TRUE(hva_put(PROBE_ENABLE, "1"));
		EXPECT_EQ(call(fn), 42 << 8);
		/* Taken out, where the text beside it and the file's are gone */
		ASSERT_TRUE(drop_mapped(hva_touch_all, fn));
		ASSERT_TRUE(hva_put(PROBE_ENABLE, "0"));
		EXPECT_EQ(call(fn), 42 << 8);
		EXPECT_TRUE(same_as_file(fn, self->fd, self->buf));
		munmap(fn, SIZE);
	}
	snprintf(probe, sizeof(probe), " u%d ", getpid());
	ASSERT_TRUE(trace_has("uprobe_profile", probe, &line));
	EXPECT_EQ(atoi(line + strlen(probe)), round);
	snprintf(probe, sizeof(probe), "-:page_hva_test/u%d", getpid());
	EXPECT_TRUE(add_probe(TRACING "uprobe_events", probe));
	EXPECT_GE(met(self), 2 * round * MOST);

	/* The breakpoint was never in the file */
	hva_fill(self->buf, hva_page, 1, 3 * hva_page);
	memcpy(self->buf, code, sizeof(code));
	EXPECT_EQ(pread(self->fd, self->buf + hva_page, hva_page, 3 * hva_page),
		  hva_page);
	EXPECT_EQ(memcmp(self->buf, self->buf + hva_page, hva_page), 0);
}

/*
 * A kprobe reads user memory where it may not fault: it gets the name that a
 * system call is given, or it is told that this cannot be done. It never gets
 * anything else.
 */
TEST_F_TIMEOUT(access, copy_without_faults, HVA_TIMEOUT)
{
	char probe[200], name[64], *map, *line;
	int missing = 0, names = 0;
	long faults;
	size_t i;

	for (i = 0; i < PAGES; i++) {
		snprintf(name, sizeof(name), "/page_hva/no/%zu/such", i);
		ASSERT_EQ(pwrite(self->fd, name, sizeof(name), i * hva_page),
			  sizeof(name));
	}
	ASSERT_EQ(fsync(self->fd), 0);
	map = map_read_only(PROT_READ, MAP_SHARED);
	snprintf(probe, sizeof(probe),
		 "p:page_hva_test/k%d do_sys_openat2 name=+0($arg2):ustring",
		 getpid());
	if (!add_probe(TRACING "kprobe_events", probe))
		SKIP(return, "no kprobes: %s", strerror(errno));
	ASSERT_TRUE(hva_put(TRACING "trace", "\n"));
	ASSERT_TRUE(drop_mapped(hva_touch_all, map));
	/* Where there is a pte, only a discard fault keeps the name from the kprobe */
	if (hva_stays_mapped())
		EXPECT_EQ(hva_present(map, SIZE, NULL), PAGES);
	ASSERT_TRUE(hva_put(PROBE_ENABLE, "1"));
	faults = hva_count("hva_fault");
	/* The first open() brings in the page, for the second the name is there */
	for (i = 0; i < 2 * PAGES; i++)
		EXPECT_EQ(open(map + i / 2 * hva_page, O_RDONLY), -1);
	ASSERT_TRUE(hva_put(PROBE_ENABLE, "0"));
	EXPECT_TRUE(faulted(faults, MOST));
	trace_has("trace", "", &line);
	for (i = 0; (line = strstr(line, "name=")); line++, i++) {
		char *other = strstr(line, "/page_hva/no/");
		char *end = strchr(line, '\n');

		if (!strncmp(line, "name=(fault)", 12)) {
			missing++;
			continue;
		}
		/* Others, or the reader of the trace itself */
		if (!other || other > end)
			continue;
		names++;
		snprintf(name, sizeof(name), "name=\"/page_hva/no/%lu/such\"\n",
			 strtoul(other + 13, NULL, 10));
		EXPECT_EQ(strncmp(line, name, strlen(name)), 0);
	}
	ksft_print_msg("%d names, %d not there\n", names, missing);
	EXPECT_EQ(names + missing, 2 * PAGES);
	EXPECT_GE(names, MOST);
	EXPECT_GE(missing, MOST);
	snprintf(probe, sizeof(probe), "-:page_hva_test/k%d", getpid());
	EXPECT_TRUE(add_probe(TRACING "kprobe_events", probe));
}

/*
 * So does BPF. It also reads kernel memory, which may be a page of a file: the
 * address is all it has, and no reference keeps the page stable.
 */
struct bpf_probe {
	int program, array;
};

static bool load_probe(struct bpf_probe *probe, int function)
{
	probe->array = hva_bpf_array(2 * sizeof(long), 1);
	if (probe->array < 0)
		return false;
	/* array[0] = { function(&array[0][1], 8, argument), 8 bytes from there } */
	hva_emit_move(BPF_REG_6, BPF_REG_1);
	hva_emit_lookup(probe->array, 0);
	hva_emit_move(BPF_REG_7, BPF_REG_0);
	hva_emit_move(BPF_REG_1, BPF_REG_7);
	hva_emit(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_1, 0, 0, sizeof(long));
	hva_emit_set(BPF_REG_2, sizeof(long));
	hva_emit(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_3, BPF_REG_6, 0, 0);
	hva_emit_call(function);
	hva_emit(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_7, BPF_REG_0, 0, 0);
	hva_emit_set(BPF_REG_0, 0);
	hva_emit_exit();
	probe->program = hva_bpf_load(BPF_PROG_TYPE_RAW_TRACEPOINT);
	return probe->program >= 0;
}

/* 0 or -EFAULT, what the function says of that address */
static long run_probe(const struct bpf_probe *probe, unsigned long addr,
		      unsigned long *data)
{
	union bpf_attr attr = { };
	long result[2];

	attr.test.prog_fd = probe->program;
	attr.test.ctx_in = (unsigned long)&addr;
	attr.test.ctx_size_in = sizeof(addr);
	if (hva_bpf(BPF_PROG_TEST_RUN, &attr) ||
	    !hva_bpf_get(probe->array, 0, result))
		hva_die("BPF program");
	*data = result[1];
	return result[0];
}

/* How many pages can be read? All others are -EFAULT. -1 if there is a wrong one. */
static long probe_pages(const struct bpf_probe *probe,
			const unsigned long *addrs)
{
	unsigned long data, want;
	long result, right = 0;
	size_t i;

	for (i = 0; i < PAGES; i++) {
		result = run_probe(probe, addrs[i] + 16, &data);
		hva_fill(&want, sizeof(want), 1, i * hva_page + 16);
		if (!result && data == want) {
			right++;
		} else if (result != -EFAULT || data) {
			ksft_print_msg("page %zu: %ld, %#lx\n", i, result, data);
			return -1;
		}
	}
	ksft_print_msg("%ld of %zu pages are there\n", right, PAGES);
	return right;
}

TEST_F_TIMEOUT(access, bpf_reads_user_memory, HVA_TIMEOUT)
{
	char *map = map_read_only(PROT_READ, MAP_SHARED);
	unsigned long addrs[PAGES];
	struct bpf_probe probe;
	long faults, right;
	size_t i;

	if (!load_probe(&probe, BPF_FUNC_probe_read_user))
		SKIP(return, "no BPF: %s", strerror(errno));
	for (i = 0; i < PAGES; i++)
		addrs[i] = (unsigned long)map + i * hva_page;
	hva_touch_all(map, SIZE);
	EXPECT_GE(probe_pages(&probe, addrs), MOST);

	ASSERT_TRUE(drop_mapped(hva_touch_all, map));
	if (hva_stays_mapped())
		EXPECT_EQ(hva_present(map, SIZE, NULL), PAGES);
	faults = hva_count("hva_fault");
	right = probe_pages(&probe, addrs);
	EXPECT_GE(right, 0);
	EXPECT_LE(right, PAGES - MOST);
	EXPECT_TRUE(faulted(faults, MOST));
	/* Nor has that brought them back, or done any harm */
	EXPECT_LE(probe_pages(&probe, addrs), PAGES - MOST);
	EXPECT_FALSE(differs(map));
}

/* The kernel's own addresses, as /proc/kcore has them. Returns false if it does not. */
static bool kernel_address(unsigned long *addr)
{
	int i, fd = open("/proc/kcore", O_RDONLY);
	bool found = false;
	struct elf64_hdr eh;
	struct elf64_phdr ph;

	if (pread(fd, &eh, sizeof(eh), 0) != sizeof(eh))
		eh.e_phnum = 0;
	for (i = 0; i < eh.e_phnum && !found; i++) {
		if (pread(fd, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) !=
		    sizeof(ph))
			break;
		found = ph.p_type == PT_LOAD && ph.p_paddr != -1UL &&
			*addr >= ph.p_paddr &&
			*addr - ph.p_paddr < ph.p_memsz;
	}
	close(fd);
	if (found)
		*addr += ph.p_vaddr - ph.p_paddr;
	return found;
}

TEST_F_TIMEOUT(access, bpf_reads_page_cache, HVA_TIMEOUT)
{
	char *map = map_read_only(PROT_READ, MAP_SHARED);
	long faults, right, n, lookups;
	unsigned long addrs[PAGES];
	struct bpf_probe probe;
	size_t i;

	if (!load_probe(&probe, BPF_FUNC_probe_read_kernel))
		SKIP(return, "no BPF: %s", strerror(errno));
	ASSERT_TRUE(drop_mapped(hva_touch_all, map));
	/* Now they are where they stay: not moved by what follows */
	hva_touch_all(map, SIZE);
	ASSERT_EQ(hva_present(map, SIZE, addrs), PAGES);
	for (i = 0; i < PAGES; i++) {
		addrs[i] *= hva_page;
		if (!kernel_address(&addrs[i]))
			SKIP(return, "no address in /proc/kcore");
	}
	EXPECT_GE(probe_pages(&probe, addrs), MOST);

	hva_discard();
	faults = hva_count("hva_fault");
	lookups = hva_lookups();
	right = probe_pages(&probe, addrs);
	EXPECT_GE(right, 0);
	EXPECT_LE(right, PAGES - MOST);
	n = hva_count("hva_fault") - faults;
	ksft_print_msg("%ld discard faults\n", n);
	EXPECT_GE(n, PAGES - right);
	EXPECT_LE(n, 4 * PAGES + HVA_NOISE);
	/* An access by address is no lookup */
	EXPECT_LE(hva_lookups() - lookups, HVA_NOISE);
	EXPECT_EQ(hva_check(self->fd, SIZE, 1), 0);
	EXPECT_FALSE(differs(map));
	EXPECT_GE(met(self), 2 * MOST);
}

#ifdef __s390x__
/*
 * Unwinding of a user stack in a timer interrupt: the frames lie in a file whose
 * pages go, one frame in each page. The words at 0 and 112 of a frame are the
 * next frame and the return address.
 */
#define RING_PAGES	64

static unsigned long return_address(size_t frame)
{
	return 0x100000 + frame * 2;
}

/* A leaf that says that its caller's frame is somewhere else */
static __attribute_noinline__ void work(const char *frame, long loops)
{
	asm volatile("stg	%[frame],0(%%r15)\n"
		     "0:	brctg	%[loops],0b\n"
		     : [loops] "+d" (loops) : [frame] "d" (frame) : "memory");
}

static struct perf_event_mmap_page *start_sampling(int *fd)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = 1000000,
		.sample_type = PERF_SAMPLE_CALLCHAIN,
		.exclude_callchain_kernel = 1,
	};
	void *ring;

	*fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (*fd < 0)
		return NULL;
	ring = mmap(NULL, (1 + RING_PAGES) * hva_page, PROT_READ | PROT_WRITE,
		    MAP_SHARED, *fd, 0);
	return ring == MAP_FAILED ? NULL : ring;
}

/*
 * Walk the ring: samples that have a right frame, and the longest run of them;
 * false if there is a wrong one.
 */
static bool look_at_samples(struct perf_event_mmap_page *ring, size_t *samples,
			    size_t *longest)
{
	char *data = (char *)ring + hva_page;
	size_t size = RING_PAGES * hva_page, i, frames;
	struct perf_event_header *header;
	unsigned long ip, nr;
	bool right = true;

	*samples = *longest = 0;
	while (ring->data_tail < ring->data_head) {
		/* Records are multiples of 8 bytes, but may wrap around */
		header = (void *)(data + ring->data_tail % size);
		nr = *(unsigned long *)(data + (ring->data_tail + 8) % size);
		frames = 0;
		for (i = 0; header->type == PERF_RECORD_SAMPLE && i < nr; i++) {
			ip = *(unsigned long *)(data + (ring->data_tail + 16 +
							i * 8) % size);
			if (ip == return_address(frames))
				frames++;
			else if (frames || !ip)
				right = false;
		}
		if (frames)
			(*samples)++;
		if (frames > *longest)
			*longest = frames;
		ring->data_tail += header->size;
	}
	return right;
}

TEST_F_TIMEOUT(access, user_stack_in_interrupt, HVA_TIMEOUT)
{
	size_t i, samples, longest, frames = 64;
	struct perf_event_mmap_page *ring;
	unsigned long frame[16] = { };
	long faults;
	char *map;
	int fd;

	map = map_read_only(PROT_READ, MAP_SHARED);
	for (i = 0; i < frames; i++) {
		frame[0] = i + 1 < frames ? (unsigned long)map +
					    (i + 1) * hva_page : 0;
		frame[14] = return_address(i);
		ASSERT_EQ(pwrite(self->fd, frame, sizeof(frame), i * hva_page),
			  sizeof(frame));
	}
	ASSERT_EQ(fsync(self->fd), 0);
	ring = start_sampling(&fd);
	if (!ring)
		SKIP(return, "no perf events: %s", strerror(errno));

	/* Control: all frames are there, all of them are seen */
	for (i = 0; i < frames; i++)
		hva_touch(map + i * hva_page);
	work(map, 30000000);
	ASSERT_EQ(ioctl(fd, PERF_EVENT_IOC_DISABLE, 0), 0);
	EXPECT_TRUE(look_at_samples(ring, &samples, &longest));
	ksft_print_msg("%zu samples, up to %zu frames\n", samples, longest);
	EXPECT_GE(samples, 5);
	EXPECT_EQ(longest, frames);

	/* The first frames are there again, the others are gone, but not their ptes */
	ASSERT_TRUE(drop_mapped(hva_touch_all, map));
	for (i = 0; i < frames / 2; i++)
		hva_touch(map + i * hva_page);
	if (hva_stays_mapped())
		EXPECT_EQ(hva_present(map, SIZE, NULL), PAGES);
	faults = hva_count("hva_fault");
	ASSERT_EQ(ioctl(fd, PERF_EVENT_IOC_ENABLE, 0), 0);
	work(map, 30000000);
	ASSERT_EQ(ioctl(fd, PERF_EVENT_IOC_DISABLE, 0), 0);
	EXPECT_TRUE(look_at_samples(ring, &samples, &longest));
	ksft_print_msg("%zu samples, up to %zu frames\n", samples, longest);
	EXPECT_GE(samples, 5);
	EXPECT_EQ(longest, frames / 2);
	/* The first frame that is gone ends each of them */
	EXPECT_TRUE(faulted(faults, samples));
	for (i = 0; i < frames; i++)
		EXPECT_EQ(*(unsigned long *)(map + i * hva_page + 112),
			  return_address(i));
	close(fd);
}
#endif

/* Address spaces */

TEST_F_TIMEOUT(access, mapping_moved_and_protected, HVA_TIMEOUT)
{
	char *map = map_file(self->fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *to = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	size_t off;

	for (off = 0; off < SIZE; off += 4 * hva_page)
		map[off + 9] ^= 0xff;
	hva_discard();
	ASSERT_EQ(mprotect(map, SIZE, PROT_NONE), 0);
	hva_discard();
	ASSERT_EQ(mremap(map, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
		  to);
	ASSERT_EQ(mprotect(to, SIZE, PROT_READ | PROT_WRITE), 0);
	for (off = 0; off < SIZE; off += 4 * hva_page)
		to[off + 9] ^= 0xff;
	EXPECT_FALSE(differs(to));
	EXPECT_EQ(hva_check(self->fd, SIZE, 1), 0);
	/* Only the pages that are not copies were met, twice at most */
	EXPECT_GE(met(self), PAGES / 2);
}

#define KSM		"/sys/kernel/mm/ksm/"

static long ksm_value(const char *name)
{
	char path[64], val[32];

	snprintf(path, sizeof(path), KSM "%s", name);
	return hva_get(path, val, sizeof(val)) ? atol(val) : -1;
}

/* Copies of file pages are merged; the pages that are no copies are not */
TEST_F_TIMEOUT(access, copies_merged, HVA_TIMEOUT)
{
	char *one = map_file(self->fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *two = map_file(self->fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	int tries = 200;
	size_t off;

	if (ksm_value("run") < 0)
		SKIP(return, "no KSM");
	/* Every other page of both is a copy, of the same content */
	for (off = 0; off < SIZE; off += 2 * hva_page) {
		one[off] = 1;
		two[off] = 1;
	}
	ASSERT_EQ(madvise(one, SIZE, MADV_MERGEABLE), 0);
	ASSERT_EQ(madvise(two, SIZE, MADV_MERGEABLE), 0);
	ASSERT_TRUE(hva_put(KSM "pages_to_scan", "2000"));
	ASSERT_TRUE(hva_put(KSM "run", "1"));
	while (ksm_value("pages_sharing") < (long)PAGES / 4 && --tries) {
		hva_discard();
		usleep(20000);
	}
	ksft_print_msg("%ld pages merged\n", ksm_value("pages_sharing"));
	EXPECT_GE(ksm_value("pages_sharing"), PAGES / 4);
	hva_discard();
	/* And taken apart again */
	for (off = 0; off < SIZE; off += 2 * hva_page)
		hva_fill(one + off, 8, 1, off);
	EXPECT_FALSE(differs(one));
	ASSERT_TRUE(hva_put(KSM "run", "2"));
	for (off = 0; off < SIZE; off += 2 * hva_page)
		hva_fill(two + off, 8, 1, off);
	EXPECT_FALSE(differs(two));
	EXPECT_EQ(hva_check(self->fd, SIZE, 1), 0);
	ASSERT_TRUE(hva_put(KSM "run", "0"));
}

/* Hints and questions */

/* Who asks for the access to pages does not access them */
TEST_F_TIMEOUT(access, idle_page_tracking, HVA_TIMEOUT)
{
	int fd = open("/sys/kernel/mm/page_idle/bitmap", O_RDWR);
	static unsigned char ones[KIB(4)];
	size_t len = 0, bits = 0;
	ssize_t n, i;
	long found;

	if (fd < 0)
		SKIP(return, "no idle page tracking");
	memset(ones, 0xff, sizeof(ones));
	hva_discard();
	found = hva_lookups();
	while ((n = pwrite(fd, ones, sizeof(ones), len)) > 0)
		len += n;
	EXPECT_GT(len, 0);
	for (len = 0; (n = pread(fd, ones, sizeof(ones), len)) > 0; len += n) {
		for (i = 0; i < n; i++)
			bits += __builtin_popcount(ones[i]);
	}
	ksft_print_msg("%zu pages idle\n", bits);
	EXPECT_GE(bits, PAGES);
	EXPECT_LE(hva_lookups() - found, HVA_NOISE);
	close(fd);
	EXPECT_EQ(hva_check(self->fd, SIZE, 1), 0);
	EXPECT_GE(met(self), PAGES);
}

TEST_F_TIMEOUT(access, mincore_does_not_touch, HVA_TIMEOUT)
{
	char *map = map_file(self->fd, PROT_READ, MAP_SHARED);
	unsigned char *vec = malloc(PAGES);
	long found = hva_lookups();
	size_t i, present = 0;

	ASSERT_EQ(mincore(map, SIZE, vec), 0);
	EXPECT_LE(hva_lookups() - found, HVA_NOISE);
	EXPECT_FALSE(differs(map));
	EXPECT_GE(met(self), PAGES);
	ASSERT_EQ(mincore(map, SIZE, vec), 0);
	for (i = 0; i < PAGES; i++)
		present += vec[i] & 1;
	EXPECT_EQ(present, PAGES);
}

TEST_F_TIMEOUT(access, advice, HVA_TIMEOUT)
{
	static const int advices[] = {
		POSIX_FADV_NORMAL, POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM,
		POSIX_FADV_NOREUSE, POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED,
	};
	static const int advices_of_memory[] = {
		MADV_NORMAL, MADV_SEQUENTIAL, MADV_RANDOM, MADV_WILLNEED,
		MADV_DONTNEED,
	};
	char *map = map_file(self->fd, PROT_READ, MAP_SHARED);
	size_t i;

	for (i = 0; i < ARRAY_SIZE(advices); i++) {
		hva_discard();
		ASSERT_EQ(posix_fadvise(self->fd, 0, 0, advices[i]), 0);
		EXPECT_EQ(hva_check(self->fd, SIZE, 1), 0);
	}
	for (i = 0; i < ARRAY_SIZE(advices_of_memory); i++) {
		hva_discard();
		ASSERT_EQ(madvise(map, SIZE, advices_of_memory[i]), 0);
		EXPECT_FALSE(differs(map));
	}
	/* What was advised away was not found discarded */
	EXPECT_GE(met(self), (ARRAY_SIZE(advices) - 1 +
			      ARRAY_SIZE(advices_of_memory)) * PAGES);
}

/* Requests to the disk while a mapping is touched, one byte in each page */
static long requests_of_faults(const char *stat, const char *map)
{
	long before, after;
	char val[256];
	size_t off;

	if (!hva_get(stat, val, sizeof(val)))
		hva_die("%s", stat);
	before = atol(val);
	for (off = 0; off < SIZE; off += hva_page)
		hva_touch(map + off);
	if (!hva_get(stat, val, sizeof(val)))
		hva_die("%s", stat);
	after = atol(val);
	ksft_print_msg("%ld requests\n", after - before);
	return after - before;
}

/* A fault does not read single pages where a discarded one is in the way */
TEST_F_TIMEOUT(access, discarded_file_is_faulted_in_with_large_requests,
	       HVA_TIMEOUT)
{
	char *map = map_file(self->fd, PROT_READ, MAP_SHARED), stat[300];
	long dropped, discarded;

	if (!hva_sysdev(self->fd, stat, sizeof(stat) - 8))
		SKIP(return, "not on a block device");
	strcat(stat, "/stat");
	hva_drop_caches();
	dropped = requests_of_faults(stat, map);
	munmap(map, SIZE);
	map = map_file(self->fd, PROT_READ, MAP_SHARED);
	hva_discard();
	discarded = requests_of_faults(stat, map);
	EXPECT_GE(dropped, 1);
	EXPECT_GE(discarded, 1);
	EXPECT_LE(discarded, dropped * 5 / 4 + 4);
	EXPECT_GE(met(self), PAGES);
	EXPECT_FALSE(differs(map));
}

TEST_HARNESS_MAIN
