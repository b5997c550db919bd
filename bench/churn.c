/*
 * A program that allocates and frees, and looks at every byte: with malloc() of whatever
 * library is preloaded; runs in the guest.  churn.go is the same in Go.
 *
 *   churn DIR MIB       a line of DIR/cmd, a FIFO, asks; a line in DIR/answer, another, answers
 *
 *   grow        allocate sessions until MIB are in use
 *   churn       free sessions and allocate others, MIB in all
 *   shrink      free nine of ten sessions
 *   idle N      do what an idle server does for N seconds: little
 *   check       look at all there is
 *   prove       change a word of an object, look at it, and put it right again: wrong=THREADS
 *   quit        the same, and exit
 *
 * A session is some hundred objects of 64 bytes to 64 KiB.  Some sessions are allocated at
 * the same time, so that their objects are neighbours.  Every object is filled when it is
 * allocated and looked at before it is freed.
 *
 * The answer: "ns=... cpu_us=... minflt=... majflt=... live=... allocated=... verified=... wrong=..."
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define THREADS		2
#define OBJECTS		256	/* of a session */
#define AT_A_TIME	4	/* sessions that are allocated side by side */
#define SESSIONS	4096	/* at most */
#define SMALLEST	64
#define LARGEST		65536
#define MIB		1048576ul

struct object {
	uint64_t *at;
	uint64_t words, id;
};

struct session {
	struct object object[OBJECTS];
};

struct worker {
	pthread_t thread;
	uint64_t random, next_id, nr, wrong, live, allocated, verified;
	struct session *session[SESSIONS];
};

static struct worker worker[THREADS];
static uint64_t share;		/* of a worker, in bytes */
static char command[64];
static pthread_barrier_t start, done;

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "churn: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t pick(struct worker *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % below;
}

/* --- objects --------------------------------------------------------------------------- */

/* Never zero, in no two objects the same, and different from word to word */
static inline uint64_t word_of(uint64_t id, uint64_t n)
{
	return (id << 20 | n << 1 | 1) * 0x9e3779b97f4a7c15ul;
}

static void make_object(struct worker *w, struct object *o)
{
	/* As many between 64 and 128 bytes as between 32 and 64 KiB */
	double size = SMALLEST * pow((double)LARGEST / SMALLEST, pick(w, 1 << 20) / (double)(1 << 20));

	o->words = (uint64_t)size / 8;
	o->id = w->next_id++;
	o->at = malloc(o->words * 8);
	if (!o->at)
		fail("malloc");
	for (uint64_t n = 0; n < o->words; n++)
		o->at[n] = word_of(o->id, n);
	w->live += o->words * 8;
	w->allocated += o->words * 8;
}

static void complain(const struct object *o, uint64_t n)
{
	const uint64_t *page = (const uint64_t *)((uintptr_t)(o->at + n) & ~4095ul);
	int zeros = 0;

	for (int i = 0; i < 512; i++)
		zeros += !page[i];
	fprintf(stderr, "churn: WRONG: object %#lx at %p, %lu words: word %lu is %#lx, not %#lx; %d words of its page are 0\n",
		o->id, (void *)o->at, o->words, n, o->at[n], word_of(o->id, n), zeros);
}

static void look_at(struct worker *w, const struct object *o)
{
	for (uint64_t n = 0; n < o->words; n++) {
		if (o->at[n] == word_of(o->id, n))
			continue;
		if (w->wrong++ < 10 && command[0] != 'p')
			complain(o, n);
		break;
	}
	w->verified += o->words * 8;
}

/* --- sessions ---------------------------------------------------------------------------- */

static void make_sessions(struct worker *w)
{
	struct session *new[AT_A_TIME];

	if (w->nr + AT_A_TIME > SESSIONS) {
		fprintf(stderr, "churn: too many sessions\n");
		exit(2);
	}
	for (int i = 0; i < AT_A_TIME; i++) {
		new[i] = malloc(sizeof(*new[i]));
		if (!new[i])
			fail("malloc");
		w->session[w->nr++] = new[i];
	}
	for (int n = 0; n < OBJECTS; n++)
		for (int i = 0; i < AT_A_TIME; i++)
			make_object(w, &new[i]->object[n]);
}

