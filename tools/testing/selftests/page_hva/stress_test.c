// SPDX-License-Identifier: GPL-2.0
/*
 * The scanner offers and the host drops all the time, while everything that
 * uses, moves, frees or wants the pages goes on.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include "page_hva_util.h"
#include "../kselftest_harness.h"

#define SECONDS		4	/* how long each of them runs */
#define PATIENCE	60	/* and how much longer where it is slow */
#define ENOUGH		100	/* discarded pages: less have shown nothing */

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

/* The adversary: a thread that scans and reclaims until it is stopped */
static atomic_bool stop;
static pthread_t adversary_thread;

static void *adversary(void *arg)
{
	int i;

	for (i = 0; !stop; i++) {
		hva_scan(1);
		if (i % 3 == 0)
			hva_host_reclaim();
		usleep(2000);
	}
	return NULL;
}

static long discarded_before;

static long met(void)
{
	return hva_count("hva_discarded") - discarded_before;
}

/* After end only until the work is done */
static bool go_on(double end, bool done)
{
	double now = hva_now();

	return now < end ||
	       (now < end + PATIENCE && !(done && met() >= ENOUGH));
}

FIXTURE(stress) {
};

FIXTURE_SETUP(stress)
{
	const char *why = hva_begin(true);

	if (why)
		SKIP(return, "%s", why);
	discarded_before = hva_count("hva_discarded");
	if (pthread_create(&adversary_thread, NULL, adversary, NULL))
		hva_die("pthread_create");
}

static void stop_adversary(void)
{
	if (!adversary_thread)
		return;
	stop = true;
	pthread_join(adversary_thread, NULL);
	adversary_thread = 0;
}

FIXTURE_TEARDOWN(stress)
{
	stop_adversary();
	ksft_print_msg("%ld discarded pages found\n", met());
	EXPECT_GE(met(), _metadata->exit_code ? 0 : ENOUGH);
	hva_end();
}

/*
 * Readers, writers and truncaters on the same pages.  A sector has a version;
 * its lane's lock protects the versions of every eighth sector of a file, so
 * that others of the same page are in use by somebody else meanwhile.
 */
#define FILES		3
#define FILE_SIZE	MIB(2)
#define SECTOR		512
#define LANES		8
#define SECTORS		(FILE_SIZE / SECTOR)
#define LEAST_WRITES	(FILES * SECTORS + 100)

static struct shared_file {
	int fd, nr;
	char *map;
	pthread_rwlock_t lane[LANES];
	unsigned short version[SECTORS];	/* 0: a hole, all zeros */
} files[FILES];

static atomic_long wrong_sectors, reads, writes, truncates;

static unsigned int seed_of(struct shared_file *f, size_t sector)
{
	return f->nr << 16 | f->version[sector];
}

static void check_sector(struct shared_file *f, size_t sector, const char *buf)
{
	off_t off = sector * SECTOR;
	size_t i;

	reads++;
	if (f->version[sector]) {
		off = hva_differs(buf, SECTOR, seed_of(f, sector), off);
		if (off < 0)
			return;
	} else {
		for (i = 0; i < SECTOR && !buf[i]; i++)
			;
		if (i == SECTOR)
			return;
	}
	if (!wrong_sectors++)
		ksft_print_msg("file %d sector %zu version %u: starts with %#lx\n",
			       f->nr, sector, f->version[sector],
			       *(unsigned long *)buf);
}

static void read_one(struct shared_file *f, size_t sector, bool mapped)
{
	pthread_rwlock_t *lock = &f->lane[sector % LANES];
	char buf[SECTOR];

	pthread_rwlock_rdlock(lock);
	if (mapped)
		memcpy(buf, f->map + sector * SECTOR, SECTOR);
	else if (pread(f->fd, buf, SECTOR, sector * SECTOR) != SECTOR)
		hva_die("read");
	check_sector(f, sector, buf);
	pthread_rwlock_unlock(lock);
}

