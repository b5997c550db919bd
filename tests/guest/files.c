/*
 * Checksums of all files of a tree, made on the host and compared in the guest:
 *
 *   files sum DIR                       write a manifest to stdout
 *   files read|mmap DIR MANIFEST [JOBS] compare DIR with it
 *
 * The manifest has one record "checksum size path\0" for each regular file.
 * Comparing reads every byte by read(2) or through a mapping; nothing is taken
 * from the file's metadata but its size.  Exit status: 0 equal, 1 not, 2 could
 * not be done.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK	65536		/* a multiple of the hash's stripe */
#define STRIPE	32

static _Noreturn void fail(const char *what, const char *name)
{
	fprintf(stderr, "files: %s %s: %s\n", what, name, strerror(errno));
	exit(2);
}

/* --- XXH64 (seed 0), the same on little and big endian machines ------------ */

#define P1 0x9E3779B185EBCA87ULL
#define P2 0xC2B2AE3D27D4EB4FULL
#define P3 0x165667B19E3779F9ULL
#define P4 0x85EBCA77C2B2AE63ULL
#define P5 0x27D4EB2F165667C5ULL

struct hash {
	uint64_t lane[4];
	uint64_t length;
};

static uint64_t rotl(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static uint64_t load64(const unsigned char *p)
{
	uint64_t x;

	memcpy(&x, p, 8);
	return le64toh(x);
}

static uint64_t mix(uint64_t acc, uint64_t input)
{
	return rotl(acc + input * P2, 31) * P1;
}

static void hash_init(struct hash *h)
{
	h->lane[0] = P1 + P2;
	h->lane[1] = P2;
	h->lane[2] = 0;
	h->lane[3] = -P1;
	h->length = 0;
}

/* All but the last call: a multiple of STRIPE bytes.  Returns what is left. */
static const unsigned char *hash_stripes(struct hash *h, const unsigned char *p,
					 size_t n)
{
	h->length += n;
	for (; n >= STRIPE; n -= STRIPE, p += STRIPE)
		for (int i = 0; i < 4; i++)
			h->lane[i] = mix(h->lane[i], load64(p + 8 * i));
	return p;
}

/* The rest, fewer than STRIPE bytes that hash_stripes() has left over */
static uint64_t hash_end(struct hash *h, const unsigned char *p)
{
	size_t n = h->length % STRIPE;
	uint64_t x = P5;
	uint32_t word;

	if (h->length >= STRIPE) {
		x = rotl(h->lane[0], 1) + rotl(h->lane[1], 7) +
		    rotl(h->lane[2], 12) + rotl(h->lane[3], 18);
		for (int i = 0; i < 4; i++)
			x = (x ^ mix(0, h->lane[i])) * P1 + P4;
	}
	x += h->length;
	for (; n >= 8; n -= 8, p += 8)
		x = rotl(x ^ mix(0, load64(p)), 27) * P1 + P4;
	if (n >= 4) {
		memcpy(&word, p, 4);
		x = rotl(x ^ le32toh(word) * P1, 23) * P2 + P3;
		n -= 4, p += 4;
	}
	for (; n; n--, p++)
		x = rotl(x ^ *p * P5, 11) * P1;
	x = (x ^ x >> 33) * P2;
	x = (x ^ x >> 29) * P3;
	return x ^ x >> 32;
}

/* --- one file ------------------------------------------------------------------ */

static uint64_t sum_read(int fd, const char *name, uint64_t *size)
{
	static unsigned char buf[CHUNK];
	const unsigned char *rest = buf;
	struct hash h;
	size_t fill;
	ssize_t n;

	hash_init(&h);
	do {
		for (fill = 0; fill < CHUNK; fill += n) {
			n = read(fd, buf + fill, CHUNK - fill);
			if (n < 0)
				fail("read", name);
			if (n == 0)
				break;
		}
		rest = hash_stripes(&h, buf, fill);
	} while (fill == CHUNK);
	*size = h.length;
	return hash_end(&h, rest);
}

static uint64_t sum_mmap(int fd, const char *name, uint64_t *size)
{
	struct hash h;
	struct stat st;
	uint64_t sum;
	void *p;

	hash_init(&h);
	if (fstat(fd, &st))
		fail("stat", name);
	*size = st.st_size;
	if (st.st_size == 0)
		return hash_end(&h, NULL);
	p = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		fail("mmap", name);
	sum = hash_end(&h, hash_stripes(&h, p, st.st_size));
	munmap(p, st.st_size);
	return sum;
}

/* --- sum DIR ------------------------------------------------------------------- */

static void sum_dir(int dirfd, const char *dir)
{
	struct dirent **list;
	int n = scandirat(dirfd, ".", &list, NULL, alphasort);

	if (n < 0)
		fail("cannot read directory", dir);
	for (int i = 0; i < n; i++) {
		const char *name = list[i]->d_name;
		char path[strlen(dir) + strlen(name) + 2];
		struct stat st;
		uint64_t sum, size;
		int fd;

		if (!strcmp(name, ".") || !strcmp(name, ".."))
			continue;
		sprintf(path, "%s%s%s", dir, *dir ? "/" : "", name);
		if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW))
			fail("stat", path);
		if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
			continue;
		fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW);
		if (fd < 0)
			fail("cannot open", path);
		if (S_ISDIR(st.st_mode)) {
			sum_dir(fd, path);
		} else {
			sum = sum_read(fd, path, &size);
			printf("%016" PRIx64 " %" PRIu64 " %s%c", sum, size, path, 0);
		}
		close(fd);
		free(list[i]);
	}
	free(list);
}

