/*
 * Operations whose instructions are counted, see count.c; runs in the guest.
 *
 *   ops list                "n name what" of each operation
 *   ops run DIR [NAME...]   run all, or some, with files in DIR; DIR is on a RAM disk,
 *                           so that reading a page costs the same each time
 *   ops hold DIR            not counted: map all files of DIR, load from each page,
 *                           and again at each SIGUSR1; print "PAGES MINOR MAJOR",
 *                           pages and faults, each time
 *
 * Each is run many times and the median counts, so that a timer tick or a page
 * table page here and there does not matter.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB		1024UL
#define PAGE		(4 * KIB)
#define AROUND		(16 * PAGE)	/* what one fault on a file maps */
#define BIG_SIZE	(16 * 1024 * KIB)
#define ROUNDS		60
#define MANY_ROUNDS	500		/* where rounds differ by some per cent */

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "ops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void must(bool ok, const char *what)
{
	if (!ok)
		fail(what);
}

/* --- what the operations work on ------------------------------------------------ */

static int big;			/* a file of BIG_SIZE */
static const char *small = "small";
static const char *self;
static unsigned char *map;
static unsigned char buffer[64 * KIB];

static void read_all(int fd)
{
	for (off_t at = 0; at < (off_t)BIG_SIZE; at += sizeof(buffer))
		must(pread(fd, buffer, sizeof(buffer), at) == sizeof(buffer), "read");
}

static void make_files(void)
{
	int fd = open(small, O_CREAT | O_TRUNC | O_WRONLY, 0644);

	must(fd >= 0 && write(fd, buffer, KIB) == KIB, small);
	close(fd);
	big = open("big", O_CREAT | O_TRUNC | O_RDWR, 0644);
	must(big >= 0, "big");
	for (off_t at = 0; at < (off_t)BIG_SIZE; at += sizeof(buffer))
		must(write(big, buffer, sizeof(buffer)) == sizeof(buffer), "big");
	sync();
}

static void map_big(int prot, int flags)
{
	map = mmap(NULL, BIG_SIZE, prot, flags, big, 0);
	must(map != MAP_FAILED, "mmap");
}

static void unmap_big(int round)
{
	munmap(map, BIG_SIZE);
}

/* Recently used: neither idle nor volatile, and in the page cache as a whole. */
static void make_hot(int round)
{
	posix_fadvise(big, 0, 0, POSIX_FADV_NORMAL);
	if (round == 0)
		read_all(big);
}

static void make_cold(int round)
{
	if (round)
		return;
	must(!posix_fadvise(big, 0, 0, POSIX_FADV_DONTNEED), "fadvise");
	must(!posix_fadvise(big, 0, 0, POSIX_FADV_RANDOM), "fadvise");
}

static bool try_scan(void)
{
	int fd = open("/sys/kernel/debug/page_hva/scan", O_WRONLY);
	bool done = fd >= 0 && write(fd, "1", 1) == 1;

	close(fd);
	return done;
}

static void scan(void)
{
	must(try_scan(), "scan");
}

static void make_volatile(int round)
{
	if (round)
		return;
	make_hot(0);
	for (int i = 0; i < 3; i++)
		scan();
	must(!posix_fadvise(big, 0, 0, POSIX_FADV_RANDOM), "fadvise");
}

/* The driver listens on this port, see scripts/hva.py. */
static void reclaim(void)
{
	static const char dir[] = "/sys/class/virtio-ports";
	char path[300], name[64], answer[4 * KIB];
	struct dirent *entry;
	DIR *ports = opendir(dir);
	FILE *file;
	int fd = -1;

	must(ports, dir);
	while (fd < 0 && (entry = readdir(ports))) {
		snprintf(path, sizeof(path), "%s/%s/name", dir, entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strncmp(name, "org.page_hva.host", 17)) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			fd = open(path, O_RDWR);
		}
		fclose(file);
	}
	closedir(ports);
	must(fd >= 0, "host port");
	must(write(fd, "reclaim\n", 8) == 8 && read(fd, answer, sizeof(answer)) > 0, "host port");
	close(fd);
}

static void make_discarded(int round)
{
	if (round)
		return;
	make_volatile(0);
	reclaim();
}

/* --- the operations --------------------------------------------------------------- */

static void nothing(int round)
{
}

static void read_4k(int round)
{
	must(pread(big, buffer, PAGE, round * PAGE) == PAGE, "pread");
}