static void write_one(struct shared_file *f, size_t sector, bool mapped)
{
	pthread_rwlock_t *lock = &f->lane[sector % LANES];
	char buf[SECTOR];

	pthread_rwlock_wrlock(lock);
	f->version[sector] = f->version[sector] % 1000 + 1;
	hva_fill(buf, SECTOR, seed_of(f, sector), sector * SECTOR);
	if (mapped)
		memcpy(f->map + sector * SECTOR, buf, SECTOR);
	else if (pwrite(f->fd, buf, SECTOR, sector * SECTOR) != SECTOR)
		hva_die("write");
	writes++;
	pthread_rwlock_unlock(lock);
}

static void cut_one(struct shared_file *f, size_t sector)
{
	int i;

	for (i = 0; i < LANES; i++)
		pthread_rwlock_wrlock(&f->lane[i]);
	if (ftruncate(f->fd, sector * SECTOR) || ftruncate(f->fd, FILE_SIZE))
		hva_die("ftruncate");
	memset(f->version + sector, 0,
	       (SECTORS - sector) * sizeof(f->version[0]));
	truncates++;
	for (i = 0; i < LANES; i++)
		pthread_rwlock_unlock(&f->lane[i]);
}

static void *user_of_files(void *arg)
{
	unsigned int rnd = (unsigned long)arg * 7919;
	double end = hva_now() + SECONDS;
	int i;

	while (go_on(end, writes >= LEAST_WRITES && truncates)) {
		struct shared_file *f = &files[rand_r(&rnd) % FILES];
		size_t sector = rand_r(&rnd) % SECTORS;

		/* A run of sectors, now and then: readahead, batches */
		for (i = 0; i < 64 && sector + i < SECTORS; i++)
			read_one(f, sector + i, rnd & 1);
		sector = rand_r(&rnd) % SECTORS;
		switch (rand_r(&rnd) % 32) {
		case 0:
			/* Leave most of it most of the time */
			cut_one(f, SECTORS - 1 - rand_r(&rnd) % (SECTORS / 8));
			break;
		case 1 ... 3:
			fsync(f->fd);
			break;
		case 4:
			posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
			break;
		case 5 ... 20:
			write_one(f, sector, rnd & 1);
			break;
		default:
			/* Give pages the time to become cold */
			usleep(20000);
			break;
		}
	}
	return NULL;
}

static void check_files(void)
{
	size_t sector;
	int i;

	for (i = 0; i < FILES; i++) {
		for (sector = 0; sector < SECTORS; sector++)
			read_one(&files[i], sector, false);
	}
}

TEST_F_TIMEOUT(stress, readers_writers_and_truncaters, HVA_TIMEOUT)
{
	pthread_t thread[8];
	char name[16];
	size_t sector;
	long i, j;

	for (i = 0; i < FILES; i++) {
		struct shared_file *f = &files[i];

		f->nr = i + 1;
		snprintf(name, sizeof(name), "file%ld", i);
		f->fd = open(hva_path(name), O_RDWR | O_CREAT, 0600);
		ASSERT_GE(f->fd, 0);
		ASSERT_EQ(ftruncate(f->fd, FILE_SIZE), 0);
		f->map = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
			      MAP_SHARED, f->fd, 0);
		ASSERT_NE(f->map, MAP_FAILED);
		for (j = 0; j < LANES; j++)
			pthread_rwlock_init(&f->lane[j], NULL);
		for (sector = 0; sector < SECTORS; sector++)
			write_one(f, sector, false);
		ASSERT_EQ(fsync(f->fd), 0);
	}
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		ASSERT_EQ(pthread_create(&thread[i], NULL, user_of_files,
					 (void *)(i + 1)), 0);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	stop_adversary();
	check_files();
	sync();
	hva_discard();
	check_files();
	hva_drop_caches();
	check_files();
	EXPECT_EQ(wrong_sectors, 0);
	ksft_print_msg("%ld reads %ld writes %ld truncates\n", reads, writes,
		       truncates);
	EXPECT_GE(reads, FILES * SECTORS * 3 + 1000);
	EXPECT_GE(writes, LEAST_WRITES);
	EXPECT_GE(truncates, 1);
	/* Control: the check does see a wrong sector */
	memset(files[0].map + 5 * SECTOR + 100, 0, 1);
	files[0].version[6]++;
	read_one(&files[0], 6, false);
	EXPECT_EQ(wrong_sectors, 1);
}

