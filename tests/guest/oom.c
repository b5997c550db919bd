/*
 * Memory runs out while pages of files come and go.
 *
 *   oom make FILE MIB    content that is known: each word, and by the file's name
 *   oom check FILE       compare all of it, by read() and through a mapping
 *   oom watch FILE       compare pages of it at random until SIGTERM, from user
 *                        space and by the kernel, through a mapping
 *   oom hog FILE TEXT    do so, and take memory until somebody kills us; TEXT
 *                        says how many MiB that were
 *
 * Says how many pages were compared and how many were wrong. Exit status: 0
 * none, 1 some, 2 something could not be done.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE	4096UL
#define WORDS	(PAGE / sizeof(unsigned long))
#define MIB	(1UL << 20)

static unsigned long seed, pages;
static unsigned long *map;
static atomic_ulong compared, wrong;
static atomic_bool stop;

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "oom: %s: %s\n", what, strerror(errno));
	exit(2);
}

static unsigned long word(unsigned long page, unsigned long i)
{
	return (page * WORDS + i + seed) * 0x9E3779B97F4A7C15UL;
}

static void compare(const unsigned long *content, unsigned long page)
{
	unsigned long i;

	for (i = 0; i < WORDS && content[i] == word(page, i); i++)
		;
	if (i < WORDS && !wrong++)
		fprintf(stderr, "oom: page %lu word %lu is %#lx, not %#lx\n", page, i, content[i], word(page, i));
	compared++;
}

static int open_file(const char *path, int flags)
{
	const char *name = strrchr(path, '/');
	int fd = open(path, flags, 0600);

	if (fd < 0)
		fail(path);
	for (name = name ? name + 1 : path; *name; name++)
		seed = seed * 31 + *name;
	return fd;
}

static int map_file(const char *path)
{
	int fd = open_file(path, O_RDONLY);
	struct stat st;

	if (fstat(fd, &st))
		fail(path);
	pages = st.st_size / PAGE;
	map = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		fail(path);
	return fd;
}

static void make(const char *path, unsigned long mib)
{
	int fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
	static unsigned long content[WORDS];
	unsigned long page, i;

	for (page = 0; page < mib * MIB / PAGE; page++) {
		for (i = 0; i < WORDS; i++)
			content[i] = word(page, i);
		if (write(fd, content, PAGE) != (ssize_t)PAGE)
			fail(path);
	}
	if (fsync(fd))
		fail(path);
}

static void check(const char *path)
{
	static unsigned long content[WORDS];
	int fd = map_file(path);
	unsigned long page;

	for (page = 0; page < pages; page++) {
		if (pread(fd, content, PAGE, page * PAGE) != (ssize_t)PAGE)
			fail(path);
		compare(content, page);
	}
	for (page = 0; page < pages; page++)
		compare(map + page * WORDS, page);
}

/* Pages at random, and time for the others to become cold */
static void *watcher(void *by_kernel)
{
	unsigned int random = (unsigned long)by_kernel + getpid();
	unsigned long content[WORDS], page;
	int ends[2];

	if (pipe(ends))
		fail("pipe");
	while (!stop) {
		page = rand_r(&random) % pages;
		if (!by_kernel) {
			compare(map + page * WORDS, page);
		} else if (write(ends[1], map + page * WORDS, PAGE) == (ssize_t)PAGE &&
			   read(ends[0], content, PAGE) == (ssize_t)PAGE) {
			compare(content, page);
		} else {
			fail("pipe");
		}
		usleep(200);
	}
	return NULL;
}

static void on_term(int signal)
{
	(void)signal;
	stop = true;
}

static void watch(const char *path)
{
	pthread_t thread;

	map_file(path);
	signal(SIGTERM, on_term);
	if (pthread_create(&thread, NULL, watcher, (void *)1))
		fail("thread");
	watcher(NULL);
	pthread_join(thread, NULL);
}

static _Noreturn void hog(const char *path, const char *text)
{
	int fd = open(text, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	unsigned long mib, i;
	pthread_t thread;
	char line[64], *mem;

	prctl(PR_SET_NAME, "hog");
	map_file(path);
	for (i = 0; i < 2; i++) {
		if (pthread_create(&thread, NULL, watcher, (void *)i))
			fail("thread");
	}
	/* Some of its pages have been discarded by now, and more will be */
	sleep(2);
	for (mib = 0;; mib++) {
		snprintf(line, sizeof(line), "%lu MiB %lu pages %lu wrong\n", mib, compared, wrong);
		if (pwrite(fd, line, strlen(line), 0) < 0)
			fail(text);
		mem = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mem == MAP_FAILED)
			fail("mmap");
		for (i = 0; i < MIB; i += PAGE)
			mem[i] = 1;
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	if (argc == 4 && !strcmp(what, "make")) {
		make(argv[2], strtoul(argv[3], NULL, 0));
		return 0;
	} else if (argc == 3 && !strcmp(what, "check")) {
		check(argv[2]);
	} else if (argc == 3 && !strcmp(what, "watch")) {
		watch(argv[2]);
	} else if (argc == 4 && !strcmp(what, "hog")) {
		hog(argv[2], argv[3]);
	} else {
		fprintf(stderr, "usage: oom make FILE MIB | oom check FILE | oom watch FILE | oom hog FILE TEXT\n");
		return 2;
	}
	printf("%lu pages %lu wrong\n", compared, wrong);
	return wrong != 0;
}
