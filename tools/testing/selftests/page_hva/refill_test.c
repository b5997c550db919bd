// SPDX-License-Identifier: GPL-2.0
/*
 * The host has dropped all of a file's page cache.  Whatever is done to the
 * file next, by read or write, by mapping or by splicing, must see and leave
 * the content it would have without that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <linux/fuse.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

/* The last page is not full */
#define FILE_SIZE	(MIB(1) + 1000)
#define MAX_SIZE	MIB(2)

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

/* The file of a test, which is a process of its own */
static struct {
	int fd;
	char *want;		/* what must be in the file */
	char *buf;		/* room for all of it */
	size_t size;
	long discarded;
} f;

FIXTURE(refill) {
};

/* As writes left it in the cache, and as readahead did (large folios) */
FIXTURE_VARIANT(refill) {
	bool read_in;
};

FIXTURE_VARIANT_ADD(refill, written) {
	.read_in = false,
};

FIXTURE_VARIANT_ADD(refill, read) {
	.read_in = true,
};

FIXTURE_SETUP(refill)
{
	const char *why = hva_begin(true);
	long made;

	if (why)
		SKIP(return, "%s", why);
	hva_offer();
	made = hva_count("hva_volatile");
	f.size = FILE_SIZE;
	f.want = calloc(1, MAX_SIZE);
	f.buf = malloc(MAX_SIZE);
	hva_fill(f.want, f.size, 1, 0);
	f.fd = hva_create("file", f.size, 1);
	if (variant->read_in) {
		hva_drop_caches();
		hva_read(f.fd, f.size);
	}
	hva_discard();
	EXPECT_GE(hva_count("hva_volatile") - made, f.size / hva_page);
	f.discarded = hva_count("hva_discarded");
}

/* How many discarded pages have been met since set-up? */
static long met(void)
{
	return hva_count("hva_discarded") - f.discarded;
}

/* Number of wrong pages in a buffer that should be like part of the file */
static long bad_pages(const void *buf, size_t off, size_t len)
{
	long bad = 0;
	size_t at, n;

	for (at = 0; at < len; at += n) {
		n = len - at < hva_page ? len - at : hva_page;
		if (!memcmp(buf + at, f.want + off + at, n))
			continue;
		if (!bad++)
			ksft_print_msg("wrong page at %zu, starts with %#lx\n",
				       off + at, *(unsigned long *)(buf + at));
	}
	return bad;
}

/* The same by reading, and the size */
static long bad_file(void)
{
	struct stat st;
	ssize_t n;

	if (fstat(f.fd, &st) || st.st_size != (off_t)f.size) {
		ksft_print_msg("size %lld, should be %zu\n",
			       (long long)st.st_size, f.size);
		return -1;
	}
	n = pread(f.fd, f.buf, MAX_SIZE, 0);
	if (n != (ssize_t)f.size) {
		ksft_print_msg("read %zd of %zu\n", n, f.size);
		return -1;
	}
	return bad_pages(f.buf, 0, f.size);
}

/* Right in the cache, after one more discard, and on the disk? */
FIXTURE_TEARDOWN(refill)
{
	EXPECT_EQ(bad_file(), 0);
	EXPECT_EQ(fsync(f.fd), 0);
	hva_discard();
	EXPECT_EQ(bad_file(), 0);
	hva_drop_caches();
	EXPECT_EQ(bad_file(), 0);
	hva_end();
}

static char *map_file(int prot, int flags)
{
	char *map = mmap(NULL, f.size, prot, flags, f.fd, 0);

	if (map == MAP_FAILED)
		hva_die("mmap");
	return map;
}

/* Write to the file and to the copy */
static ssize_t put(size_t off, size_t len, unsigned int seed)
{
	hva_fill(f.want + off, len, seed, off);
	if (f.size < off + len)
		f.size = off + len;
	return pwrite(f.fd, f.want + off, len, off);
}

/* Readers */

TEST_F_TIMEOUT(refill, read_all, HVA_TIMEOUT)
{
	EXPECT_EQ(bad_file(), 0);
	EXPECT_GE(met(), f.size / hva_page);
	EXPECT_GT(hva_count("hva_evicted"), 0);
}

TEST_F_TIMEOUT(refill, read_single_pages_backwards, HVA_TIMEOUT)
{
	size_t off;

	posix_fadvise(f.fd, 0, 0, POSIX_FADV_RANDOM);
	for (off = MIB(1); off; off -= hva_page) {
		ASSERT_EQ(pread(f.fd, f.buf, hva_page, off - hva_page),
			  hva_page);
		EXPECT_EQ(bad_pages(f.buf, off - hva_page, hva_page), 0);
	}
	EXPECT_GE(met(), f.size / hva_page);
}