/* Files come, are offered, and go, and so do their inodes */
static void *creator(void *arg)
{
	unsigned int nr = (unsigned long)arg, seed = nr << 16;
	double end = hva_now() + SECONDS;
	size_t size = KIB(100);
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "short%u", nr);
	while (go_on(end, writes >= 20)) {
		fd = hva_create(name, size, ++seed);
		usleep(seed % 8 * 5000);
		wrong_sectors += hva_check(fd, size, seed);
		if (seed & 1)
			unlink(hva_path(name));
		close(fd);
		writes++;
	}
	return NULL;
}

TEST_F_TIMEOUT(stress, short_lived_files, HVA_TIMEOUT)
{
	pthread_t thread[4];
	long i;

	for (i = 0; i < ARRAY_SIZE(thread); i++)
		ASSERT_EQ(pthread_create(&thread[i], NULL, creator,
					 (void *)(i + 1)), 0);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(wrong_sectors, 0);
	EXPECT_GE(writes, 20);
}

/* Programs whose text goes all the time, and children of all kinds */

static int run(const char *path, const char *arg)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		execl(path, path, arg, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	return status;
}

/* What the program says of itself */
static void sum_of_text(const char *path, char *sum, size_t size)
{
	int p[2], status;
	ssize_t n;
	pid_t pid;

	if (pipe(p))
		hva_die("pipe");
	pid = fork();
	if (!pid) {
		dup2(p[1], 1);
		execl(path, path, NULL);
		_exit(127);
	}
	n = read(p[0], sum, size - 1);
	if (n <= 0 || waitpid(pid, &status, 0) != pid || status)
		hva_die("%s", path);
	sum[n] = '\0';
	close(p[0]);
	close(p[1]);
}

static int exec_worker(const char *path, const char *sum, int fd)
{
	char *map = mmap(NULL, MIB(1), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
			 0);
	double end = hva_now() + SECONDS;
	int rounds = 0, status;
	pid_t pid;

	while (go_on(end, rounds >= 3)) {
		if (run(path, sum))
			return 1;
		/* A child that shares the mapping and writes into its copy */
		pid = fork();
		if (!pid) {
			if (hva_differs(map, MIB(1), 1, 0) >= 0)
				_exit(1);
			memset(map + KIB(64), 1, 100);
			usleep(20000);
			_exit(hva_differs(map + KIB(128), KIB(512), 1,
					  KIB(128)) >= 0);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			return 2;
		if (hva_differs(map, MIB(1), 1, 0) >= 0)
			return 3;
		rounds++;
		usleep(20000);
	}
	return rounds < 3 ? 4 : 0;
}

TEST_F_TIMEOUT(stress, fork_and_exec_storm, HVA_TIMEOUT)
{
	char path[300], sum[32];
	pid_t pid[4];
	int i, fd, status;

	fd = hva_create("file", MIB(1), 1);
	snprintf(path, sizeof(path), "%s", hva_path("text"));
	ASSERT_TRUE(hva_copy_text(path));
	sum_of_text(path, sum, sizeof(sum));
	ASSERT_NE(run(path, "1234"), 0);

	for (i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		if (!pid[i])
			_exit(exec_worker(path, sum, fd));
	}
	for (i = 0; i < ARRAY_SIZE(pid); i++) {
		ASSERT_EQ(waitpid(pid[i], &status, 0), pid[i]);
		EXPECT_EQ(status, 0);
	}
}

/*
 * Lookups in interrupts: a timer fires in programs whose text goes all the time,
 * and a BPF program asks for the build id, which is in the file's first page.
 */
#define STACK_SIZE	256

/* Add one to the counter at r0 */
static void emit_count(int off)
{
	hva_emit_set(BPF_REG_1, 1);
	hva_emit(BPF_STX | BPF_ATOMIC | BPF_DW, BPF_REG_0, BPF_REG_1, off, BPF_ADD);
}

/* Element 0: the stack; element 1: times it was taken, and with build id */
static int build_id_program(int map)
{
	hva_emit_move(BPF_REG_6, BPF_REG_1);
	hva_emit_lookup(map, 0);
	hva_emit_move(BPF_REG_7, BPF_REG_0);
	hva_emit_move(BPF_REG_1, BPF_REG_6);
	hva_emit_move(BPF_REG_2, BPF_REG_0);
	hva_emit_set(BPF_REG_3, STACK_SIZE);
	hva_emit_set(BPF_REG_4, BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
	hva_emit_call(BPF_FUNC_get_stack);
	hva_emit_lookup(map, 1);
	emit_count(0);
	hva_emit(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_2, BPF_REG_7, 0, 0);
	hva_emit(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2, 0, 2,
		 BPF_STACK_BUILD_ID_VALID);
	emit_count(8);
	hva_emit_set(BPF_REG_0, 0);
	hva_emit_exit();
	return hva_bpf_load(BPF_PROG_TYPE_PERF_EVENT);
}

/* Run the program every millisecond on each CPU */
static bool start_timers(int program)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = 1000000,
	};
	long cpu, fd;

	for (cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, 0);
		if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, program))
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(stress, build_ids_in_interrupts, HVA_TIMEOUT)
{
	unsigned long counts[STACK_SIZE / sizeof(long)] = { };
	double end = hva_now() + SECONDS;
	char path[300], sum[32];
	int map, program;

	map = hva_bpf_array(STACK_SIZE, 2);
	if (map < 0)
		SKIP(return, "no BPF");
	program = build_id_program(map);
	ASSERT_GE(program, 0);
	if (!start_timers(program))
		SKIP(return, "no BPF in timers: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s", hva_path("text"));
	ASSERT_TRUE(hva_copy_text(path));
	sum_of_text(path, sum, sizeof(sum));
	while (go_on(end, true)) {
		EXPECT_EQ(run(path, sum), 0);
		usleep(20000);
	}
	ASSERT_TRUE(hva_bpf_get(map, 1, counts));
	ksft_print_msg("%ld stacks, %ld with build id\n", counts[0], counts[1]);
	EXPECT_GE(counts[0], 100);
	EXPECT_GE(counts[1], 10);
}

