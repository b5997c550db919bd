/*
 * Many processes at the same files: names, sizes, contents.
 *
 *   churn DIR SEED SECONDS
 *
 * All make, write, map, cut, punch, collapse, rename, link and remove files of
 * the same few directories. A file's attribute says which stamp each of its
 * blocks has (0: zeros), and a block with a stamp also says whose it is, by the
 * inode's number and birth; both change under a lock of the file. So whoever
 * reads can tell whether all is right. Exit status: 0 all was, 1 not (said what),
 * 2 an operation failed that may not fail. Prints "ops N", blocks that were
 * right. What an earlier run has left is removed: it was stopped anywhere.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define BLOCK		4096UL
#define WORDS		(BLOCK / sizeof(unsigned long))
#define BLOCKS		48			/* of a file, at most */
#define PROCESSES	6
#define DIRECTORIES	4
#define NAMES		12			/* in a directory */
#define ATTRIBUTE	"user.stamps"

/* What an open, locked file has to hold */
struct file {
	int fd, blocks;
	char name[64];
	unsigned long identity;
	unsigned int stamps[BLOCKS];
};

static unsigned long buffer[BLOCKS * WORDS] __attribute__((aligned(4096)));
static unsigned long checked, randomness, seed;
static int process;
static const char *doing = "start";