TEST_F_TIMEOUT(refill, read_without_waiting_never_sees_zeros, HVA_TIMEOUT)
{
	struct iovec iov = { f.buf, hva_page };
	size_t off;
	ssize_t n;

	for (off = 0; off < f.size; off += hva_page) {
		n = preadv2(f.fd, &iov, 1, off, RWF_NOWAIT);
		if (n < 0 && errno == EOPNOTSUPP)
			SKIP(return, "no RWF_NOWAIT here");
		if (n < 0) {
			EXPECT_EQ(errno, EAGAIN);
			continue;
		}
		EXPECT_EQ(bad_pages(f.buf, off, n), 0);
	}
	EXPECT_GE(met(), 1);
}

TEST_F_TIMEOUT(refill, map_shared_read, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ, MAP_SHARED);
	long faults = hva_count("hva_fault");

	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	EXPECT_GE(met(), f.size / hva_page);
	/* Page faults have brought them back: no pte was for a discarded page */
	EXPECT_EQ(hva_count("hva_fault"), faults);
	/* ... and when the mapping has been there before the discard */
	hva_discard();
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	EXPECT_GE(met(), 2 * (f.size / hva_page));
}

TEST_F_TIMEOUT(refill, map_private_read_and_copy_on_write, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	size_t off;

	for (off = 0; off < MIB(1); off += 2 * hva_page)
		map[off + 7] ^= 0xff;
	hva_discard();
	for (off = 0; off < MIB(1); off += 2 * hva_page)
		map[off + 7] ^= 0xff;
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	EXPECT_GE(met(), f.size / hva_page);
}

TEST_F_TIMEOUT(refill, populate_and_willneed, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);

	ASSERT_EQ(madvise(map, f.size, MADV_POPULATE_READ), 0);
	EXPECT_GE(met(), f.size / hva_page);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	hva_discard();
	ASSERT_EQ(madvise(map, f.size, MADV_WILLNEED), 0);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	hva_discard();
	ASSERT_EQ(madvise(map, f.size, MADV_POPULATE_WRITE), 0);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
}

TEST_F_TIMEOUT(refill, readahead_call, HVA_TIMEOUT)
{
	struct iovec iov = { f.buf, KIB(64) };
	int tries = 100;
	ssize_t n;

	/* The kernel does not read more than a device wants at once */
	ASSERT_EQ(readahead(f.fd, 0, KIB(64)), 0);
	EXPECT_GE(met(), KIB(64) / hva_page);
	/* The reads are under way: the pages come without anybody's help */
	do {
		usleep(20000);
		n = preadv2(f.fd, &iov, 1, 0, RWF_NOWAIT);
	} while (n != KIB(64) && --tries);
	if (n < 0 && errno == EOPNOTSUPP)
		SKIP(return, "no RWF_NOWAIT here");
	EXPECT_EQ(n, KIB(64));
	EXPECT_EQ(bad_pages(f.buf, 0, KIB(64)), 0);
}

TEST_F_TIMEOUT(refill, sendfile_to_socket, HVA_TIMEOUT)
{
	size_t got = 0, chunk;
	off_t off = 0;
	int sv[2];

	ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	while (got < f.size) {
		ssize_t n = sendfile(sv[0], f.fd, &off, KIB(32));

		ASSERT_GT(n, 0);
		for (chunk = 0; chunk < (size_t)n;) {
			ssize_t r = read(sv[1], f.buf + got, n - chunk);

			ASSERT_GT(r, 0);
			chunk += r;
			got += r;
		}
	}
	EXPECT_EQ(bad_pages(f.buf, 0, f.size), 0);
	EXPECT_GE(met(), f.size / hva_page);
}

TEST_F_TIMEOUT(refill, splice_to_pipe, HVA_TIMEOUT)
{
	size_t got = 0;
	off_t off = 0;
	int p[2];

	ASSERT_EQ(pipe(p), 0);
	while (got < f.size) {
		ASSERT_GT(splice(f.fd, &off, p[1], NULL, KIB(32), 0), 0);
		while (got < (size_t)off) {
			ssize_t n = read(p[0], f.buf + got, off - got);

			ASSERT_GT(n, 0);
			got += n;
		}
	}
	EXPECT_EQ(bad_pages(f.buf, 0, f.size), 0);
	EXPECT_GE(met(), f.size / hva_page);
}

TEST_F_TIMEOUT(refill, seek_data_finds_data, HVA_TIMEOUT)
{
	EXPECT_EQ(lseek(f.fd, 0, SEEK_DATA), 0);
	EXPECT_EQ(lseek(f.fd, MIB(1) / 2, SEEK_DATA), MIB(1) / 2);
	EXPECT_EQ(lseek(f.fd, 0, SEEK_HOLE), f.size);
}

/* Memory of the process, read by the kernel for somebody else */