/* Memory is short: the guest reclaims what the host drops */

TEST_F_TIMEOUT(stress, memory_cgroup_at_its_limit, HVA_TIMEOUT)
{
	char group[160], file[256], buf[512], *pos, *ballast;
	int fd, small;
	double end;

	if (!hva_cgroup_enter("memory", group, sizeof(group)))
		SKIP(return, "no memory controller");
	snprintf(file, sizeof(file), "%s/memory.max", group);
	ASSERT_TRUE(hva_put(file, "16777216"));
	/* Leave only 4 MiB, or the host drops it before the limit is reached */
	ballast = mmap(NULL, MIB(12), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(ballast, MAP_FAILED);
	fd = hva_create("file", MIB(48), 1);
	small = hva_create("small", MIB(1), 2);
	end = hva_now() + SECONDS;
	while (go_on(end, true)) {
		EXPECT_EQ(hva_check(fd, MIB(48), 1), 0);
		/* Most of that is reclaimed before the host drops it; not this */
		EXPECT_EQ(hva_check(small, MIB(1), 2), 0);
		hva_discard();
		EXPECT_EQ(hva_check(small, MIB(1), 2), 0);
	}

	/* The limit was one: reclaim was at work, and it found enough */
	snprintf(file, sizeof(file), "%s/memory.events", group);
	ASSERT_TRUE(hva_get(file, buf, sizeof(buf)));
	pos = strstr(buf, "\nmax ");
	ASSERT_NE(pos, NULL);
	EXPECT_GT(atol(pos + 5), 0);
	EXPECT_NE(strstr(buf, "oom_kill 0"), NULL)
		TH_LOG("%s", buf);
}

static long mem_bytes(const char *key)
{
	char buf[4096], *pos;

	if (!hva_get("/proc/meminfo", buf, sizeof(buf)))
		hva_die("meminfo");
	pos = strstr(buf, key);
	return pos ? atol(pos + strlen(key) + 1) << 10 : 0;
}

TEST_F_TIMEOUT(stress, anonymous_memory_takes_all, HVA_TIMEOUT)
{
	size_t size = mem_bytes("MemAvailable") / 4 * 3, file = MIB(48), off;
	int fd = hva_create("file", file, 1);
	unsigned long *mem;

	EXPECT_EQ(hva_check(fd, file, 1), 0);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(mem, MAP_FAILED);
	for (off = 0; off < size / sizeof(*mem); off += hva_page / sizeof(*mem))
		mem[off] = ~off;
	EXPECT_EQ(hva_check(fd, file, 1), 0);
	for (off = 0; off < size / sizeof(*mem); off += hva_page / sizeof(*mem))
		ASSERT_EQ(mem[off], ~off);
}

/* Pages move */

TEST_F_TIMEOUT(stress, compaction, HVA_TIMEOUT)
{
	size_t size = MIB(32), off;
	int fd = hva_create("file", size, 1), round;
	long scanned = hva_count("compact_migrate_scanned");

	for (round = 0; round < 4; round++) {
		EXPECT_EQ(hva_check(fd, size, 1), 0);
		/* Holes that compaction can fill */
		for (off = 0; off < size; off += 8 * hva_page)
			posix_fadvise(fd, off, 5 * hva_page,
				      POSIX_FADV_DONTNEED);
		if (round & 1)
			usleep(500000);
		ASSERT_TRUE(hva_put("/proc/sys/vm/compact_memory", "1"));
	}
	EXPECT_EQ(hva_check(fd, size, 1), 0);
	EXPECT_GT(hva_count("compact_migrate_scanned"), scanned);
}

/* Taking a memory block offline may take for ever if it cannot be done */
static bool set_memory_block(const char *path, const char *state)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		alarm(10);
		_exit(!hva_put(path, state));
	}
	return waitpid(pid, &status, 0) == pid && !status;
}

