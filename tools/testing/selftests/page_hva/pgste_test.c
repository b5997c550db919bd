// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces that may become the memory of a guest of ours: with the sysctl
 * vm.allocate_pgste new ones have tables for KVM, and SIE would be left with a
 * discard fault that KVM does not know. So nothing becomes volatile while it is
 * mapped there: pages of files are unmapped first, and memory that MADV_FREE gave
 * up stays. A process whose address space has none is the control.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#ifndef MADV_FREE
#define MADV_FREE	8
#endif

#define SYSCTL		"/proc/sys/vm/allocate_pgste"
#define SIZE		MIB(1)
#define NR_PAGES	((long)(SIZE / hva_page))

/*
 * The other process: it says a byte when its memory is ready, and looks at it
 * when it is told a byte. Ends with the number of wrong pages, 99 at most.
 */
struct other {
	pid_t pid;
	int pipe;
};

/* How it came to its address space */
enum birth {
	PLAIN,
	FORKED,
	EXECED,
	INHERITED,
};

static void set_sysctl(const char *value)
{
	if (!hva_put(SYSCTL, value))
		hva_die(SYSCTL);
}

static bool mode_is(const char *what)
{
	char mode[32];

	return hva_get(HVA_DIR "/mode", mode, sizeof(mode)) &&
	       !strncmp(mode, what, strlen(what));
}

/* Without anything in its page table for now */
static char *new_memory(const char *file)
{
	int fd = file ? open(file, O_RDONLY) : -1;
	char *mem;

	mem = mmap(NULL, SIZE, file ? PROT_READ : PROT_READ | PROT_WRITE,
		   file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
	if (mem == MAP_FAILED)
		hva_die("mmap");
	if (file)
		madvise(mem, SIZE, MADV_RANDOM);
	return mem;
}

static void free_lazily(char *mem)
{
	hva_fill(mem, SIZE, 1, 0);
	if (madvise(mem, SIZE, MADV_FREE))
		hva_die("MADV_FREE");
}

/* Zeros are no mistake where MADV_FREE was */
static bool all_zero(const char *p)
{
	size_t i;

	for (i = 0; i < hva_page; i++)
		if (p[i])
			return false;
	return true;
}

static int wrong_pages(const char *mem, bool may_be_gone)
{
	int wrong = 0;
	size_t off;

	for (off = 0; off < SIZE; off += hva_page) {
		if (hva_differs(mem + off, hva_page, 1, off) < 0)
			continue;
		wrong += !may_be_gone || !all_zero(mem + off);
	}
	return wrong < 99 ? wrong : 99;
}

static __noreturn void other_process(int pipe, const char *file, bool gone)
{
	char *mem = new_memory(file);
	char byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (file)
		hva_touch_all(mem, SIZE);
	else
		free_lazily(mem);
	if (write(pipe, &byte, 1) != 1 || read(pipe, &byte, 1) != 1)
		hva_die("pipe");
	_exit(wrong_pages(mem, gone));
}

static __noreturn void exec_other(int pipe, const char *file)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", pipe);
	set_sysctl("1");
	execl("/proc/self/exe", "pgste_test", "--other", number, file, NULL);
	hva_die("exec");
}

/* Its parent's address space has the tables; the sysctl is off by now. */
static __noreturn void fork_other(int pipe, const char *file)
{
	int status;
	pid_t pid;

	set_sysctl("0");
	pid = fork();
	if (!pid)
		other_process(pipe, file, false);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		hva_die("waitpid");
	_exit(WEXITSTATUS(status));
}

static struct other start(enum birth birth, const char *file)
{
	struct other other;
	int pipes[2];
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pipes))
		hva_die("socketpair");
	if (birth == FORKED || birth == INHERITED)
		set_sysctl("1");
	other.pid = fork();
	if (!other.pid) {
		close(pipes[0]);
		if (birth == EXECED)
			exec_other(pipes[1], file);
		if (birth == INHERITED)
			fork_other(pipes[1], file);
		other_process(pipes[1], file, birth == PLAIN);
	}
	close(pipes[1]);
	other.pipe = pipes[0];
	if (read(other.pipe, &byte, 1) != 1)
		hva_die("the other process is gone");
	set_sysctl("0");
	return other;
}

/* Returns the number of wrong pages. */
static int finish(struct other other)
{
	int status;
	char byte = 0;

	if (write(other.pipe, &byte, 1) != 1 ||
	    waitpid(other.pid, &status, 0) != other.pid || !WIFEXITED(status))
		hva_die("the other process");
	close(other.pipe);
	return WEXITSTATUS(status);
}

FIXTURE(pgste) {
};

FIXTURE_VARIANT(pgste) {
	enum birth birth;
};

/* Control: it is the address space that makes the difference */
FIXTURE_VARIANT_ADD(pgste, plain) {
	.birth = PLAIN,
};