/* --- read|mmap DIR MANIFEST JOBS ------------------------------------------------ */

struct result {
	uint64_t files, bytes, wrong;
};

/* Every jobs-th record, beginning with the job-th */
static struct result compare(int use_mmap, const char *manifest, int job, int jobs)
{
	struct result r = { 0 };
	FILE *f = fopen(manifest, "r");
	char *record = NULL;
	size_t room = 0;
	int number = 0;

	if (!f)
		fail("cannot open", manifest);
	while (getdelim(&record, &room, 0, f) > 0) {
		uint64_t want, want_size, have, size;
		int at, fd;

		if (number++ % jobs != job)
			continue;
		if (sscanf(record, "%" SCNx64 " %" SCNu64 "%n", &want, &want_size, &at) != 2) {
			fprintf(stderr, "files: bad record %d in %s\n", number, manifest);
			exit(2);
		}
		fd = open(record + at + 1, O_RDONLY);
		if (fd < 0)
			fail("cannot open", record + at + 1);
		have = (use_mmap ? sum_mmap : sum_read)(fd, record + at + 1, &size);
		close(fd);
		r.files++;
		r.bytes += size;
		if (have != want || size != want_size) {
			r.wrong++;
			printf("WRONG %s: %016" PRIx64 " (%" PRIu64 " bytes), expected %016"
			       PRIx64 " (%" PRIu64 " bytes)\n", record + at + 1,
			       have, size, want, want_size);
		}
	}
	if (ferror(f))
		fail("cannot read", manifest);
	fclose(f);
	return r;
}

static int compare_all(int use_mmap, const char *manifest, int jobs)
{
	struct result part, all = { 0 };
	int fds[2], status, bad = 0;

	if (pipe(fds))
		fail("pipe", "");
	fflush(stdout);
	for (int job = 0; job < jobs; job++) {
		pid_t pid = fork();

		if (pid < 0)
			fail("fork", "");
		if (pid == 0) {
			part = compare(use_mmap, manifest, job, jobs);
			if (write(fds[1], &part, sizeof(part)) != sizeof(part))
				fail("write", "pipe");
			fflush(stdout);
			_exit(0);
		}
	}
	for (int job = 0; job < jobs; job++) {
		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
			if (WIFSIGNALED(status))
				fprintf(stderr, "files: reader died of signal %d\n",
					WTERMSIG(status));
			bad = 1;
			continue;
		}
		if (read(fds[0], &part, sizeof(part)) != sizeof(part))
			fail("read", "pipe");
		all.files += part.files;
		all.bytes += part.bytes;
		all.wrong += part.wrong;
	}
	if (bad)
		return 2;
	printf("files %" PRIu64 " bytes %" PRIu64 " wrong %" PRIu64 "\n",
	       all.files, all.bytes, all.wrong);
	return all.wrong != 0;
}

int main(int argc, char **argv)
{
	char manifest[4096];

	if (argc == 3 && !strcmp(argv[1], "sum")) {
		int fd = open(argv[2], O_RDONLY | O_DIRECTORY);

		if (fd < 0)
			fail("cannot open", argv[2]);
		sum_dir(fd, "");
		if (fflush(stdout) || ferror(stdout))
			fail("write", "manifest");
		return 0;
	}
	if (argc >= 4 && (!strcmp(argv[1], "read") || !strcmp(argv[1], "mmap"))) {
		if (!realpath(argv[3], manifest))
			fail("cannot open", argv[3]);
		if (chdir(argv[2]))
			fail("cannot enter", argv[2]);
		return compare_all(!strcmp(argv[1], "mmap"), manifest,
				   argc > 4 ? atoi(argv[4]) : 1);
	}
	fprintf(stderr, "usage: files sum DIR | files read|mmap DIR MANIFEST [JOBS]\n");
	return 2;
}
