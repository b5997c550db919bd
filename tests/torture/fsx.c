/*
 * Random operations on one file, against a copy of it in memory.
 *
 *   fsx FILE SEED SECONDS
 *
 * Every byte that is read, by whatever way, is compared with the copy; so is
 * the whole file now and then, by direct I/O too, which does not go through the
 * page cache. Exit status: 0 no difference, 1 a difference (said where), 2 an
 * operation failed that may not fail. Prints "ops N" at the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_SIZE	(2UL << 20)
#define MAX_OP		(128UL << 10)
#define PAGE		4096UL
#define HISTORY		16

static unsigned char copy[MAX_SIZE];		/* what the file has to hold; zeros behind its end */
static unsigned char buffer[MAX_SIZE] __attribute__((aligned(PAGE)));
static size_t size;
static int fd, direct;
static const char *name;
static unsigned long ops, seed;
static char history[HISTORY][80];

static _Noreturn void end(int status, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "fsx: %s seed %lu op %lu: ", name, seed, ops);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	for (unsigned long i = ops > HISTORY ? ops - HISTORY : 0; i <= ops; i++)
		fprintf(stderr, "  %lu %s\n", i, history[i % HISTORY]);
	exit(status);
}

static void must(bool ok, const char *what)
{
	if (!ok)
		end(2, "%s: %s", what, strerror(errno));
}

static void note(const char *what, size_t at, size_t len)
{
	snprintf(history[ops % HISTORY], sizeof(history[0]), "%s 0x%zx 0x%zx of 0x%zx", what, at, len, size);
}

static void compare(const char *how, const unsigned char *got, size_t at, size_t len)
{
	if (!memcmp(got, copy + at, len))
		return;
	for (size_t i = 0; i < len; i++)
		if (got[i] != copy[at + i])
			end(1, "%s: byte 0x%zx is %02x, not %02x", how, at + i, got[i], copy[at + i]);
}

static size_t below(size_t limit)
{
	return limit ? (size_t)random() % limit : 0;
}

/* A range of the file; may be empty */
static void range(size_t *at, size_t *len)
{
	*at = below(size);
	*len = below(size - *at < MAX_OP ? size - *at + 1 : MAX_OP);
}

static void fill(size_t at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		copy[at + i] = random();
}

static void op_read(void)
{
	size_t at, len;

	range(&at, &len);
	note("read", at, len);
	must(pread(fd, buffer, len, at) == (ssize_t)len, "pread");
	compare("read", buffer, at, len);
}

static void op_read_mapped(void)
{
	size_t at, len, page;
	unsigned char *map;

	range(&at, &len);
	if (!len)
		return;
	note("load", at, len);
	page = at & ~(PAGE - 1);
	map = mmap(NULL, at + len - page, PROT_READ, below(2) ? MAP_SHARED : MAP_PRIVATE, fd, page);
	must(map != MAP_FAILED, "mmap");
	compare("load", map + at - page, at, len);
	munmap(map, at + len - page);
}

static void op_write(void)
{
	size_t at = below(MAX_SIZE - MAX_OP), len = below(MAX_OP) + 1;

	note("write", at, len);
	fill(at, len);
	must(pwrite(fd, copy + at, len, at) == (ssize_t)len, "pwrite");
	if (size < at + len)
		size = at + len;
}

static void op_write_mapped(void)
{
	size_t at, len, page;
	unsigned char *map;

	range(&at, &len);
	if (!len)
		return;
	note("store", at, len);
	page = at & ~(PAGE - 1);
	map = mmap(NULL, at + len - page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, page);
	must(map != MAP_FAILED, "mmap");
	fill(at, len);
	memcpy(map + at - page, copy + at, len);
	if (below(4) == 0)
		must(!msync(map, at + len - page, MS_SYNC), "msync");
	munmap(map, at + len - page);
}

/* Private stores stay private, and what they were copied from was right. */
static void op_write_private(void)
{
	size_t at, len, page;
	unsigned char *map;

	range(&at, &len);
	if (!len)
		return;
	note("private store", at, len);
	page = at & ~(PAGE - 1);
	map = mmap(NULL, at + len - page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, page);
	must(map != MAP_FAILED, "mmap");
	map[at - page] ^= 0xff;
	compare("private copy", map + at - page + 1, at + 1, len - 1);
	munmap(map, at + len - page);
}

static void op_truncate(void)
{
	size_t new = below(MAX_SIZE);

	note("truncate", new, 0);
	must(!ftruncate(fd, new), "ftruncate");
	if (new < size)
		memset(copy + new, 0, size - new);
	size = new;
}

