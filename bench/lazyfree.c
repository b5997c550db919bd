/*
 * What it costs to free memory with MADV_FREE and to use it again; runs in the guest.
 *
 *   lazyfree PAGES ROUNDS [PATTERN...]
 *
 * Each pattern is a chain of phases; count.c counts what happens in each. For each
 * phase of each round there is a line, in the order of the lines of count.c:
 *
 *   phase PATTERN ROUND PHASE minflt=... ns=... hva_lazyfree=... (vmstat counters)
 *
 * and for each look at the memory
 *
 *   content PATTERN ROUND WHEN old=... zero=... wrong=...
 *
 * in pages: "old" is what was there before, "zero" is what MADV_FREE allows to find
 * instead; in both cases with the word that was stored since. All else is wrong.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096UL
#define WORDS		(PAGE / sizeof(uint64_t))
#define STORE_AT	77	/* the word of a page that is stored to */
#define PASSES		3	/* of the scanner, until what is cold is volatile */

static unsigned long pages;
static uint64_t *mem;

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "lazyfree: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void must(bool ok, const char *what)
{
	if (!ok)
		fail(what);
}

/* --- the kernel and the host ------------------------------------------------------ */

static void scan(void)
{
	int fd = open("/sys/kernel/debug/page_hva/scan", O_WRONLY);

	must(fd >= 0, "/sys/kernel/debug/page_hva/scan");
	for (int i = 0; i < PASSES; i++)
		must(write(fd, "1", 1) == 1, "scan");
	close(fd);
}

static int host = -1;

/* The driver listens on this port, see scripts/hva.py. */
static void open_host(void)
{
	static const char dir[] = "/sys/class/virtio-ports";
	char path[300], name[64];
	struct dirent *entry;
	DIR *ports = opendir(dir);
	FILE *file;

	must(ports, dir);
	while (host < 0 && (entry = readdir(ports))) {
		snprintf(path, sizeof(path), "%s/%s/name", dir, entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strncmp(name, "org.page_hva.host", 17)) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			host = open(path, O_RDWR | O_CLOEXEC);
		}
		fclose(file);
	}
	closedir(ports);
	must(host >= 0, "host port");
}

static void reclaim(void)
{
	char answer[4096];
	ssize_t len = 0, n;

	must(write(host, "reclaim\n", 8) == 8, "host port");
	do {
		n = read(host, answer + len, sizeof(answer) - 1 - len);
		must(n > 0, "host port");
		len += n;
		answer[len] = 0;
	} while (!strchr(answer, '\n'));
	if (strstr(answer, "\"error\"")) {
		fprintf(stderr, "lazyfree: the host: %s", answer);
		exit(1);
	}
}

/* --- content ------------------------------------------------------------------------ */

static uint64_t seed;		/* another one each time memory is filled */

static inline uint64_t old_word(unsigned long page, unsigned long word)
{
	return (seed << 40 | page << 12 | word) * 0x9e3779b97f4a7c15ul | 1;
}

static inline uint64_t stored_word(unsigned long page)
{
	return ~old_word(page, STORE_AT);
}

/* Memory that was just mapped is zeros, whatever happened to it before. */
static void map_and_fill(void)
{
	mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(mem != MAP_FAILED, "mmap");
	seed++;
	for (unsigned long p = 0; p < pages; p++) {
		uint64_t *page = mem + p * WORDS;

		page[0] = old_word(p, 0);	/* not the shared zero page */
		for (unsigned long w = 1; w < WORDS; w++) {
			if (page[w]) {
				fprintf(stderr, "lazyfree: page %lu that was just mapped: word %lu is %#lx\n",
					p, w, page[w]);
				exit(3);
			}
			page[w] = old_word(p, w);
		}
	}
}

static bool page_is(unsigned long p, bool old, bool stored)
{
	const uint64_t *page = mem + p * WORDS;

	for (unsigned long w = 0; w < WORDS; w++) {
		uint64_t want = old ? old_word(p, w) : 0;

		if (stored && w == STORE_AT)
			want = stored_word(p);
		if (page[w] != want)
			return false;
	}
	return true;
}