TEST_F_TIMEOUT(refill, get_user_pages, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);
	struct iovec local = { f.buf, f.size };
	struct iovec remote = { map, f.size };
	int out, mem;

	ASSERT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0),
		  f.size);
	EXPECT_EQ(bad_pages(f.buf, 0, f.size), 0);
	EXPECT_GE(met(), f.size / hva_page);

	hva_discard();
	mem = open("/proc/self/mem", O_RDWR);
	ASSERT_EQ(pread(mem, f.buf, f.size, (off_t)map), f.size);
	EXPECT_EQ(bad_pages(f.buf, 0, f.size), 0);

	/* A store through /proc/self/mem into the middle of a page */
	hva_discard();
	hva_fill(f.want + 12345, 100, 2, 12345);
	ASSERT_EQ(pwrite(mem, f.want + 12345, 100, (off_t)map + 12345),
		  100);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);

	/* Direct I/O out of the pages: the device reads them */
	hva_discard();
	out = open(hva_path("out"), O_RDWR | O_CREAT | O_DIRECT, 0600);
	if (out < 0 && errno == EINVAL)
		SKIP(return, "no direct I/O here");
	ASSERT_EQ(pwrite(out, map, MIB(1), 0), MIB(1));
	close(out);
	out = open(hva_path("out"), O_RDWR);
	ASSERT_EQ(pread(out, f.buf, MIB(1), 0), MIB(1));
	EXPECT_EQ(bad_pages(f.buf, 0, MIB(1)), 0);
}

TEST_F_TIMEOUT(refill, system_call_buffers, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);
	int out = open(hva_path("out"), O_RDWR | O_CREAT, 0600);

	/* Source of a write */
	ASSERT_EQ(pwrite(out, map, f.size, 0), f.size);
	EXPECT_GE(met(), f.size / hva_page);
	ASSERT_EQ(pread(out, f.buf, f.size, 0), f.size);
	EXPECT_EQ(bad_pages(f.buf, 0, f.size), 0);

	/* Destination of a read, not at page boundaries */
	hva_discard();
	ASSERT_EQ(pread(out, map + 100, 3 * hva_page, 5 * hva_page + 50),
		  3 * hva_page);
	memcpy(f.want + 100, f.want + 5 * hva_page + 50, 3 * hva_page);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);

	/* Source and destination are the same page */
	ASSERT_EQ(msync(map, f.size, MS_SYNC), 0);
	hva_discard();
	ASSERT_EQ(pwrite(f.fd, map + 8 * hva_page, 100,
			 8 * hva_page + 1000), 100);
	memcpy(f.want + 8 * hva_page + 1000, f.want + 8 * hva_page,
	       100);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
}

TEST_F_TIMEOUT(refill, futex_in_a_mapping, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);
	unsigned int *one = (unsigned int *)(map + 20 * hva_page);
	unsigned int *two = (unsigned int *)(map + 30 * hva_page + 8);
	unsigned int *want = (unsigned int *)(f.want + 30 * hva_page + 8);

	ASSERT_EQ(syscall(SYS_futex, one, FUTEX_WAIT, 0, NULL), -1);
	EXPECT_EQ(errno, EAGAIN);
	hva_discard();
	*want |= 2;
	ASSERT_EQ(syscall(SYS_futex, one, FUTEX_WAKE_OP, 1, 1, two,
			  FUTEX_OP(FUTEX_OP_OR, 2, FUTEX_OP_CMP_EQ, 0)), 0);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	EXPECT_GE(met(), 2);
}