static void end_session(struct worker *w, uint64_t nr)
{
	struct session *s = w->session[nr];

	w->session[nr] = w->session[--w->nr];
	for (int n = 0; n < OBJECTS; n++) {
		look_at(w, &s->object[n]);
		w->live -= s->object[n].words * 8;
		free(s->object[n].at);
	}
	free(s);
}

/* --- commands ------------------------------------------------------------------------------ */

static void grow(struct worker *w)
{
	while (w->live < share)
		make_sessions(w);
}

static void churn(struct worker *w)
{
	uint64_t end = w->allocated + share;

	while (w->allocated < end) {
		for (int i = 0; i < AT_A_TIME && w->nr; i++)
			end_session(w, pick(w, w->nr));
		make_sessions(w);
	}
}

static void shrink(struct worker *w)
{
	uint64_t keep = w->nr / 10;

	while (w->nr > keep)
		end_session(w, pick(w, w->nr));
}

static void idle(void)
{
	int tenths = 10 * atoi(command + 5);

	while (tenths--) {
		for (int i = 0; i < 16; i++)
			free(malloc(100));
		usleep(100000);
	}
}

static void check(struct worker *w)
{
	for (uint64_t nr = 0; nr < w->nr; nr++)
		for (int n = 0; n < OBJECTS; n++)
			look_at(w, &w->session[nr]->object[n]);
}

/* The control: we do notice a word that is wrong. */
static void prove(struct worker *w)
{
	const struct object *o;
	uint64_t *word;

	if (!w->nr)
		return;
	o = &w->session[0]->object[OBJECTS - 1];
	word = &o->at[o->words - 1];
	*word ^= 1;
	look_at(w, o);
	*word ^= 1;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (;;) {
		pthread_barrier_wait(&start);
		switch (command[0]) {
		case 'g': grow(w); break;
		case 'c': command[2] == 'u' ? churn(w) : check(w); break;
		case 's': shrink(w); break;
		case 'i': idle(); break;
		case 'p': prove(w); break;
		case 'q': check(w); break;
		}
		pthread_barrier_wait(&done);
	}
	return NULL;
}

/* --- the driver ------------------------------------------------------------------------------ */

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ul + t.tv_nsec;
}

static bool obey(FILE *answer)
{
	uint64_t ns = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t live = 0, allocated = 0, verified = 0, wrong = 0;
	struct rusage before, after;

	getrusage(RUSAGE_SELF, &before);
	for (int i = 0; i < THREADS; i++)
		worker[i].allocated = worker[i].verified = worker[i].wrong = 0;
	pthread_barrier_wait(&start);
	pthread_barrier_wait(&done);
	ns = now(CLOCK_MONOTONIC) - ns;
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	getrusage(RUSAGE_SELF, &after);
	for (int i = 0; i < THREADS; i++) {
		live += worker[i].live;
		allocated += worker[i].allocated;
		verified += worker[i].verified;
		wrong += worker[i].wrong;
	}
	fprintf(answer, "ns=%lu cpu_us=%lu minflt=%ld majflt=%ld live=%lu allocated=%lu verified=%lu wrong=%lu\n",
		ns, cpu / 1000, after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt,
		live, allocated, verified, wrong);
	fclose(answer);
	return command[0] != 'q';
}

int main(int argc, char **argv)
{
	char name[256];
	FILE *asked, *answer;

	if (argc != 3 || strlen(argv[1]) > 200) {
		fprintf(stderr, "usage: churn DIR MIB\n");
		return 2;
	}
	share = strtoul(argv[2], NULL, 0) * MIB / THREADS;
	pthread_barrier_init(&start, NULL, THREADS + 1);
	pthread_barrier_init(&done, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++) {
		worker[i].random = 88172645463325252ul + i;
		worker[i].next_id = (uint64_t)(i + 1) << 32;
		if (pthread_create(&worker[i].thread, NULL, work, &worker[i]))
			fail("pthread_create");
	}
	/* We are a writer, too: there is no end of file when the last one closes it */
	snprintf(name, sizeof(name), "%s/cmd", argv[1]);
	asked = fopen(name, "r+");
	if (!asked)
		fail(name);
	do {
		if (!fgets(command, sizeof(command), asked))
			fail("command");
		snprintf(name, sizeof(name), "%s/answer", argv[1]);
		answer = fopen(name, "w");
		if (!answer)
			fail(name);
	} while (obey(answer));
	return 0;
}