TEST_F_TIMEOUT(stress, memory_offline, HVA_TIMEOUT)
{
	int fd, tried = 0, done = 0;
	size_t size = MIB(64);
	struct dirent *de;
	char path[400];
	long moved;
	DIR *dir;

	dir = opendir("/sys/devices/system/memory");
	if (!dir)
		SKIP(return, "no memory hotplug");
	fd = hva_create("file", size, 1);
	moved = hva_count("pgmigrate_success");
	while ((de = readdir(dir))) {
		if (strncmp(de->d_name, "memory", 6))
			continue;
		snprintf(path, sizeof(path),
			 "/sys/devices/system/memory/%s/state", de->d_name);
		tried++;
		/* What is dropped need not be moved */
		EXPECT_EQ(hva_check(fd, size, 1), 0);
		if (!set_memory_block(path, "offline"))
			continue;
		done++;
		EXPECT_EQ(hva_check(fd, size, 1), 0);
		EXPECT_TRUE(set_memory_block(path, "online"));
	}
	closedir(dir);
	moved = hva_count("pgmigrate_success") - moved;
	EXPECT_EQ(hva_check(fd, size, 1), 0);
	ksft_print_msg("%d of %d memory blocks, %ld pages moved\n", done,
		       tried, moved);
	EXPECT_GE(moved, done ? 1000 : 0);
	if (!done && !_metadata->exit_code)
		SKIP(return, "no memory block could be taken offline");
}