static int run_text(const char *path, const char *arg, char *out, size_t size)
{
	int p[2], status;
	ssize_t n = 0;
	pid_t pid;

	if (pipe(p))
		hva_die("pipe");
	pid = fork();
	if (!pid) {
		dup2(p[1], 1);
		execl(path, path, arg, NULL);
		_exit(127);
	}
	close(p[1]);
	if (out) {
		n = read(p[0], out, size - 1);
		out[n > 0 ? n : 0] = '\0';
	}
	close(p[0]);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

TEST_F_TIMEOUT(refill, exec_of_a_discarded_program, HVA_TIMEOUT)
{
	char path[300], sum[32];
	long before;
	int i;

	snprintf(path, sizeof(path), "%s", hva_path("text"));
	ASSERT_TRUE(hva_copy_text(path));
	ASSERT_EQ(run_text(path, NULL, sum, sizeof(sum)), 0);
	/* Control: the program does notice */
	EXPECT_EQ(run_text(path, "1234", NULL, 0), 1);
	for (i = 0; i < 5; i++) {
		hva_discard();
		before = hva_count("hva_discarded");
		EXPECT_EQ(run_text(path, sum, NULL, 0), 0);
		EXPECT_GE(hva_count("hva_discarded") - before, 16);
	}
}

/*
 * A FUSE server that gives away the pages of another file's cache: they change
 * their owner, if nothing about them is strange. The root of this file system is
 * a regular file, so there is little to serve.
 */
#define FUSE_SIZE	MIB(1)

static void fuse_answer(int dev, unsigned long unique, int error,
			const void *out, size_t len)
{
	struct fuse_out_header header = {
		.len = sizeof(header) + len,
		.error = error,
		.unique = unique,
	};
	struct iovec iov[] = { { &header, sizeof(header) },
			       { (void *)out, len } };

	if (writev(dev, iov, 2) < 0)
		hva_die("fuse");
}

static void fuse_give_pages(int dev, unsigned long unique, off_t off,
			    size_t size, int *p)
{
	size_t all = size + sizeof(struct fuse_out_header);
	struct fuse_out_header header = { .len = all, .unique = unique };
	ssize_t n;

	if (write(p[1], &header, sizeof(header)) != sizeof(header))
		hva_die("fuse");
	for (; size; size -= n) {
		n = splice(f.fd, &off, p[1], NULL, size, 0);
		if (n <= 0)
			hva_die("fuse");
	}
	/* What is in a pipe is in use, but nobody looks it up any more */
	hva_scan(1);
	if (splice(p[0], NULL, dev, NULL, all, SPLICE_F_MOVE) != (ssize_t)all)
		hva_die("fuse");
}

static void fuse_serve(int dev)
{
	char *buf = malloc(MIB(1));
	struct fuse_in_header *in = (void *)buf;
	struct fuse_init_in *init_in = (void *)(in + 1);
	struct fuse_read_in *read_in = (void *)(in + 1);
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_write = KIB(128),
	};
	struct fuse_attr_out attr = {
		.attr_valid = 1000,
		.attr.ino = 1,
		.attr.size = FUSE_SIZE,
		.attr.mode = S_IFREG | 0600,
		.attr.nlink = 1,
		.attr.blksize = 4096,
	};
	struct fuse_open_out open = { };
	int p[2];

	if (pipe(p) || fcntl(p[1], F_SETPIPE_SZ, MIB(1)) < 0)
		hva_die("fuse");
	while (read(dev, buf, MIB(1)) > 0) {
		switch (in->opcode) {
		case FUSE_INIT:
			init.max_readahead = init_in->max_readahead;
			fuse_answer(dev, in->unique, 0, &init, sizeof(init));
			break;
		case FUSE_GETATTR:
			fuse_answer(dev, in->unique, 0, &attr, sizeof(attr));
			break;
		case FUSE_OPEN:
			fuse_answer(dev, in->unique, 0, &open, sizeof(open));
			break;
		case FUSE_READ:
			fuse_give_pages(dev, in->unique, read_in->offset,
					read_in->size, p);
			break;
		case FUSE_FORGET:
		case FUSE_INTERRUPT:
			break;
		default:
			fuse_answer(dev, in->unique, -EOPNOTSUPP, NULL, 0);
			break;
		}
	}
	_exit(0);
}

TEST_F_TIMEOUT(refill, pages_given_to_fuse, HVA_TIMEOUT)
{
	size_t pages = FUSE_SIZE / hva_page, i, gone = 0;
	char path[300], opts[80], msg[8192];
	unsigned char *vec = malloc(pages);
	char *map = map_file(PROT_READ, MAP_SHARED);
	int kmsg, dev, fd;
	ssize_t n;
	pid_t pid;

	dev = open("/dev/fuse", O_RDWR);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (dev < 0)
		SKIP(return, "no FUSE");
	ASSERT_GE(kmsg, 0);
	lseek(kmsg, 0, SEEK_END);
	snprintf(path, sizeof(path), "%s", hva_path("fuse"));
	close(open(path, O_CREAT | O_WRONLY, 0600));
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=100600,user_id=0,group_id=0",
		 dev);
	ASSERT_EQ(mount("page_hva", path, "fuse", 0, opts), 0);
	pid = fork();
	if (!pid)
		fuse_serve(dev);
	close(dev);

	fd = open(path, O_RDONLY);
	EXPECT_EQ(pread(fd, f.buf, FUSE_SIZE, 0), FUSE_SIZE);
	EXPECT_EQ(bad_pages(f.buf, 0, FUSE_SIZE), 0);
	EXPECT_GE(met(), pages);
	ASSERT_EQ(mincore(map, FUSE_SIZE, vec), 0);
	for (i = 0; i < pages; i++)
		gone += !(vec[i] & 1);
	ksft_print_msg("%zu pages given away\n", gone);
	hva_discard();
	EXPECT_EQ(pread(fd, f.buf, FUSE_SIZE, 0), FUSE_SIZE);
	EXPECT_EQ(bad_pages(f.buf, 0, FUSE_SIZE), 0);
	close(fd);
	EXPECT_EQ(umount(path), 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	/* EPIPE: so much was said that the beginning is lost */
	while ((n = read(kmsg, msg, sizeof(msg) - 1)) >= 0 || errno == EPIPE) {
		msg[n < 0 ? 0 : n] = '\0';
		EXPECT_EQ(strstr(msg, "weird page"), NULL);
	}
}

/* Writers */

TEST_F_TIMEOUT(refill, overwrite_part_of_a_page, HVA_TIMEOUT)
{
	size_t off;

	for (off = 0; off < MIB(1); off += 8 * hva_page)
		ASSERT_EQ(put(off + 1001, 17, 2), 17);
	/* ... across two, three pages, and up to a boundary */
	ASSERT_EQ(put(3 * hva_page - 5, 10, 3), 10);
	ASSERT_EQ(put(11 * hva_page - 5, hva_page + 10, 3),
		  hva_page + 10);
	ASSERT_EQ(put(20 * hva_page, 100, 3), 100);
	ASSERT_EQ(put(22 * hva_page - 100, 100, 3), 100);
	EXPECT_GE(met(), MIB(1) / hva_page / 8);
}