static void read_64k(int round)
{
	must(pread(big, buffer, 64 * KIB, round * 64 * KIB) == 64 * KIB, "pread");
}

static void write_4k(int round)
{
	must(pwrite(big, buffer, PAGE, round * PAGE) == PAGE, "pwrite");
}

static void append_4k(int round)
{
	must(pwrite(big, buffer, PAGE, BIG_SIZE + round * PAGE) == PAGE, "pwrite");
}

static void cut(int round)
{
	if (round == ROUNDS - 1)
		must(!ftruncate(big, BIG_SIZE), "ftruncate");
}

static void prepare_shared(int round)
{
	make_hot(round);
	map_big(PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void prepare_private(int round)
{
	make_hot(round);
	map_big(PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static void touch_map(int round)
{
	*(volatile unsigned char *)(map + round * AROUND);
}

static void store_map(int round)
{
	*(volatile unsigned char *)(map + round * AROUND) = 1;
}

static void map_volatile(int round)
{
	make_volatile(round);
	map_big(PROT_READ, MAP_SHARED);
}

static void map_cold(int round)
{
	make_cold(round);
	map_big(PROT_READ, MAP_PRIVATE);
	must(!madvise(map, BIG_SIZE, MADV_RANDOM), "madvise");
}

/* What was touched stays mapped, and is volatile and dropped while it is. */
static void map_discarded(int round)
{
	if (round)
		return;
	make_hot(0);
	map_big(PROT_READ, MAP_PRIVATE);
	must(!madvise(map, BIG_SIZE, MADV_RANDOM), "madvise");
	for (unsigned long at = 0; at < BIG_SIZE; at += PAGE)
		*(volatile unsigned char *)(map + at);
	make_discarded(0);
}

static void unmap_discarded(int round)
{
	if (round == ROUNDS - 1)
		unmap_big(round);
}

static void anonymous(int round)
{
	map = mmap(NULL, BIG_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(map != MAP_FAILED, "mmap");
}

static void open_read_close(int round)
{
	int fd = open(small, O_RDONLY);

	must(fd >= 0 && read(fd, buffer, sizeof(buffer)) == KIB, small);
	close(fd);
}

static void fork_exit(int round)
{
	pid_t pid = fork();

	must(pid >= 0, "fork");
	if (!pid)
		_exit(0);
	must(waitpid(pid, NULL, 0) == pid, "waitpid");
}

static void fork_exec(int round)
{
	pid_t pid = fork();

	must(pid >= 0, "fork");
	if (!pid) {
		execl(self, self, "list", "none", NULL);
		_exit(1);
	}
	must(waitpid(pid, NULL, 0) == pid, "waitpid");
}

static void scan_once(int round)
{
	scan();
}

/* All of the file hot, its pages idle, and nothing to do: three rounds. */
static void prepare_scan(int round)
{
	if (round % 3 == 0)
		read_all(big);
}

static const struct op {
	const char *name, *what;
	void (*prepare)(int round), (*run)(int round), (*undo)(int round);
	int rounds;
	bool hva;		/* only where pages become volatile */
} ops[] = {
	{ "nothing", "the two markers", nothing, nothing, nothing, ROUNDS },
	{ "read_4k", "pread of 4 KiB in the page cache", make_hot, read_4k, nothing, ROUNDS },
	{ "read_64k", "pread of 64 KiB in the page cache", make_hot, read_64k, nothing, ROUNDS },
	{ "write_4k", "pwrite of 4 KiB in the page cache", make_hot, write_4k, nothing, ROUNDS },
	{ "append_4k", "pwrite of a new page", make_hot, append_4k, cut, ROUNDS },
	{ "read_fault", "first load from a mapped file (16 pages are mapped)", prepare_shared, touch_map, unmap_big, ROUNDS },
	{ "shared_write_fault", "first store to a shared mapping", prepare_shared, store_map, unmap_big, ROUNDS },
	{ "private_write_fault", "first store to a private mapping", prepare_private, store_map, unmap_big, ROUNDS },
	{ "anonymous_fault", "first store to anonymous memory", anonymous, store_map, unmap_big, ROUNDS },
	{ "open_read_close", "open, read and close a file of 1 KiB", nothing, open_read_close, nothing, ROUNDS },
	{ "fork_exit", "fork, exit of the child, wait", nothing, fork_exit, nothing, MANY_ROUNDS },
	{ "fork_exec", "fork, exec of a static program, wait", nothing, fork_exec, nothing, MANY_ROUNDS },
	{ "miss_4k", "pread of 4 KiB that are not in the page cache", make_cold, read_4k, nothing, ROUNDS },
	{ "volatile_4k", "pread of 4 KiB that are volatile", make_volatile, read_4k, nothing, ROUNDS, true },
	{ "volatile_fault", "first load from a mapped file, 16 pages are volatile", map_volatile, touch_map, unmap_big, ROUNDS, true },
	{ "miss_fault", "first load from a mapped file, the page is not in the page cache", map_cold, touch_map, unmap_big, ROUNDS },
	{ "discarded_map", "load from a mapped page that was discarded", map_discarded, touch_map, unmap_discarded, ROUNDS, true },
	{ "discarded_4k", "pread of 4 KiB that were discarded", make_discarded, read_4k, nothing, ROUNDS, true },
	{ "scan", "pass of the scanner, 16 MiB of file pages: hot, idle, volatile", prepare_scan, scan_once, nothing, 12, true },
};

#define NR_OPS (int)(sizeof(ops) / sizeof(ops[0]))

/* The two markers, with the number of the operation in the first. */
#define BEGIN(n)	case n: asm volatile("bc 0,0xb00+%0(0,0)" : : "i"(n) : "memory"); break
#define END		asm volatile("bc 0,0xe00(0,0)" : : : "memory")

static void mark_begin(int n)
{
	switch (n) {
	BEGIN(0); BEGIN(1); BEGIN(2); BEGIN(3); BEGIN(4); BEGIN(5); BEGIN(6); BEGIN(7); BEGIN(8); BEGIN(9);
	BEGIN(10); BEGIN(11); BEGIN(12); BEGIN(13); BEGIN(14); BEGIN(15); BEGIN(16); BEGIN(17); BEGIN(18); BEGIN(19);
	}
}
_Static_assert(NR_OPS <= 20, "more markers are needed");

static void run(int n, bool has_hva)
{
	const struct op *op = &ops[n];

	if (op->hva && !has_hva)
		return;
	for (int round = 0; round < op->rounds; round++) {
		op->prepare(round);
		mark_begin(n);
		op->run(round);
		END;
		op->undo(round);
	}
	sync();
}

static bool named(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!strcmp(*names, name))
			return true;
	return false;
}

/* --- hold DIR ------------------------------------------------------------------------ */

static struct mapped {
	struct mapped *next;
	const volatile char *start;
	size_t size;
} *all_mapped;

static int map_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	struct mapped *m;
	int fd;

	(void)ftw;
	if (type != FTW_F || !S_ISREG(st->st_mode) || !st->st_size)
		return 0;
	m = malloc(sizeof(*m));
	fd = open(path, O_RDONLY);
	must(fd >= 0, path);
	m->next = all_mapped;
	m->size = st->st_size;
	m->start = mmap(NULL, m->size, PROT_READ, MAP_PRIVATE, fd, 0);
	must(m->start != MAP_FAILED, path);
	all_mapped = m;
	return close(fd);
}

static void load_all_mapped(void)
{
	struct rusage before, after;
	unsigned long pages = 0;

	getrusage(RUSAGE_SELF, &before);
	for (struct mapped *m = all_mapped; m; m = m->next)
		for (size_t off = 0; off < m->size; off += PAGE, pages++)
			(void)m->start[off];
	getrusage(RUSAGE_SELF, &after);
	printf("%lu %ld %ld\n", pages, after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt);
	fflush(stdout);
}

static _Noreturn void hold(const char *dir)
{
	sigset_t signals;
	int number;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	must(!nftw(dir, map_file, 64, FTW_PHYS), dir);
	for (;;) {
		load_all_mapped();
		sigwait(&signals, &number);
	}
}

int main(int argc, char **argv)
{
	bool has_hva;

	self = argv[0];
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (int n = 0; n < NR_OPS; n++)
			printf("%d %s %s\n", n, ops[n].name, ops[n].what);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "list"))	/* what fork_exec runs */
		return 0;
	if (argc == 3 && !strcmp(argv[1], "hold"))
		hold(argv[2]);
	if (argc < 3 || strcmp(argv[1], "run")) {
		fprintf(stderr, "usage: ops list | ops run DIR [NAME...] | ops hold DIR\n");
		return 2;
	}
	must(!chdir(argv[2]), argv[2]);
	make_files();
	has_hva = try_scan();
	for (int n = 0; n < NR_OPS; n++)
		if (named(ops[n].name, argv + 3))
			run(n, has_hva);
	return 0;
}