FIXTURE_VARIANT_ADD(pgste, forked) {
	.birth = FORKED,
};

FIXTURE_VARIANT_ADD(pgste, execed) {
	.birth = EXECED,
};

FIXTURE_VARIANT_ADD(pgste, inherited) {
	.birth = INHERITED,
};

FIXTURE_SETUP(pgste)
{
	const char *why = hva_begin(true);
	char value[16];
	int fd;

	if (!why && !hva_stays_mapped())
		why = "pages are unmapped first: boot with page_hva=mapped";
	if (!why && !hva_get(SYSCTL, value, sizeof(value)))
		why = "no " SYSCTL ": CONFIG_KVM=n";
	if (!why && atoi(value))
		why = SYSCTL " is set already";
	if (why)
		SKIP(return, "%s", why);
	fd = hva_create("file", SIZE, 1);
	/* Large folios are unmapped in any case: have it read singly */
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	/* What there is of others */
	hva_offer();
}

FIXTURE_TEARDOWN(pgste)
{
	hva_end();
}

struct change {
	long made_volatile, mapped, lazyfree, unmapped, refused, fault;
};

static struct change counters(void)
{
	struct hva_stat st;

	hva_stat_read(&st);
	return (struct change) {
		hva_stat_get(&st, "hva_volatile"),
		hva_stat_get(&st, "hva_mapped"),
		hva_stat_get(&st, "hva_lazyfree"),
		hva_stat_get(&st, "hva_unmapped"),
		hva_stat_get(&st, "hva_refused_mapped"),
		hva_stat_get(&st, "hva_fault"),
	};
}

static struct change since(struct change before)
{
	struct change now = counters();

	now.made_volatile -= before.made_volatile;
	now.mapped -= before.mapped;
	now.lazyfree -= before.lazyfree;
	now.unmapped -= before.unmapped;
	now.refused -= before.refused;
	now.fault -= before.fault;
	return now;
}

static struct change offer_and_drop(void)
{
	struct change before = counters(), change;

	hva_discard();
	change = since(before);
	ksft_print_msg("%ld volatile, %ld mapped, %ld lazyfree, %ld unmapped, %ld refused\n",
		       change.made_volatile, change.mapped, change.lazyfree,
		       change.unmapped, change.refused);
	return change;
}

TEST_F_TIMEOUT(pgste, files_are_unmapped_first, HVA_TIMEOUT)
{
	struct other other = start(variant->birth, hva_path("file"));
	struct change change = offer_and_drop(), before = counters();

	EXPECT_GE(change.made_volatile, NR_PAGES);
	EXPECT_EQ(finish(other), 0);
	if (variant->birth == PLAIN) {
		EXPECT_GE(change.mapped, NR_PAGES);
		EXPECT_LE(change.unmapped, HVA_NOISE);
		EXPECT_GE(since(before).fault, NR_PAGES / 16);
	} else {
		EXPECT_LE(change.mapped, HVA_NOISE);
		EXPECT_GE(change.unmapped, NR_PAGES);
		/* It finds no pte, and has no discard fault */
		EXPECT_LE(since(before).fault, HVA_NOISE);
	}
}

TEST_F_TIMEOUT(pgste, one_of_two_is_enough, HVA_TIMEOUT)
{
	struct other plain = start(PLAIN, hva_path("file"));
	struct other other = start(variant->birth, hva_path("file"));
	struct change change = offer_and_drop();

	if (variant->birth == PLAIN) {
		EXPECT_GE(change.mapped, NR_PAGES);
	} else {
		EXPECT_LE(change.mapped, HVA_NOISE);
		EXPECT_GE(change.unmapped, NR_PAGES);
	}
	EXPECT_EQ(finish(other), 0);
	EXPECT_EQ(finish(plain), 0);
}

TEST_F_TIMEOUT(pgste, freed_memory_stays, HVA_TIMEOUT)
{
	struct change change;
	struct other other;

	if (!mode_is("lazyfree") && !mode_is("full"))
		SKIP(return, "boot with page_hva=lazyfree or full");
	other = start(variant->birth, NULL);
	change = offer_and_drop();
	if (variant->birth == PLAIN) {
		EXPECT_GE(change.lazyfree, NR_PAGES);
	} else {
		EXPECT_LE(change.lazyfree, HVA_NOISE);
		EXPECT_GE(change.refused, NR_PAGES);
	}
	/* Every byte of it is there, in the control those that are not gone */
	EXPECT_EQ(finish(other), 0);
}

int main(int argc, char **argv)
{
	hva_page = sysconf(_SC_PAGESIZE);
	if (argc > 2 && !strcmp(argv[1], "--other"))
		other_process(atoi(argv[2]), argv[3], false);
	return test_harness_run(argc, argv);
}
