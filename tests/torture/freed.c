/*
 * Memory that is freed lazily (MADV_FREE), and memory with a copy in swap,
 * against a model of what each page may hold.
 *
 *   freed SEED SECONDS
 *
 * Some processes of two threads; each thread has a region of its own, and
 * children that inherit it. A page that was freed holds what it held, until a
 * word of it reads as zero; then it is zeros. What has been stored since is
 * there in any case. Exit status: 0 no page held anything else, 1 one did (said
 * which), 2 an operation failed that may not fail. Prints "ops N" at the end,
 * pages that were right. SIGUSR1: negative control, some bytes change.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096UL
#define WORDS		(PAGE / sizeof(unsigned long))
#define PAGES		1536			/* of a thread */
#define THREADS		2
#define PROCESSES	3
#define MAX_RANGE	512

/* What a page holds: the words of a stamp (0: zeros) but for one word (-1: none) that was stored alone */
struct page {
	enum {
		KNOWN,		/* that */
		EITHER,		/* freed and not stored to since: that; then, from any moment on, zeros */
		ONE_OF,		/* freed, and then the one word was stored: the others are the stamp's or zeros, and stay so */
	} state;
	int word;
	unsigned long stamp, value;
	const char *did[4];		/* the last of what was done to it, for the report */
};

struct thread {
	int number, first, pages;		/* operations are within these pages */
	unsigned long random, checked;
	unsigned char *memory;
	struct page model[PAGES];
	unsigned long buffer[WORDS];
	const char *doing;
};

static volatile sig_atomic_t spoil[THREADS];
static time_t deadline;
static unsigned long seed;
static int process;

static _Noreturn void end(const struct thread *t, int status, const char *format, ...)
{
	char text[400];
	va_list args;
	int n;

	n = snprintf(text, sizeof(text), "freed: seed %lu process %d thread %d, %s: ", seed, process, t->number, t->doing);
	va_start(args, format);
	n += vsnprintf(text + n, sizeof(text) - n, format, args);
	va_end(args);
	if (n > (int)sizeof(text) - 2)
		n = sizeof(text) - 2;
	text[n++] = '\n';
	if (write(2, text, n) != n)
		status = 2;
	_exit(status);
}

static void must(const struct thread *t, bool ok, const char *what)
{
	if (!ok)
		end(t, 2, "%s: %s", what, strerror(errno));
}

static unsigned long below(struct thread *t, unsigned long limit)
{
	t->random = t->random * 6364136223846793005UL + 1442695040888963407UL;
	return (t->random >> 33) % limit;
}

/* Word i of a stamped page; none of them is zero */
static unsigned long stamped(unsigned long stamp, unsigned long i)
{
	return ((stamp + i * 0x9e3779b97f4a7c15UL) ^ (stamp << 7)) | 1;
}

static unsigned long new_stamp(struct thread *t)
{
	return below(t, 1UL << 31) << 32 | below(t, 1UL << 31) | 2;
}

static unsigned long *page_of(struct thread *t, int nr)
{
	return (unsigned long *)(t->memory + nr * PAGE);
}

static void did(struct thread *t, int first, int nr)
{
	for (struct page *p = &t->model[first]; p < &t->model[first + nr]; p++) {
		memmove(p->did + 1, p->did, sizeof(p->did) - sizeof(p->did[0]));
		p->did[0] = t->doing;
	}
}

/* What /proc/self/pagemap or, of a page frame, a file like it says; -1: nothing */
static long entry_of(const char *path, unsigned long nr)
{
	int fd = open(path, O_RDONLY);
	long entry = -1;

	if (fd < 0 || pread(fd, &entry, sizeof(entry), nr * sizeof(entry)) != sizeof(entry))
		entry = -1;
	close(fd);
	return entry;
}

