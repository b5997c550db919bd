/*
 * Load a kernel and start it, and look at what the old one left:
 *
 *   kexec load|panic KERNEL INITRD CMDLINE   for now, or for the next panic
 *   kexec start                              without asking anybody
 *   kexec search FILE PRE FIX                how many bytes can be read, and how
 *                                            many different numbers under 10000
 *                                            follow the prefix somewhere
 *
 * The prefix is given in two words, or it would find itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "kexec: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		fail(path);
	return fd;
}

#define CHUNK	(1 << 20)
#define OVERLAP	64		/* longer than prefix and number */

static void search(const char *path, const char *one, const char *two)
{
	static char buf[OVERLAP + CHUNK + 1], seen[10000];
	unsigned long bytes = 0, found = 0;
	int fd = open_file(path);
	char prefix[OVERLAP];
	char *pos, *end;
	ssize_t n;

	snprintf(prefix, sizeof(prefix), "%s%s", one, two);
	while ((n = read(fd, buf + OVERLAP, CHUNK)) > 0) {
		bytes += n;
		end = buf + OVERLAP + n;
		*end = '\0';
		for (pos = buf; (pos = memmem(pos, end - pos, prefix, strlen(prefix))); ) {
			pos += strlen(prefix);
			seen[strtoul(pos, NULL, 10) % sizeof(seen)] = 1;
		}
		memmove(buf, end - OVERLAP, OVERLAP);
	}
	if (n < 0)
		fail(path);
	for (n = 0; n < (ssize_t)sizeof(seen); n++)
		found += seen[n];
	printf("%lu bytes %lu found\n", bytes, found);
}

int main(int argc, char **argv)
{
	if (argc == 5 && (!strcmp(argv[1], "load") || !strcmp(argv[1], "panic"))) {
		if (syscall(SYS_kexec_file_load, open_file(argv[2]), open_file(argv[3]), strlen(argv[4]) + 1, argv[4],
			    strcmp(argv[1], "panic") ? 0L : (long)KEXEC_FILE_ON_CRASH))
			fail("loading the kernel");
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "start")) {
		sync();
		syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
		fail("starting the kernel");
	}
	if (argc == 5 && !strcmp(argv[1], "search")) {
		search(argv[2], argv[3], argv[4]);
		return 0;
	}
	fprintf(stderr, "usage: kexec load|panic KERNEL INITRD CMDLINE | kexec start | kexec search FILE PRE FIX\n");
	return 2;
}