TEST_F_TIMEOUT(refill, overwrite_whole_pages, HVA_TIMEOUT)
{
	ASSERT_EQ(put(4 * hva_page, 4 * hva_page, 2), 4 * hva_page);
	ASSERT_EQ(put(64 * hva_page, KIB(128), 3), KIB(128));
	EXPECT_GE(met(), 36);
}

/* A write to part of a page may leave the rest of it to be read in later */
static bool blocks_smaller_than_pages(void)
{
	int size;

	return !ioctl(f.fd, FIGETBSZ, &size) && size < (int)hva_page;
}

TEST_F_TIMEOUT(refill, append_to_the_last_page, HVA_TIMEOUT)
{
	ASSERT_EQ(put(f.size, 50, 2), 50);
	/* Only what is uptodate as a whole becomes volatile */
	if (variant->read_in || !blocks_smaller_than_pages())
		EXPECT_GE(met(), 1);
	EXPECT_EQ(bad_file(), 0);
	ASSERT_EQ(fsync(f.fd), 0);
	hva_discard();
	ASSERT_EQ(put(f.size, hva_page, 3), hva_page);
}

TEST_F_TIMEOUT(refill, write_beyond_the_end, HVA_TIMEOUT)
{
	/* The rest of the last page and all up to the new data are zeros */
	ASSERT_EQ(put(MIB(1) + 5 * hva_page + 10, 100, 2), 100);
	EXPECT_EQ(bad_file(), 0);
}

TEST_F_TIMEOUT(refill, store_to_mapping_first, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);
	size_t off;

	for (off = 0; off < MIB(1); off += 4 * hva_page) {
		hva_fill(map + off + 300, 20, 2, off);
		hva_fill(f.want + off + 300, 20, 2, off);
	}
	EXPECT_GE(met(), MIB(1) / hva_page / 4);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
}

TEST_F_TIMEOUT(refill, store_to_mapping_after_read, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);
	size_t off;

	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	hva_discard();
	for (off = 0; off < MIB(1); off += 4 * hva_page) {
		char byte;

		/* One finds it discarded by lookup, the other by the fault */
		if (off % (8 * hva_page))
			pread(f.fd, &byte, 1, off);
		hva_fill(map + off + 300, 20, 2, off);
		hva_fill(f.want + off + 300, 20, 2, off);
	}
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	EXPECT_GE(met(), MIB(1) / hva_page + MIB(1) / hva_page / 4);
}

TEST_F_TIMEOUT(refill, protection_and_place_of_a_mapping, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);

	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	hva_discard();
	ASSERT_EQ(mprotect(map, f.size, PROT_READ), 0);
	map = mremap(map, f.size, MAX_SIZE, MREMAP_MAYMOVE);
	ASSERT_NE(map, MAP_FAILED);
	ASSERT_EQ(mprotect(map, f.size, PROT_READ | PROT_WRITE), 0);
	hva_fill(map + 5 * hva_page + 3, 10, 2, 0);
	hva_fill(f.want + 5 * hva_page + 3, 10, 2, 0);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
}

TEST_F_TIMEOUT(refill, sync_writes_no_discarded_page, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ | PROT_WRITE, MAP_SHARED);

	ASSERT_EQ(put(7 * hva_page + 9, 10, 2), 10);
	ASSERT_EQ(msync(map, f.size, MS_SYNC), 0);
	ASSERT_EQ(msync(map, f.size, MS_ASYNC | MS_INVALIDATE), 0);
	ASSERT_EQ(fsync(f.fd), 0);
	ASSERT_EQ(fdatasync(f.fd), 0);
	ASSERT_EQ(sync_file_range(f.fd, 0, 0,
				  SYNC_FILE_RANGE_WAIT_BEFORE |
				  SYNC_FILE_RANGE_WRITE |
				  SYNC_FILE_RANGE_WAIT_AFTER), 0);
	/* Only the written page and its neighbours have been looked up */
	EXPECT_LE(met(), HVA_NOISE);
	hva_drop_caches();
	EXPECT_EQ(bad_file(), 0);
}

TEST_F_TIMEOUT(refill, direct_read, HVA_TIMEOUT)
{
	int fd = open(hva_path("file"), O_RDONLY | O_DIRECT);
	void *buf;

	if (fd < 0 && errno == EINVAL)
		SKIP(return, "no direct I/O here");
	ASSERT_EQ(posix_memalign(&buf, hva_page, MIB(1)), 0);
	ASSERT_EQ(pread(fd, buf, MIB(1), 0), MIB(1));
	EXPECT_EQ(bad_pages(buf, 0, MIB(1)), 0);

	/* Dirty pages among discarded ones are written first */
	ASSERT_EQ(put(9 * hva_page + 5, 100, 2), 100);
	ASSERT_EQ(pread(fd, buf, MIB(1), 0), MIB(1));
	EXPECT_EQ(bad_pages(buf, 0, MIB(1)), 0);
	close(fd);
	EXPECT_EQ(bad_file(), 0);
	/* They were still there: direct I/O does not look them up */
	EXPECT_GE(met(), f.size / hva_page);
}