/* What there is to know about a page that is wrong */
static void report_page(struct thread *t, int nr, const volatile unsigned long *got)
{
	const volatile unsigned long *memory = page_of(t, nr);
	struct page *p = &t->model[nr];
	int zeros[2] = { 0 }, same = 0;
	long map, frame;
	char text[600];
	int n;

	map = entry_of("/proc/self/pagemap", (unsigned long)memory / PAGE);
	frame = map & ((1L << 55) - 1);
	n = snprintf(text, sizeof(text), "freed: page %d, state %d, pagemap %lx kpageflags %lx kpagecount %ld, word stored %d; before:", nr,
		     p->state, map, entry_of("/proc/kpageflags", frame), entry_of("/proc/kpagecount", frame), p->word);
	for (int i = 0; i < (int)(sizeof(p->did) / sizeof(p->did[0])) && p->did[i]; i++)
		n += snprintf(text + n, sizeof(text) - n, " %s,", p->did[i]);
	for (int i = 0; i < (int)WORDS; i++) {
		zeros[0] += !got[i];
		zeros[1] += !memory[i];
		same += memory[i] == stamped(p->stamp, i);
	}
	n += snprintf(text + n, sizeof(text) - n, " %d words are 0, and %d in memory now, where %d are right\n", zeros[0], zeros[1], same);
	if (write(2, text, n) != n)
		_exit(2);
}

static void check_page(struct thread *t, int nr, const volatile unsigned long *got)
{
	struct page *p = &t->model[nr];
	bool zeros = false, stored = p->state == KNOWN;

	for (int i = 0; i < (int)WORDS; i++) {
		unsigned long is = got[i], was = i == p->word ? p->value : p->stamp ? stamped(p->stamp, i) : 0;

		if (i == p->word && p->state == ONE_OF) {
			if (is != was) {
				report_page(t, nr, got);
				end(t, 1, "page %d word %d is %lx, not %lx, which was stored", nr, i, is, was);
			}
		} else if (is == was && (!zeros || !was)) {
			stored |= was && p->state == ONE_OF;
		} else if (!is && !stored) {
			zeros = true;
		} else {
			report_page(t, nr, got);
			end(t, 1, "page %d word %d is %lx, not %lx%s", nr, i, is, zeros ? 0 : was,
			    zeros ? ", as those before it" : stored ? "" : " or 0");
		}
	}
	if (zeros) {
		p->stamp = 0;
		if (p->state == EITHER)
			p->word = -1;
	}
	if (zeros || p->state == ONE_OF)
		p->state = KNOWN;
	t->checked++;
}

/* Pages one after the other, as many as most have */
static int range(struct thread *t, int *first)
{
	int nr = 1 + below(t, below(t, 4) ? 16 : MAX_RANGE);

	if (nr > t->pages)
		nr = t->pages;
	*first = t->first + below(t, t->pages - nr + 1);
	return nr;
}

static void check(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "load";
	did(t, first, nr);
	for (int i = first; i < first + nr; i++)
		check_page(t, i, page_of(t, i));
}

/* Read as others read it: get_user_pages() */
static void check_by_kernel(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "process_vm_readv";
	did(t, first, nr);
	for (int i = first; i < first + nr; i++) {
		struct iovec to = { t->buffer, PAGE }, from = { page_of(t, i), PAGE };

		must(t, process_vm_readv(getpid(), &to, 1, &from, 1, 0) == PAGE, "process_vm_readv");
		check_page(t, i, t->buffer);
	}
}

/* And by a pipe, which holds the page for a while */
static void check_by_pipe(struct thread *t)
{
	int first, nr = range(t, &first), ends[2];
	struct iovec from;

	t->doing = "vmsplice";
	if (nr > 8)
		nr = 8;
	did(t, first, nr);
	must(t, !pipe(ends), "pipe");
	from.iov_base = page_of(t, first);
	from.iov_len = nr * PAGE;
	must(t, vmsplice(ends[1], &from, 1, 0) == (ssize_t)(nr * PAGE), "vmsplice");
	if (below(t, 4) == 0)
		usleep(below(t, 20000));
	for (int i = first; i < first + nr; i++) {
		must(t, read(ends[0], t->buffer, PAGE) == (ssize_t)PAGE, "read");
		/* In the pipe it was what it was when it came there, or zeros; in memory it is that, too */
		check_page(t, i, t->buffer);
	}
	close(ends[0]);
	close(ends[1]);
}

static void set(struct page *p, unsigned long stamp)
{
	p->state = KNOWN;
	p->word = -1;
	p->stamp = stamp;
}

static void store_word(struct thread *t, int nr)
{
	struct page *p = &t->model[nr];

	/* The model has one word that is stored alone */
	if (p->word < 0)
		p->word = below(t, WORDS);
	p->value = new_stamp(t);
	page_of(t, nr)[p->word] = p->value;
	if (p->state == EITHER)
		p->state = ONE_OF;
}