static _Noreturn void end(int status, const char *format, ...)
{
	char text[400];
	va_list args;
	int n;

	n = snprintf(text, sizeof(text), "churn: seed %lu process %d, %s: ", seed, process, doing);
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

static void must(bool ok, const char *what)
{
	if (!ok)
		end(2, "%s: %s", what, strerror(errno));
}

/* Others rename and remove at the same time */
static bool may(bool ok, const char *what)
{
	if (ok)
		return true;
	switch (errno) {
	case ENOENT: case EEXIST: case ENOTEMPTY: case EISDIR: case ENOTDIR: case ELOOP: case EBUSY:
		return false;
	default:
		end(2, "%s: %s", what, strerror(errno));
	}
}

static unsigned long below(unsigned long limit)
{
	randomness = randomness * 6364136223846793005UL + 1442695040888963407UL;
	return (randomness >> 33) % limit;
}

/* --- what is in a block --- */

static unsigned long word(const struct file *f, unsigned int stamp, unsigned long i)
{
	return stamp ? (f->identity ^ (unsigned long)stamp << 32) + i * 0x9e3779b97f4a7c15UL : 0;
}

static void fill(const struct file *f, unsigned long *to, unsigned int stamp)
{
	for (unsigned long i = 0; i < WORDS; i++)
		to[i] = word(f, stamp, i);
}

static void check(const struct file *f, const unsigned long *got, int block)
{
	for (unsigned long i = 0; i < WORDS; i++)
		if (got[i] != word(f, f->stamps[block], i))
			end(1, "%s, inode and birth %lx, block %d of %d, word %lu is %lx, not %lx (stamp %x)", f->name, f->identity, block,
			    f->blocks, i, got[i], word(f, f->stamps[block], i), f->stamps[block]);
	checked++;
}

/* --- files --- */

static void a_name(char *name, size_t size, char kind)
{
	snprintf(name, size, "d%lu/%c%lu", below(DIRECTORIES), kind, below(NAMES));
}

/* What it has to hold; exclusive: to change it */
static bool take(struct file *f, int flags, bool exclusive)
{
	struct statx st;
	ssize_t n;

	f->fd = open(f->name, flags | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (!may(f->fd >= 0, "open"))
		return false;
	must(!flock(f->fd, exclusive ? LOCK_EX : LOCK_SH), "flock");
	must(!statx(f->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st), "statx");
	f->identity = st.stx_ino * 0x100000001b3UL ^ st.stx_btime.tv_sec << 30 ^ st.stx_btime.tv_nsec;
	memset(f->stamps, 0, sizeof(f->stamps));
	n = fgetxattr(f->fd, ATTRIBUTE, f->stamps, sizeof(f->stamps));
	/* New: somebody is about to write */
	if (n < 0 && errno == ENODATA)
		n = 0;
	must(n >= 0, "fgetxattr");
	f->blocks = n / sizeof(f->stamps[0]);
	if (st.stx_size != f->blocks * BLOCK)
		end(1, "%s has %lu bytes, not %lu", f->name, (unsigned long)st.stx_size, f->blocks * BLOCK);
	return true;
}

static void leave(struct file *f, bool changed)
{
	if (changed && f->blocks)
		must(!fsetxattr(f->fd, ATTRIBUTE, f->stamps, f->blocks * sizeof(f->stamps[0]), 0), "fsetxattr");
	else if (changed && fremovexattr(f->fd, ATTRIBUTE))
		must(errno == ENODATA, "fremovexattr");
	close(f->fd);				/* unlocks it */
}

static bool take_any(struct file *f, int flags, bool exclusive)
{
	a_name(f->name, sizeof(f->name), 'f');
	return take(f, flags, exclusive);
}

/* Blocks of a file that has some */
static int range(const struct file *f, int *first)
{
	*first = below(f->blocks);
	return 1 + below(f->blocks - *first);
}

static void op_read(void)
{
	struct file f;

	doing = "read";
	if (!take_any(&f, O_RDONLY, false))
		return;
	must(pread(f.fd, buffer, sizeof(buffer), 0) == (ssize_t)(f.blocks * BLOCK), "pread");
	for (int i = 0; i < f.blocks; i++)
		check(&f, buffer + i * WORDS, i);
	leave(&f, false);
}

static void op_read_mapped(void)
{
	struct file f;
	unsigned long *map;

	doing = "load";
	if (!take_any(&f, O_RDONLY, false))
		return;
	if (f.blocks) {
		map = mmap(NULL, f.blocks * BLOCK, PROT_READ, below(2) ? MAP_SHARED : MAP_PRIVATE, f.fd, 0);
		must(map != MAP_FAILED, "mmap");
		for (int i = f.blocks - 1; i >= 0; i--)
			check(&f, map + i * WORDS, i);
		munmap(map, f.blocks * BLOCK);
	}
	leave(&f, false);
}

/* Also makes files; in one piece, or each block by itself */
static void op_write(void)
{
	struct file f;
	int first, nr;

	doing = "write";
	if (!take_any(&f, O_RDWR | O_CREAT, true))
		return;
	first = below(4) ? (int)below(f.blocks + 1) : (int)below(BLOCKS);
	if (first == BLOCKS)
		first--;
	nr = 1 + below(BLOCKS - first);
	if (nr > 16)
		nr = 16;
	for (int i = 0; i < nr; i++) {
		f.stamps[first + i] = 1 + below(1UL << 31);
		fill(&f, buffer + i * WORDS, f.stamps[first + i]);
	}
	must(pwrite(f.fd, buffer, nr * BLOCK, first * BLOCK) == (ssize_t)(nr * BLOCK), "pwrite");
	if (f.blocks < first + nr)
		f.blocks = first + nr;
	if (below(8) == 0)
		must(!(below(2) ? fsync : fdatasync)(f.fd), "fsync");
	leave(&f, true);
}

static void op_write_mapped(void)
{
	struct file f;
	unsigned long *map;
	int first, nr;

	doing = "store";
	if (!take_any(&f, O_RDWR, true))
		return;
	if (f.blocks) {
		nr = range(&f, &first);
		map = mmap(NULL, f.blocks * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
		must(map != MAP_FAILED, "mmap");
		for (int i = first; i < first + nr; i++) {
			if (below(2))
				check(&f, map + i * WORDS, i);
			f.stamps[i] = 1 + below(1UL << 31);
			fill(&f, map + i * WORDS, f.stamps[i]);
		}
		if (below(4) == 0)
			must(!msync(map, f.blocks * BLOCK, MS_SYNC), "msync");
		munmap(map, f.blocks * BLOCK);
	}
	leave(&f, true);
}

static void op_truncate(void)
{
	struct file f;
	int blocks = below(BLOCKS + 1);

	doing = "truncate";
	if (!take_any(&f, O_RDWR, true))
		return;
	must(!ftruncate(f.fd, blocks * BLOCK), "ftruncate");
	if (blocks < f.blocks)
		memset(f.stamps + blocks, 0, (f.blocks - blocks) * sizeof(f.stamps[0]));
	f.blocks = blocks;
	leave(&f, true);
}

static void op_fallocate(void)
{
	static const int modes[] = { FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE,
				     FALLOC_FL_INSERT_RANGE };
	int first, nr, mode = modes[below(4)];
	struct file f;

	doing = mode == FALLOC_FL_COLLAPSE_RANGE ? "collapse" : mode == FALLOC_FL_INSERT_RANGE ? "insert" : "punch or zero";
	if (!take_any(&f, O_RDWR, true))
		return;
	if (!f.blocks)
		goto out;
	nr = range(&f, &first);
	/* Neither at the end */
	if ((mode == FALLOC_FL_COLLAPSE_RANGE && first + nr == f.blocks) ||
	    (mode == FALLOC_FL_INSERT_RANGE && f.blocks + nr > (int)BLOCKS))
		goto out;
	if (fallocate(f.fd, mode, first * BLOCK, nr * BLOCK)) {
		must(errno == EOPNOTSUPP, "fallocate");
		goto out;
	}
	if (mode == FALLOC_FL_COLLAPSE_RANGE) {
		memmove(f.stamps + first, f.stamps + first + nr, (f.blocks - first - nr) * sizeof(f.stamps[0]));
		f.blocks -= nr;
		memset(f.stamps + f.blocks, 0, nr * sizeof(f.stamps[0]));
	} else {
		if (mode == FALLOC_FL_INSERT_RANGE) {
			memmove(f.stamps + first + nr, f.stamps + first, (f.blocks - first) * sizeof(f.stamps[0]));
			f.blocks += nr;
		}
		memset(f.stamps + first, 0, nr * sizeof(f.stamps[0]));
	}
out:
	leave(&f, true);
}

/* --- names --- */

static void op_rename(void)
{
	char from[64], to[64];
	char kind = below(5) ? 'f' : 's';

	doing = "rename";
	a_name(from, sizeof(from), kind);
	a_name(to, sizeof(to), kind);
	may(!renameat2(AT_FDCWD, from, AT_FDCWD, to, below(3) ? 0 : RENAME_EXCHANGE), "rename");
}

static void op_link(void)
{
	char from[64], to[64];

	doing = "link";
	a_name(from, sizeof(from), 'f');
	a_name(to, sizeof(to), 'f');
	may(!link(from, to), "link");
}

static void op_unlink(void)
{
	char name[64];

	doing = "unlink";
	a_name(name, sizeof(name), below(3) ? 'f' : 's');
	may(!unlink(name), "unlink");
}

/* Open until the last byte is read, and nobody finds it any more */
static void op_unlink_open(void)
{
	struct file f;

	doing = "read of what was unlinked";
	if (!take_any(&f, O_RDONLY, false))
		return;
	may(!unlink(f.name), "unlink");
	usleep(below(3000));
	must(pread(f.fd, buffer, sizeof(buffer), 0) == (ssize_t)(f.blocks * BLOCK), "pread");
	for (int i = 0; i < f.blocks; i++)
		check(&f, buffer + i * WORDS, i);
	leave(&f, false);
}

/* Long or short; the same characters all the time, and how many there are */
static void op_symlink(void)
{
	char name[64], target[400];
	size_t size = 5 + below(below(2) ? 30 : 300);

	doing = "symlink";
	a_name(name, sizeof(name), 's');
	memset(target, 'a' + size % 26, size);
	target[snprintf(target, 5, "%03zu-", size)] = 'a' + size % 26;
	target[size] = 0;
	may(!symlink(target, name), "symlink");
}

static void op_readlink(void)
{
	char name[64], target[400];
	ssize_t n;

	doing = "readlink";
	a_name(name, sizeof(name), 's');
	n = readlink(name, target, sizeof(target) - 1);
	if (!may(n >= 0, "readlink"))
		return;
	target[n] = 0;
	if (n != atoi(target) || strspn(target + 4, (char[]){ 'a' + n % 26, 0 }) != (size_t)n - 4)
		end(1, "%s points to %s", name, target);
	checked++;
}

static void op_directory(void)
{
	char name[64];

	doing = "mkdir and rmdir";
	a_name(name, sizeof(name), 'g');
	if (below(2))
		may(!mkdir(name, 0755), "mkdir");
	else
		may(!rmdir(name), "rmdir");
}

/* Each name once, and none that nobody has made */
static void op_list(void)
{
	char seen[3][NAMES] = { { 0 } }, name[64];
	struct dirent *entry;
	DIR *dir;

	doing = "readdir";
	snprintf(name, sizeof(name), "d%lu", below(DIRECTORIES));
	dir = opendir(name);
	must(dir, "opendir");
	while (errno = 0, (entry = readdir(dir))) {
		const char *kinds = "fsg", *kind = strchr(kinds, entry->d_name[0]);
		int nr = atoi(entry->d_name + 1);

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%c%d", entry->d_name[0], nr);
		if (!kind || nr < 0 || nr >= NAMES || strcmp(name, entry->d_name))
			end(1, "there is a name %s", entry->d_name);
		/* Renamed and made anew meanwhile, it may come a second time */
		if (++seen[kind - kinds][nr] > 100)
			end(1, "the name %s comes again and again", entry->d_name);
	}
	must(!errno, "readdir");
	closedir(dir);
	checked++;
}

static void op_sync(void)
{
	char name[64];
	int fd;

	doing = "sync";
	snprintf(name, sizeof(name), "d%lu", below(DIRECTORIES));
	fd = open(name, O_RDONLY | O_DIRECTORY);
	must(fd >= 0, "open");
	must(!(below(8) ? fsync : syncfs)(fd), "fsync");
	close(fd);
}

/* Cold, so that the scanner takes it */
static void op_wait(void)
{
	doing = "wait";
	if (below(30) == 0)
		sleep(4 + below(3));
	else
		usleep(below(5000));
}

static void (*const operations[])(void) = {
	op_read, op_read, op_read, op_read_mapped, op_read_mapped, op_read_mapped, op_write, op_write, op_write, op_write,
	op_write_mapped, op_write_mapped, op_truncate, op_fallocate, op_fallocate, op_rename, op_link, op_unlink, op_unlink_open,
	op_symlink, op_readlink, op_directory, op_list, op_sync, op_wait, op_wait, op_wait,
};

/* Every file there is, at the end */
static int look_at(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	struct file f;

	(void)st;
	(void)ftw;
	if (type != FTW_F)
		return 0;
	snprintf(f.name, sizeof(f.name), "%s", path);
	if (!take(&f, O_RDONLY, false))
		return 0;
	must(pread(f.fd, buffer, sizeof(buffer), 0) == (ssize_t)(f.blocks * BLOCK), "pread");
	for (int i = 0; i < f.blocks; i++)
		check(&f, buffer + i * WORDS, i);
	leave(&f, false);
	return 0;
}

static int throw_away(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	return ftw->level && remove(path);
}

static void work(time_t deadline)
{
	while (time(NULL) < deadline)
		operations[below(sizeof(operations) / sizeof(operations[0]))]();
}

int main(int argc, char **argv)
{
	unsigned long *all, sum;
	int status, result = 0;
	time_t deadline;

	if (argc != 4) {
		fprintf(stderr, "usage: churn DIR SEED SECONDS\n");
		return 2;
	}
	seed = strtoul(argv[2], NULL, 0);
	deadline = time(NULL) + atol(argv[3]);
	if (mkdir(argv[1], 0755) && errno != EEXIST)
		end(2, "%s: %s", argv[1], strerror(errno));
	must(!chdir(argv[1]), "chdir");
	/* Perhaps stopped between contents and attribute */
	must(!nftw(".", throw_away, 20, FTW_DEPTH | FTW_PHYS), "nftw");
	for (int i = 0; i < DIRECTORIES; i++)
		must(!mkdir((char[]){ 'd', '0' + i, 0 }, 0755), "mkdir");
	all = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	must(all != MAP_FAILED, "mmap");
	for (process = 0; process < PROCESSES; process++) {
		pid_t pid = fork();

		must(pid >= 0, "fork");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			randomness = seed * 1000 + process;
			work(deadline);
			all[process] = checked;
			_exit(0);
		}
	}
	for (int i = 0; i < PROCESSES; i++) {
		if (wait(&status) < 0 || !WIFEXITED(status)) {
			fprintf(stderr, "churn: a process ended with status %x\n", status);
			result = result ?: 2;
		} else if (WEXITSTATUS(status) && result != 1) {
			result = WEXITSTATUS(status);
		}
	}
	if (result)
		return result;
	doing = "read of all";
	must(!nftw(".", look_at, 20, FTW_PHYS), "nftw");
	sum = checked;
	for (int i = 0; i < PROCESSES; i++)
		sum += all[i];
	printf("ops %lu\n", sum);
	return 0;
}