TEST_F_TIMEOUT(refill, direct_write_under_discarded_pages, HVA_TIMEOUT)
{
	int fd = open(hva_path("file"), O_RDWR | O_DIRECT);
	void *buf;

	if (fd < 0 && errno == EINVAL)
		SKIP(return, "no direct I/O here");
	ASSERT_EQ(posix_memalign(&buf, hva_page, KIB(64)), 0);
	hva_fill(buf, KIB(64), 2, 0);
	ASSERT_EQ(pwrite(fd, buf, KIB(64), KIB(128)), KIB(64));
	memcpy(f.want + KIB(128), buf, KIB(64));
	EXPECT_EQ(bad_file(), 0);
}

TEST_F_TIMEOUT(refill, truncate_to_the_middle_of_a_page, HVA_TIMEOUT)
{
	static const size_t cuts[] = {
		/* in pages' sixteenths, downwards */
		16 * 256 + 3, 16 * 200 + 5, 16 * 100, 16 * 77 + 15, 16 * 3 + 1,
		1,
	};
	size_t i, cut;

	for (i = 0; i < ARRAY_SIZE(cuts); i++) {
		cut = cuts[i] * hva_page / 16;
		ASSERT_EQ(ftruncate(f.fd, cut), 0);
		memset(f.want + cut, 0, MAX_SIZE - cut);
		f.size = MIB(1) + 500;
		ASSERT_EQ(ftruncate(f.fd, f.size), 0);
		EXPECT_EQ(bad_file(), 0);
		ASSERT_EQ(fsync(f.fd), 0);
		hva_discard();
	}
	EXPECT_GE(met(), f.size / hva_page);
}

static int fallocate_or_skip(int fd, int mode, off_t off, off_t len)
{
	int ret = fallocate(fd, mode, off, len);

	return ret && (errno == EOPNOTSUPP || errno == EINVAL) ? 1 : ret;
}

TEST_F_TIMEOUT(refill, punch_and_zero_parts_of_pages, HVA_TIMEOUT)
{
	static const int modes[] = {
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
	};
	static const size_t len[] = { 100, 4096, 5000, 40000 };
	size_t i, j, off = 700;
	int ret;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		for (j = 0; j < ARRAY_SIZE(len); j++) {
			off += 11 * hva_page;
			ret = fallocate_or_skip(f.fd, modes[i], off,
						len[j]);
			if (ret > 0)
				SKIP(return, "no fallocate mode %#x here",
				     modes[i]);
			ASSERT_EQ(ret, 0);
			memset(f.want + off, 0, len[j]);
		}
		EXPECT_EQ(bad_file(), 0);
		ASSERT_EQ(fsync(f.fd), 0);
		hva_discard();
	}
}

TEST_F_TIMEOUT(refill, collapse_and_insert_range, HVA_TIMEOUT)
{
	size_t at = 16 * hva_page, len = 32 * hva_page;
	int ret;

	ret = fallocate_or_skip(f.fd, FALLOC_FL_COLLAPSE_RANGE, at, len);
	if (ret > 0)
		SKIP(return, "no collapse range here");
	ASSERT_EQ(ret, 0);
	memmove(f.want + at, f.want + at + len, f.size - at - len);
	f.size -= len;
	EXPECT_EQ(bad_file(), 0);
	ASSERT_EQ(fsync(f.fd), 0);
	hva_discard();
	ASSERT_EQ(fallocate(f.fd, FALLOC_FL_INSERT_RANGE, at, len), 0);
	memmove(f.want + at + len, f.want + at, f.size - at);
	memset(f.want + at, 0, len);
	f.size += len;
	EXPECT_EQ(bad_file(), 0);
}

TEST_F_TIMEOUT(refill, copy_file_range_from_and_to, HVA_TIMEOUT)
{
	loff_t in = 3 * hva_page + 10, out = 0;
	size_t len = 20 * hva_page, done = 0;
	int fd = hva_create("other", MIB(1), 2);
	ssize_t n;

	hva_discard();
	while (done < len) {
		n = copy_file_range(f.fd, &in, fd, &out, len - done, 0);
		if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP))
			SKIP(return, "no copy_file_range here");
		ASSERT_GT(n, 0);
		done += n;
	}
	ASSERT_EQ(pread(fd, f.buf, MIB(1), 0), MIB(1));
	EXPECT_EQ(bad_pages(f.buf, 3 * hva_page + 10, len), 0);
	EXPECT_EQ(hva_differs(f.buf + len, MIB(1) - len, 2, len), -1);

	/* Into the middle of discarded pages */
	hva_discard();
	in = 40 * hva_page;
	out = 50 * hva_page + 1000;
	memcpy(f.want + out, f.buf + in, 5000);
	for (done = 0; done < 5000; done += n) {
		n = copy_file_range(fd, &in, f.fd, &out, 5000 - done, 0);
		ASSERT_GT(n, 0);
	}
	EXPECT_EQ(bad_file(), 0);
}