static void store(struct thread *t)
{
	int first, nr = range(t, &first);
	bool by_kernel = below(t, 4) == 0;

	t->doing = "store";
	did(t, first, nr);
	for (int i = first; i < first + nr; i++) {
		unsigned long stamp = new_stamp(t), *to = by_kernel ? t->buffer : page_of(t, i);

		for (unsigned long w = 0; w < WORDS; w++)
			to[w] = stamped(stamp, w);
		if (by_kernel) {
			struct iovec from = { t->buffer, PAGE }, there = { page_of(t, i), PAGE };

			must(t, process_vm_writev(getpid(), &from, 1, &there, 1, 0) == PAGE, "process_vm_writev");
		}
		set(&t->model[i], stamp);
	}
}

/* One word of each page: the others stay as they are, from now on */
static void store_words(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "store of a word";
	did(t, first, nr);
	for (int i = first; i < first + nr; i++)
		store_word(t, i);
}

static void free_pages(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "MADV_FREE";
	did(t, first, nr);
	/* It has to be known what each holds */
	for (int i = first; i < first + nr; i++)
		if (t->model[i].state == ONE_OF)
			check_page(t, i, page_of(t, i));
	must(t, !madvise(page_of(t, first), nr * PAGE, MADV_FREE), "MADV_FREE");
	for (int i = first; i < first + nr; i++)
		if (t->model[i].stamp || t->model[i].word >= 0)
			t->model[i].state = EITHER;
	/* Some are stored to at once */
	if (below(t, 3) == 0)
		for (int i = first; i < first + nr; i += 1 + below(t, 4))
			store_word(t, i);
}

static void drop(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "MADV_DONTNEED";
	did(t, first, nr);
	must(t, !madvise(page_of(t, first), nr * PAGE, MADV_DONTNEED), "MADV_DONTNEED");
	for (int i = first; i < first + nr; i++)
		set(&t->model[i], 0);
}

/* To swap, or away if it was freed; read again, it is in the swap cache */
static void page_out(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "MADV_PAGEOUT";
	did(t, first, nr);
	madvise(page_of(t, first), nr * PAGE, below(t, 2) ? MADV_PAGEOUT : MADV_COLD);
	if (below(t, 2))
		for (int i = first; i < first + nr; i++)
			check_page(t, i, page_of(t, i));
}

static void protect(struct thread *t)
{
	int first, nr = range(t, &first);

	t->doing = "mprotect";
	did(t, first, nr);
	must(t, !mprotect(page_of(t, first), nr * PAGE, PROT_READ), "mprotect");
	if (below(t, 8) == 0)
		sleep(below(t, 4));
	for (int i = first; i < first + nr; i++)
		check_page(t, i, page_of(t, i));
	must(t, !mprotect(page_of(t, first), nr * PAGE, PROT_READ | PROT_WRITE), "mprotect");
}

