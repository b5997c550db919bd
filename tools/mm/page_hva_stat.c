// SPDX-License-Identifier: GPL-2.0
/*
 * page_hva_stat - what page host virtual assist does, as vmstat shows it
 *
 *	page_hva_stat [-s] [-r] [interval [count]]
 *
 * Without an interval: one line, totals since boot. With one: a line every
 * "interval" seconds with what happened in it.
 *
 *	-s	the states of all blocks as well (debugfs, root; asks the
 *		hypervisor for each block, so not for short intervals)
 *	-r	why pages were refused instead
 *
 * The columns are pages, but "scan" is folios and "fault" is discard faults, see
 * Documentation/admin-guide/mm/page_hva.rst. The last four say what "volatile"
 * consists of: mapped files, lazily freed memory, the swap cache, and, of the last
 * two, what is potentially volatile.
 */
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define LINES_A_HEADER	20

struct column {
	const char *counter;	/* in /proc/vmstat */
	const char *title;
	unsigned long now, before;
};

static struct column flow[] = {
	{ "hva_volatile", "volatile", 0, 0 },
	{ "hva_stable", "stable", 0, 0 },
	{ "hva_discarded", "discard", 0, 0 },
	{ "hva_evicted", "evicted", 0, 0 },
	{ "hva_freed", "freed", 0, 0 },
	{ "hva_unmapped", "unmapped", 0, 0 },
	{ "hva_fault", "fault", 0, 0 },
	{ "hva_scan", "scan", 0, 0 },
	/* Of those that became volatile */
	{ "hva_mapped", "mapped", 0, 0 },
	{ "hva_lazyfree", "lazyfree", 0, 0 },
	{ "hva_swapcache", "swapc", 0, 0 },
	{ "hva_potential", "potent", 0, 0 },
};

static struct column refusals[] = {
	{ "hva_refused_hot", "hot", 0, 0 },
	{ "hva_refused_mapping", "mapping", 0, 0 },
	{ "hva_refused_flags", "flags", 0, 0 },
	{ "hva_refused_dirty", "dirty", 0, 0 },
	{ "hva_refused_writeback", "writeb", 0, 0 },
	{ "hva_refused_locked", "locked", 0, 0 },
	{ "hva_refused_mapped", "mapped", 0, 0 },
	{ "hva_refused_mlocked", "mlocked", 0, 0 },
	{ "hva_refused_private", "private", 0, 0 },
	{ "hva_refused_refs", "refs", 0, 0 },
};

static const char states_file[] = "/sys/kernel/debug/page_hva/states";
static const char *const usages[] = {
	"stable", "unused", "volatile", "pvolatile"
};

static void fail(const char *what)
{
	fprintf(stderr, "page_hva_stat: %s: %s\n", what, strerror(errno));
	exit(1);
}

static FILE *open_file(const char *name)
{
	FILE *file = fopen(name, "r");

	if (!file)
		fail(name);
	return file;
}

/* Volatile right now: what became volatile and has not left that state. */
static long volatile_now(void)
{
	return flow[0].now - flow[1].now - flow[2].now - flow[4].now;
}

static struct column *find(struct column *columns, size_t nr, const char *name)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (!strcmp(columns[i].counter, name))
			return &columns[i];
	return NULL;
}

static void read_counters(void)
{
	FILE *file = open_file("/proc/vmstat");
	struct column *column;
	unsigned long value;
	bool found = false;
	char name[64];

	while (fscanf(file, "%63s %lu", name, &value) == 2) {
		column = find(flow, ARRAY_SIZE(flow), name);
		if (!column)
			column = find(refusals, ARRAY_SIZE(refusals), name);
		if (!column)
			continue;
		column->before = column->now;
		column->now = value;
		found = true;
	}
	fclose(file);
	if (!found) {
		fprintf(stderr,
			"page_hva_stat: this kernel has no CONFIG_PAGE_HVA\n");
		exit(1);
	}
}

static void print_title(struct column *columns, size_t nr, bool states)
{
	size_t i;

	printf("%9s", "now");
	for (i = 0; i < nr; i++)
		printf(" %8s", columns[i].title);
	if (states)
		printf("  resident/preserved/zero of stable unused volatile pvolatile");
	putchar('\n');
}

static void print_states(void)
{
	unsigned long resident, preserved, zero;
	FILE *file = open_file(states_file);
	char line[128], name[16];
	size_t i;

	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%15s %lu %lu %lu", name, &resident,
			   &preserved, &zero) != 4)
			continue;
		for (i = 0; i < ARRAY_SIZE(usages); i++)
			if (!strcmp(name, usages[i]))
				printf("  %lu/%lu/%lu", resident, preserved,
				       zero);
	}
	fclose(file);
}

static void print_line(struct column *columns, size_t nr, bool states)
{
	size_t i;

	printf("%9ld", volatile_now());
	for (i = 0; i < nr; i++)
		printf(" %8lu", columns[i].now - columns[i].before);
	if (states)
		print_states();
	putchar('\n');
	fflush(stdout);
}

static long whole_number(const char *text)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || !isdigit(*text) || *end || value < 1) {
		fprintf(stderr, "page_hva_stat: %s is not a positive number\n",
			text);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	size_t nr = ARRAY_SIZE(flow);
	struct column *columns = flow;
	long interval, count = 1, i;
	bool states = false;
	int option;

	while ((option = getopt(argc, argv, "rs")) != -1) {
		if (option == 'r') {
			columns = refusals;
			nr = ARRAY_SIZE(refusals);
		} else if (option == 's') {
			states = true;
		} else {
			goto usage;
		}
	}
	if (argc - optind > 2)
		goto usage;
	interval = argc > optind ? whole_number(argv[optind]) : 0;
	if (interval)
		count = argc > optind + 1 ? whole_number(argv[optind + 1]) : -1;

	read_counters();
	for (i = 0; count < 0 || i < count; i++) {
		if (i % LINES_A_HEADER == 0)
			print_title(columns, nr, states);
		if (interval) {
			sleep(interval);
			read_counters();
		}
		print_line(columns, nr, states);
	}
	return 0;

usage:
	fprintf(stderr, "usage: page_hva_stat [-s] [-r] [interval [count]]\n");
	return 2;
}