static void op_fallocate(int mode, const char *what)
{
	size_t at, len;

	range(&at, &len);
	if (!len)
		return;
	note(what, at, len);
	if (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, at, len)) {
		must(errno == EOPNOTSUPP, what);
		return;
	}
	memset(copy + at, 0, len);
}

static void op_punch(void)
{
	op_fallocate(FALLOC_FL_PUNCH_HOLE, "punch");
}

static void op_zero(void)
{
	op_fallocate(FALLOC_FL_ZERO_RANGE, "zero");
}

static void op_copy(void)
{
	size_t at, len;
	off_t from, to;

	range(&at, &len);
	to = below(MAX_SIZE - MAX_OP);
	from = at;
	if ((size_t)to < at + len && at < (size_t)to + len)
		return;				/* may not overlap */
	note("copy", at, len);
	for (size_t done = 0; done < len;) {
		ssize_t n = copy_file_range(fd, &from, fd, &to, len - done, 0);

		must(n > 0, "copy_file_range");
		memcpy(copy + to - n, copy + from - n, n);
		if ((size_t)to > size)
			size = to;
		done += n;
	}
}

static void op_send(void)
{
	size_t at, len, done = 0;
	off_t from;
	int ends[2];

	range(&at, &len);
	if (len > 16 * PAGE)
		len = 16 * PAGE - (at & (PAGE - 1));
	if (!len || pipe(ends))
		return;
	note("splice", at, len);
	from = at;
	while (done < len) {
		ssize_t n = splice(fd, &from, ends[1], NULL, len - done, 0);
		ssize_t got = 0, r;

		must(n > 0, "splice");
		while (got < n) {
			r = read(ends[0], buffer + done + got, n - got);
			must(r > 0, "read");
			got += r;
		}
		done += n;
	}
	compare("splice", buffer, at, len);
	close(ends[0]);
	close(ends[1]);
}

static void op_direct_read(void)
{
	size_t at, len;

	if (direct < 0)
		return;
	range(&at, &len);
	at &= ~(PAGE - 1);
	len = (len + PAGE) & ~(PAGE - 1);
	note("direct read", at, len);
	if (at + len > size)
		len = (size - at) & ~(PAGE - 1);
	if (!len)
		return;
	must(pread(direct, buffer, len, at) == (ssize_t)len, "direct pread");
	compare("direct read", buffer, at, len);
}

static void op_direct_write(void)
{
	size_t at = below(MAX_SIZE - MAX_OP) & ~(PAGE - 1), len = (below(MAX_OP) + 1 + PAGE - 1) & ~(PAGE - 1);

	if (direct < 0)
		return;
	note("direct write", at, len);
	fill(at, len);
	memcpy(buffer, copy + at, len);
	must(pwrite(direct, buffer, len, at) == (ssize_t)len, "direct pwrite");
	if (size < at + len)
		size = at + len;
}

static void op_sync(void)
{
	note("fsync", 0, 0);
	must(!fsync(fd), "fsync");
}

static void op_advise(void)
{
	static const int advice[] = { POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL,
				      POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE };
	size_t at, len;

	range(&at, &len);
	note("advise", at, len);
	posix_fadvise(fd, at, len, advice[below(6)]);
}

/* Long enough for the scanner to find the file cold, now and then. */
static void op_wait(void)
{
	note("wait", 0, 0);
	if (below(200) == 0)
		sleep(5);
	else
		usleep(below(2000));
}

static void op_compare_all(void)
{
	struct stat st;

	note("compare", 0, size);
	must(!fstat(fd, &st), "fstat");
	if ((size_t)st.st_size != size)
		end(1, "size is 0x%zx, not 0x%zx", (size_t)st.st_size, size);
	must(pread(fd, buffer, size, 0) == (ssize_t)size, "pread");
	compare("read of all", buffer, 0, size);
}

static void (*const operations[])(void) = {
	op_read, op_read, op_read, op_read_mapped, op_read_mapped, op_write, op_write, op_write_mapped,
	op_write_private, op_truncate, op_punch, op_zero, op_copy, op_send, op_direct_read, op_direct_write,
	op_sync, op_advise, op_wait, op_wait, op_compare_all,
};

int main(int argc, char **argv)
{
	time_t deadline;

	if (argc != 4) {
		fprintf(stderr, "usage: fsx FILE SEED SECONDS\n");
		return 2;
	}
	name = argv[1];
	seed = strtoul(argv[2], NULL, 0);
	deadline = time(NULL) + atol(argv[3]);
	srandom(seed);
	fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	must(fd >= 0, "open");
	direct = open(name, O_RDWR | O_DIRECT);
	for (; time(NULL) < deadline; ops++)
		operations[below(sizeof(operations) / sizeof(operations[0]))]();
	op_compare_all();
	printf("ops %lu\n", ops);
	return 0;
}