/* Swap, and a swap file that is a file with page cache itself */
TEST_F_TIMEOUT(stress, swapoff, HVA_TIMEOUT)
{
	size_t size = MIB(24), used = MIB(16);
	char *zeros = calloc(1, size);
	unsigned int *header = (unsigned int *)(zeros + 1024);
	int fd, round;
	char *mem;

	header[0] = 1;
	header[1] = size / hva_page - 1;
	memcpy(zeros + hva_page - 10, "SWAPSPACE2", 10);
	fd = open(hva_path("swap"), O_RDWR | O_CREAT, 0600);
	ASSERT_EQ(pwrite(fd, zeros, size, 0), size);
	ASSERT_EQ(fsync(fd), 0);
	if (swapon(hva_path("swap"), 0))
		SKIP(return, "no swap files here: %s", strerror(errno));
	mem = mmap(NULL, used, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (round = 1; round <= 3; round++) {
		hva_fill(mem, used, round, 0);
		EXPECT_EQ(madvise(mem, used, MADV_PAGEOUT), 0);
		usleep(200000);
		EXPECT_GE(mem_bytes("SwapTotal") - mem_bytes("SwapFree"), used / 2);
		EXPECT_EQ(hva_differs(mem, used / 2, round, 0), -1);
	}
	EXPECT_EQ(madvise(mem, used, MADV_PAGEOUT), 0);
	EXPECT_EQ(swapoff(hva_path("swap")), 0);
	EXPECT_EQ(hva_differs(mem, used, 3, 0), -1);
	/* The contents of swap are none of ours: provide the discards */
	close(hva_create("file", MIB(2), 1));
	usleep(500000);
	fd = open(hva_path("file"), O_RDONLY);
	EXPECT_EQ(hva_check(fd, MIB(2), 1), 0);
}

/* File systems go, and with them the mappings the scanner may be looking at */

#define FAT_SIZE	MIB(32)

/* The smallest FAT16 that the kernel takes for one */
static void make_fat(int fd)
{
	static const unsigned char boot[] = {
		0xeb, 0x3c, 0x90, 'p', 'a', 'g', 'e', ' ', 'h', 'v', 'a',
		0x00, 0x02,	/* bytes per sector */
		8,		/* sectors per cluster */
		1, 0,		/* reserved sectors */
		1,		/* number of FATs */
		0x00, 0x02,	/* entries of the root directory */
		0x00, 0x00,	/* sectors, if they were few */
		0xf8,		/* medium */
		32, 0,		/* sectors per FAT */
		32, 0, 2, 0, 0, 0, 0, 0,
		0x00, 0x00, 0x01, 0x00,	/* sectors */
	};
	static const unsigned char fat[] = { 0xf8, 0xff, 0xff, 0xff };

	if (ftruncate(fd, FAT_SIZE) ||
	    pwrite(fd, boot, sizeof(boot), 0) != sizeof(boot) ||
	    pwrite(fd, "\x55\xaa", 2, 510) != 2 ||
	    pwrite(fd, fat, sizeof(fat), 512) != sizeof(fat))
		hva_die("file system image");
}

static bool detach(const char *dev)
{
	int fd = open(dev, O_RDONLY);
	int ret = ioctl(fd, LOOP_CLR_FD);

	close(fd);
	return !ret;
}

TEST_F_TIMEOUT(stress, mount_and_umount, HVA_TIMEOUT)
{
	struct loop_config config = { };
	char dev[32], where[300], name[400];
	int fd, control, loop, nr, round, file;

	control = open("/dev/loop-control", O_RDWR);
	if (control < 0)
		SKIP(return, "no loop devices");
	fd = open(hva_path("image"), O_RDWR | O_CREAT, 0600);
	make_fat(fd);
	snprintf(where, sizeof(where), "%s", hva_path("mnt"));
	ASSERT_EQ(mkdir(where, 0700), 0);
	snprintf(name, sizeof(name), "%s/file", where);
	config.fd = fd;
	for (round = 0; round < 5; round++) {
		nr = ioctl(control, LOOP_CTL_GET_FREE);
		ASSERT_GE(nr, 0);
		snprintf(dev, sizeof(dev), "/dev/loop%d", nr);
		loop = open(dev, O_RDWR);
		ASSERT_GE(loop, 0);
		ASSERT_EQ(ioctl(loop, LOOP_CONFIGURE, &config), 0);
		/* Not while somebody may write to the device */
		close(loop);
		if (mount(dev, where, "vfat", 0, NULL)) {
			int err = errno;

			detach(dev);
			SKIP(return, "vfat: %s", strerror(err));
		}
		file = open(name, O_RDWR);
		if (round) {
			ASSERT_GE(file, 0);
			EXPECT_EQ(hva_check(file, MIB(8), round - 1), 0);
			close(file);
		}
		file = hva_create("mnt/file", MIB(8), round);
		usleep(round * 100000);
		EXPECT_EQ(hva_check(file, MIB(8), round), 0);
		close(file);
		ASSERT_EQ(umount(where), 0);
		ASSERT_TRUE(detach(dev));
	}
}

TEST_HARNESS_MAIN