/* To another address and back */
static void move(struct thread *t)
{
	int first, nr = range(t, &first);
	void *there;

	t->doing = "mremap";
	did(t, first, nr);
	/* The other thread must not find a hole meanwhile */
	there = mremap(page_of(t, first), nr * PAGE, nr * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	must(t, there != MAP_FAILED, "mremap");
	if (below(t, 8) == 0)
		sleep(below(t, 4));
	must(t, mremap(there, nr * PAGE, nr * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page_of(t, first)) == page_of(t, first), "mremap back");
}

/* A child has the same pages; what one of the two stores or frees the other does not see */
static void inherit(struct thread *t)
{
	int status;
	pid_t pid;

	t->doing = "fork";
	pid = fork();
	must(t, pid >= 0, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		t->random ^= getpid();
		did(t, 0, PAGES);
		for (int i = 0; i < 12; i++) {
			check(t);
			(below(t, 2) ? store_words : below(t, 2) ? store : free_pages)(t);
			check_by_kernel(t);
		}
		_exit(0);
	}
	for (int i = 0; i < 4; i++) {
		store_words(t);
		check(t);
	}
	while (waitpid(pid, &status, 0) < 0)
		must(t, errno == EINTR, "waitpid");
	t->doing = "a child";
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		end(t, WIFEXITED(status) ? WEXITSTATUS(status) : 2, "status %x", status);
}

static void wait_a_little(struct thread *t)
{
	t->doing = "wait";
	usleep(below(t, 20000));
}

/* All pages; they stay in the swap cache, until they are stored to */
static void read_from_swap(struct thread *t)
{
	t->doing = "swapped out and read";
	did(t, t->first, t->pages);
	must(t, !madvise(page_of(t, t->first), t->pages * PAGE, MADV_PAGEOUT), "MADV_PAGEOUT");
	for (int i = t->first; i < t->first + t->pages; i++)
		check_page(t, i, page_of(t, i));
}

/* Cold, so that the scanner takes them, perhaps gone; then several operations at just these pages */
static void wait_long(struct thread *t)
{
	static void (*const then[])(struct thread *t) = {
		check, check_by_kernel, check_by_pipe, store, store_words, store_words, free_pages, page_out, protect, move, inherit,
	};
	int first, nr = range(t, &first);

	if (below(t, 3))
		return;
	t->first = first;
	t->pages = nr;
	if (below(t, 2))
		for (int i = 0; i < 8; i++)
			free_pages(t);
	else
		read_from_swap(t);
	t->doing = "wait";
	sleep(4 + below(t, 4));
	for (int i = 0; i < 6; i++)
		then[below(t, sizeof(then) / sizeof(then[0]))](t);
	t->first = 0;
	t->pages = PAGES;
}

static void check_all(struct thread *t)
{
	t->doing = "load of all";
	for (int i = 0; i < PAGES; i++)
		check_page(t, i, page_of(t, i));
}

/* The negative control: a byte of a page that is known */
static void spoil_one(struct thread *t)
{
	for (int i = 0; i < PAGES; i++)
		if (t->model[i].state == KNOWN && t->model[i].word) {
			((unsigned char *)page_of(t, i))[3] ^= 0x10;
			spoil[t->number] = 0;
			check_all(t);
			return;
		}
}

static void (*const operations[])(struct thread *t) = {
	check, check, check, check_by_kernel, check_by_pipe, store, store, store_words, store_words,
	free_pages, free_pages, free_pages, free_pages, drop, page_out, page_out, protect, move, inherit, wait_a_little, wait_long, wait_long,
};

static void *work(void *arg)
{
	struct thread *t = arg;

	for (int i = 0; i < PAGES; i++)
		set(&t->model[i], 0);
	while (time(NULL) < deadline) {
		operations[below(t, sizeof(operations) / sizeof(operations[0]))](t);
		if (spoil[t->number])
			spoil_one(t);
	}
	check_all(t);
	return NULL;
}

static unsigned long worker(void)
{
	struct thread *t[THREADS];
	pthread_t threads[THREADS];
	unsigned long checked = 0;

	for (int i = 0; i < THREADS; i++) {
		t[i] = calloc(1, sizeof(*t[i]));
		t[i]->number = i;
		t[i]->random = seed * 1000 + process * 10 + i;
		t[i]->pages = PAGES;
		t[i]->doing = "start";
		t[i]->memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		must(t[i], t[i]->memory != MAP_FAILED, "mmap");
	}
	for (int i = 0; i < THREADS; i++)
		must(t[i], !pthread_create(&threads[i], NULL, work, t[i]), "pthread_create");
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		checked += t[i]->checked;
	}
	return checked;
}

static void on_signal(int signal)
{
	(void)signal;
	for (int i = 0; i < THREADS; i++)
		spoil[i] = 1;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	unsigned long *checked, all = 0;
	int status, result = 0;

	if (argc != 3) {
		fprintf(stderr, "usage: freed SEED SECONDS\n");
		return 2;
	}
	sigaction(SIGUSR1, &action, NULL);
	seed = strtoul(argv[1], NULL, 0);
	deadline = time(NULL) + atol(argv[2]);
	checked = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (checked == MAP_FAILED)
		return 2;
	for (process = 0; process < PROCESSES; process++) {
		pid_t pid = fork();

		if (pid < 0)
			return 2;
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			checked[process] = worker();
			_exit(0);
		}
	}
	for (int i = 0; i < PROCESSES; i++) {
		pid_t pid;

		do
			pid = wait(&status);
		while (pid < 0 && errno == EINTR);
		if (pid < 0 || !WIFEXITED(status)) {
			fprintf(stderr, "freed: a process ended with status %x\n", status);
			result = result ?: 2;
		} else if (WEXITSTATUS(status) && result != 1) {
			result = WEXITSTATUS(status);
		}
		all += checked[i];
	}
	if (!result)
		printf("ops %lu\n", all);
	return result;
}