static const char *pattern;
static int nr_round;

static unsigned long look(const char *when, bool stored)
{
	unsigned long old = 0, zero = 0, wrong = 0;

	for (unsigned long p = 0; p < pages; p++) {
		if (page_is(p, true, stored))
			old++;
		else if (page_is(p, false, stored))
			zero++;
		else
			wrong++;
	}
	printf("content %s %d %s old=%lu zero=%lu wrong=%lu\n", pattern, nr_round, when, old, zero, wrong);
	return zero;
}

/* --- measuring ------------------------------------------------------------------------ */

static const char *const counters[] = {
	"hva_volatile", "hva_lazyfree", "hva_potential", "hva_stable", "hva_discarded", "hva_fault",
};

#define NR_COUNTERS (sizeof(counters) / sizeof(counters[0]))

struct figures {
	long faults, ns, vmstat[NR_COUNTERS];
};

static bool measured;		/* and not only looked at */

static void read_figures(struct figures *f)
{
	static char text[32768];
	struct rusage self;
	struct timespec now;
	int fd = open("/proc/vmstat", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	must(n > 0, "/proc/vmstat");
	close(fd);
	text[n] = 0;
	for (size_t i = 0; i < NR_COUNTERS; i++) {
		char line[64];
		const char *at;

		snprintf(line, sizeof(line), "\n%s ", counters[i]);
		at = strstr(text, line);
		f->vmstat[i] = at ? atol(at + strlen(line)) : 0;
	}
	getrusage(RUSAGE_SELF, &self);
	f->faults = self.ru_minflt;
	clock_gettime(CLOCK_MONOTONIC, &now);
	f->ns = now.tv_sec * 1000000000l + now.tv_nsec;
}

enum phase { FREE, SCAN, STORE, SCAN_AGAIN, UNMAP };
static const char *const phase_names[] = { "free", "scan", "store", "scan-again", "unmap" };

/* The two markers of count.c */
static inline void mark_begin(enum phase phase)
{
	switch (phase) {
#define BEGIN(n) case n: asm volatile("bc 0,0xb00+%0(0,0)" : : "i"(n) : "memory"); break
	BEGIN(FREE); BEGIN(SCAN); BEGIN(STORE); BEGIN(SCAN_AGAIN); BEGIN(UNMAP);
	default: abort();
	}
}

static inline void mark_end(void)
{
	asm volatile("bc 0,0xe00(0,0)" : : : "memory");
}

static struct figures before;

static void begin(enum phase phase)
{
	read_figures(&before);
	if (measured)
		mark_begin(phase);
}

static void end(enum phase phase)
{
	struct figures after;

	if (!measured)
		return;
	mark_end();
	read_figures(&after);
	printf("phase %s %d %s minflt=%ld ns=%ld", pattern, nr_round, phase_names[phase],
	       after.faults - before.faults, after.ns - before.ns);
	for (size_t i = 0; i < NR_COUNTERS; i++)
		printf(" %s=%ld", counters[i], after.vmstat[i] - before.vmstat[i]);
	putchar('\n');
}

/* --- phases ------------------------------------------------------------------------------ */

static void do_free(int advice)
{
	begin(FREE);
	must(!madvise(mem, pages * PAGE, advice), "madvise");
	end(FREE);
}

static void do_scan(enum phase phase)
{
	begin(phase);
	scan();
	end(phase);
}

static void do_store(void)
{
	begin(STORE);
	for (unsigned long p = 0; p < pages; p++)
		((volatile uint64_t *)mem)[p * WORDS + STORE_AT] = stored_word(p);
	end(STORE);
}

static void do_unmap(void)
{
	begin(UNMAP);
	must(!munmap(mem, pages * PAGE), "munmap");
	end(UNMAP);
}

/* What was stored, and what was found with it, stays. */
static void do_look(void)
{
	unsigned long zero = look("stored", true);

	do_scan(SCAN_AGAIN);
	reclaim();
	if (look("later", true) != zero) {
		fprintf(stderr, "lazyfree: %s: content has changed after it was stored to\n", pattern);
		exit(3);
	}
}

/* The control: we do notice a word that is neither what was there nor zero, wherever it is. */
static void prove(void)
{
	map_and_fill();
	for (unsigned long w = 0; w < WORDS; w++) {
		mem[w] ^= 1ul << 32;
		if (page_is(0, true, false) || page_is(0, false, false)) {
			fprintf(stderr, "lazyfree: does not notice a wrong word\n");
			exit(1);
		}
		mem[w] ^= 1ul << 32;
	}
	must(!munmap(mem, pages * PAGE), "munmap");
}

/* --- patterns ------------------------------------------------------------------------------ */

static void kept(void)
{
	map_and_fill();
	do_scan(SCAN);
	do_store();
	do_look();
	do_unmap();
}

static void dontneed(void)
{
	map_and_fill();
	do_free(MADV_DONTNEED);
	do_store();
	do_look();
	do_unmap();
}

static void reuse(void)
{
	map_and_fill();
	do_free(MADV_FREE);
	do_store();
	do_look();
	do_unmap();
}

static void offered(void)
{
	map_and_fill();
	do_free(MADV_FREE);
	do_scan(SCAN);
	do_store();
	do_look();
	do_unmap();
}

static void dropped(void)
{
	map_and_fill();
	do_free(MADV_FREE);
	do_scan(SCAN);
	reclaim();
	do_store();
	do_look();
	do_unmap();
}

/* Nobody looks at it again, but in the rounds that are not measured */
static void look_once(void)
{
	if (measured)
		return;
	look("offered", false);
	reclaim();
	look("dropped", false);
}

static void unmapped(void)
{
	map_and_fill();
	do_free(MADV_FREE);
	do_scan(SCAN);
	look_once();
	do_unmap();
}

static void exited(void)
{
	int go[2], done[2], status;
	pid_t child;
	char c = 0;

	must(!pipe(go) && !pipe(done), "pipe");
	child = fork();
	must(child >= 0, "fork");
	if (!child) {
		map_and_fill();
		do_free(MADV_FREE);
		do_scan(SCAN);
		look_once();
		fflush(stdout);
		must(write(done[1], &c, 1) == 1 && read(go[0], &c, 1) == 1, "pipe");
		_exit(0);
	}
	close(done[1]);
	if (read(done[0], &c, 1) != 1)
		exit(3);			/* the child has said why */
	begin(UNMAP);
	must(write(go[1], &c, 1) == 1, "pipe");
	must(waitpid(child, &status, 0) == child && !status, "child");
	end(UNMAP);
	close(go[0]);
	close(go[1]);
	close(done[0]);
	seed++;					/* as the child did */
}

static const struct {
	const char *name;
	void (*run)(void);
} patterns[] = {
	{ "kept", kept },
	{ "dontneed", dontneed },
	{ "reuse", reuse },
	{ "offered", offered },
	{ "dropped", dropped },
	{ "unmapped", unmapped },
	{ "exited", exited },
};

static bool wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!strcmp(*names, name))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 0;

	pages = argc > 2 ? strtoul(argv[1], NULL, 0) : 0;
	if (!pages || !rounds) {
		fprintf(stderr, "usage: lazyfree PAGES ROUNDS [PATTERN...]\n");
		return 2;
	}
	open_host();
	prove();
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		pattern = patterns[i].name;
		if (!wanted(pattern, argv + 3))
			continue;
		/* The first warms up; it only looks */
		for (nr_round = 0; nr_round <= rounds; nr_round++) {
			measured = nr_round > 0;
			fflush(stdout);
			patterns[i].run();
		}
	}
	return 0;
}