TEST_F_TIMEOUT(refill, advised_away_and_dropped, HVA_TIMEOUT)
{
	char *map = map_file(PROT_READ, MAP_SHARED);

	ASSERT_EQ(posix_fadvise(f.fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	EXPECT_EQ(bad_file(), 0);
	hva_discard();
	hva_drop_caches();
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	hva_discard();
	ASSERT_EQ(madvise(map, f.size, MADV_PAGEOUT), 0);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
	hva_discard();
	ASSERT_EQ(madvise(map, f.size, MADV_COLD), 0);
	EXPECT_EQ(bad_file(), 0);
	EXPECT_EQ(bad_pages(map, 0, f.size), 0);
}

/* Dirty, write back, clean, discarded, dirty again: nothing gets lost */
TEST_F_TIMEOUT(refill, many_rounds, HVA_TIMEOUT)
{
	unsigned int round;
	size_t off;

	for (round = 2; round < 22; round++) {
		for (off = round * 111; off < MIB(1); off += 10 * hva_page)
			ASSERT_EQ(put(off, 500, round), 500);
		if (round & 1)
			ASSERT_EQ(fsync(f.fd), 0);
		hva_discard();
		EXPECT_EQ(bad_file(), 0);
	}
}

/* A file is read back as fast as if the guest had dropped it itself */

FIXTURE(speed) {
	int fd;
	char stat[300];
};

#define BIG_SIZE	MIB(32)

FIXTURE_SETUP(speed)
{
	const char *why = hva_begin(true);

	if (why)
		SKIP(return, "%s", why);
	self->fd = hva_create("file", BIG_SIZE, 1);
	if (!hva_sysdev(self->fd, self->stat, sizeof(self->stat) - 8)) {
		hva_end();
		SKIP(return, "not on a block device");
	}
	strcat(self->stat, "/stat");
}

FIXTURE_TEARDOWN(speed)
{
	hva_end();
}

struct reads {
	long requests, sectors;
};

static struct reads reads_now(const char *path)
{
	struct reads r;
	char buf[256];

	if (!hva_get(path, buf, sizeof(buf)) ||
	    sscanf(buf, "%ld %*d %ld", &r.requests, &r.sectors) != 2)
		hva_die("%s", path);
	return r;
}

static struct reads reads_of(const char *stat, int fd)
{
	struct reads before = reads_now(stat), r;

	lseek(fd, 0, SEEK_SET);
	hva_read(fd, BIG_SIZE);
	r = reads_now(stat);
	r.requests -= before.requests;
	r.sectors -= before.sectors;
	ksft_print_msg("%ld requests of %ld sectors\n", r.requests,
		       r.sectors / (r.requests ?: 1));
	return r;
}

/* Refaults when part of a file is read that the guest itself has reclaimed */
static long refaults_after_reclaim(int fd, size_t size)
{
	char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	long before;

	if (map == MAP_FAILED)
		hva_die("mmap");
	hva_touch_all(map, size);
	if (madvise(map, size, MADV_PAGEOUT))
		hva_die("MADV_PAGEOUT");
	munmap(map, size);
	before = hva_count("workingset_refault_file");
	hva_read(fd, size);
	before = hva_count("workingset_refault_file") - before;
	ksft_print_msg("%ld refaults after reclaim\n", before);
	return before;
}

TEST_F_TIMEOUT(speed, discarded_file_is_read_in_large_requests, HVA_TIMEOUT)
{
	struct reads dropped, discarded, cached;
	long met, refaults;
	int tries = 3;

	/* The scanner may come between on a busy machine, or hold a page */
	do {
		hva_drop_caches();
		dropped = reads_of(self->stat, self->fd);
		cached = reads_of(self->stat, self->fd);
		hva_discard();
		met = hva_count("hva_discarded");
		refaults = hva_count("workingset_refault_file");
		discarded = reads_of(self->stat, self->fd);
		refaults = hva_count("workingset_refault_file") - refaults;
		met = hva_count("hva_discarded") - met;
	} while ((dropped.sectors < BIG_SIZE / 512 ||
		  cached.sectors > BIG_SIZE / 512 / 16 ||
		  met < BIG_SIZE / hva_page / 32 * 31 ||
		  discarded.requests > dropped.requests * 5 / 4 + 8) &&
		 --tries);

	/* The measurement measures something */
	EXPECT_GE(dropped.sectors, BIG_SIZE / 512);
	EXPECT_LE(cached.sectors, BIG_SIZE / 512 / 16);

	EXPECT_GE(met, BIG_SIZE / hva_page / 32 * 31);
	EXPECT_GE(discarded.sectors, BIG_SIZE / 512 / 32 * 31);
	EXPECT_LE(discarded.sectors, dropped.sectors + BIG_SIZE / 512 / 32);
	EXPECT_LE(discarded.requests, dropped.requests * 5 / 4 + 8);
	/* What the host drops is no sign of memory pressure in the guest */
	EXPECT_LE(refaults, HVA_NOISE);
	EXPECT_EQ(hva_check(self->fd, BIG_SIZE, 1), 0);
	/* Control: what the guest reclaims is */
	EXPECT_GE(refaults_after_reclaim(self->fd, MIB(8)),
		  MIB(8) / hva_page / 2);
}

/* Only a few pages are gone: those are read, and not in the whole file */
TEST_F_TIMEOUT(speed, only_what_was_discarded_is_read, HVA_TIMEOUT)
{
	static char buf[MIB(1)];
	struct reads r = { };
	int tries = 3;
	size_t off;

	/* The periodic scanner may come between on a busy machine */
	do {
		hva_discard();
		/* Every fourth MiB comes back: with readahead a little more */
		for (off = 0; off < BIG_SIZE; off += 4 * sizeof(buf))
			ASSERT_EQ(pread(self->fd, buf, sizeof(buf), off),
				  sizeof(buf));
		r = reads_of(self->stat, self->fd);
	} while (r.sectors > BIG_SIZE / 512 * 7 / 8 && --tries);
	EXPECT_GE(r.sectors, BIG_SIZE / 512 / 2);
	EXPECT_LE(r.sectors, BIG_SIZE / 512 * 7 / 8);
	EXPECT_EQ(hva_check(self->fd, BIG_SIZE, 1), 0);
}

/* Content that is verified once, when it is read in, is verified again */

FIXTURE(verity) {
	int fd;
};

#define VERITY_SIZE	KIB(256)

FIXTURE_SETUP(verity)
{
	const char *why = hva_begin(true);
	struct fsverity_enable_arg arg = {
		.version = 1,
		.hash_algorithm = FS_VERITY_HASH_ALG_SHA256,
		.block_size = 4096,
	};

	if (why)
		SKIP(return, "%s", why);
	close(hva_create("file", VERITY_SIZE, 1));
	self->fd = open(hva_path("file"), O_RDONLY);
	if (ioctl(self->fd, FS_IOC_ENABLE_VERITY, &arg)) {
		int err = errno;

		hva_end();
		SKIP(return, "no fs-verity here: %s", strerror(err));
	}
}

FIXTURE_TEARDOWN(verity)
{
	hva_end();
}

/* Exchange bytes of two blocks of the disk, behind the file system's back */
static void exchange(int disk, int fd, int block1, size_t off1, int block2,
		     size_t off2, size_t len)
{
	char *one, *two, tmp[4096];
	int nr1 = block1, nr2 = block2;

	if (ioctl(fd, FIBMAP, &nr1) || ioctl(fd, FIBMAP, &nr2) || !nr1 || !nr2)
		hva_die("FIBMAP");
	if (posix_memalign((void **)&one, 4096, 8192))
		hva_die("memory");
	two = nr1 == nr2 ? one : one + 4096;
	if (pread(disk, one, 4096, nr1 * 4096L) != 4096 ||
	    pread(disk, two, 4096, nr2 * 4096L) != 4096)
		hva_die("reading the disk");
	memcpy(tmp, one + off1, len);
	memcpy(one + off1, two + off2, len);
	memcpy(two + off2, tmp, len);
	if (pwrite(disk, one, 4096, nr1 * 4096L) != 4096 ||
	    pwrite(disk, two, 4096, nr2 * 4096L) != 4096)
		hva_die("writing the disk");
	free(one);
}

TEST_F_TIMEOUT(verity, discarded_hashes_are_not_trusted_again, HVA_TIMEOUT)
{
	/* ext4: the tree starts at the next 64 KiB, here a single block */
	int tree = VERITY_SIZE / 4096;
	struct stat st;
	char byte;
	int disk;

	ASSERT_EQ(fstat(self->fd, &st), 0);
	if (st.st_blksize != 4096)
		SKIP(return, "not with 4 KiB blocks");
	ASSERT_EQ(mknod(hva_path("dev"), S_IFBLK | 0600, st.st_dev), 0);
	disk = open(hva_path("dev"), O_RDWR | O_DIRECT);
	if (disk < 0)
		SKIP(return, "not on a block device");
	EXPECT_EQ(hva_check(self->fd, VERITY_SIZE, 1), 0);
	hva_discard();
	EXPECT_EQ(hva_check(self->fd, VERITY_SIZE, 1), 0);

	/* Two blocks change places, and so do their hashes */
	hva_discard();
	exchange(disk, self->fd, 10, 0, 20, 0, 4096);
	exchange(disk, self->fd, tree, 10 * 32, tree, 20 * 32, 32);
	EXPECT_EQ(pread(self->fd, &byte, 1, 10 * 4096), -1) {
		TH_LOG("content that was not verified");
	}
	exchange(disk, self->fd, 10, 0, 20, 0, 4096);
	exchange(disk, self->fd, tree, 10 * 32, tree, 20 * 32, 32);
	hva_drop_caches();
	EXPECT_EQ(hva_check(self->fd, VERITY_SIZE, 1), 0);
}

TEST_HARNESS_MAIN
