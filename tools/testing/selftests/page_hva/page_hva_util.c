// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "page_hva_util.h"

size_t hva_page;
char hva_dir[256];

static struct hva_stat stat_at_begin;
static char cgroup_root[128], cgroup_dir[160];
static int port_fd = -1;

void __hva_die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	fprintf(stderr, "# ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (errno %d: %s)\n", err, strerror(err));
	_exit(KSFT_FAIL);
}

const char *hva_swap_device;

static const char *swap_path(void)
{
	return hva_swap_device ? hva_swap_device : hva_path("swap");
}

bool hva_swap_on(size_t size)
{
	char *zeros = calloc(1, size);
	unsigned int *header = (unsigned int *)(zeros + 1024);
	int fd;

	header[0] = 1;
	header[1] = size / hva_page - 1;
	memcpy(zeros + hva_page - 10, "SWAPSPACE2", 10);
	fd = open(swap_path(), O_RDWR | O_CREAT, 0600);
	if (pwrite(fd, zeros, size, 0) != (ssize_t)size || fsync(fd))
		hva_die("swap file");
	close(fd);
	free(zeros);
	return !swapon(swap_path(), 0);
}

bool hva_swap_off(void)
{
	return !swapoff(swap_path());
}

long hva_meminfo(const char *name)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	long kib = -1;

	while (f && kib < 0 && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, name, strlen(name)))
			kib = atol(line + strlen(name));
	}
	if (f)
		fclose(f);
	return kib;
}

double hva_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

bool hva_get(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return false;
	while (len < size - 1) {
		n = read(fd, buf + len, size - 1 - len);
		if (n <= 0)
			break;
		len += n;
	}
	close(fd);
	buf[len] = '\0';
	return true;
}

bool hva_put(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);
	ssize_t n;

	if (fd < 0)
		return false;
	n = write(fd, val, strlen(val));
	if (close(fd))
		return false;
	return n == (ssize_t)strlen(val);
}

/* Counters and states */

void hva_stat_read(struct hva_stat *st)
{
	if (!hva_get("/proc/vmstat", st->text, sizeof(st->text)))
		hva_die("/proc/vmstat");
}

long hva_stat_get(const struct hva_stat *st, const char *name)
{
	size_t len = strlen(name);
	const char *line = st->text;

	while (line) {
		if (!strncmp(line, name, len) && line[len] == ' ')
			return atol(line + len);
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	hva_die("no %s in /proc/vmstat", name);
}

long hva_count(const char *name)
{
	struct hva_stat st;

	hva_stat_read(&st);
	return hva_stat_get(&st, name);
}

static struct {
	char *mem;
	size_t size;
} taken;

void hva_take_memory(void)
{
	taken.size = (size_t)hva_meminfo("MemFree:") * 1024 / 4 * 3 / hva_page * hva_page;
	taken.mem = mmap(NULL, taken.size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (taken.mem == MAP_FAILED)
		hva_die("mmap");
}

long hva_compact(void)
{
	long moved = hva_count("pgmigrate_success");

	munmap(taken.mem, taken.size);
	if (!hva_put("/proc/sys/vm/compact_memory", "1"))
		hva_die("compact_memory");
	moved = hva_count("pgmigrate_success") - moved;
	ksft_print_msg("%ld pages moved\n", moved);
	return moved;
}

long hva_lookups(void)
{
	struct hva_stat st;

	hva_stat_read(&st);
	return hva_stat_get(&st, "hva_stable") +
	       hva_stat_get(&st, "hva_discarded");
}

/* A column of the table: a number, or '-' for a state that does not exist */
static long state_column(char **pos)
{
	char *word = strsep(pos, " \t\n");

	while (word && !*word)
		word = strsep(pos, " \t\n");
	if (!word)
		hva_die("a column is missing in " HVA_DIR "/states");
	return strcmp(word, "-") ? atol(word) : 0;
}

static void state_row(const char *table, const char *name, struct hva_state *st)
{
	char line[128], *pos;
	const char *row;

	for (row = table; row; row = strchr(row, '\n')) {
		row += strspn(row, " \t\n");
		if (!strncmp(row, name, strlen(name)))
			break;
	}
	if (!row)
		hva_die("no row \"%s\" in " HVA_DIR "/states", name);
	snprintf(line, sizeof(line), "%.*s", (int)strcspn(row, "\n"), row);
	pos = line + strlen(name);
	st->resident = state_column(&pos);
	st->preserved = state_column(&pos);
	st->zero = state_column(&pos);
}

void hva_states_read(struct hva_states *s)
{
	char table[1024];

	if (!hva_get(HVA_DIR "/states", table, sizeof(table)))
		hva_die(HVA_DIR "/states");
	state_row(table, "stable", &s->stable);
	state_row(table, "unused", &s->unused);
	state_row(table, "volatile", &s->vol);
	state_row(table, "pvolatile", &s->pvol);
}

static long state_sum(const struct hva_state *st)
{
	return st->resident + st->preserved + st->zero;
}

long hva_states_sum(const struct hva_states *s)
{
	return state_sum(&s->stable) + state_sum(&s->unused) +
	       state_sum(&s->vol) + state_sum(&s->pvol);
}

/* The host */

static int port_open(void)
{
	char path[PATH_MAX], name[64];
	int fd = -1, tries = 60;
	struct dirent *de;
	DIR *dir;

	dir = opendir("/sys/class/virtio-ports");
	if (!dir)
		return -1;
	while (fd < 0 && (de = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
			 de->d_name);
		if (!hva_get(path, name, sizeof(name)))
			continue;
		name[strcspn(name, "\n")] = '\0';
		if (strcmp(name, "org.page_hva.host"))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", de->d_name);
		/* One at a time: the last test may be dying yet */
		while ((fd = open(path, O_RDWR | O_CLOEXEC)) < 0 && tries--)
			sleep(1);
		if (fd < 0)
			hva_die("%s", path);
	}
	closedir(dir);
	return fd;
}

bool hva_host(const char *request, char *answer, size_t size)
{
	struct pollfd pfd = { .events = POLLIN };
	size_t len = 0;
	ssize_t n;

	if (port_fd < 0)
		port_fd = port_open();
	if (port_fd < 0)
		return false;
	if (dprintf(port_fd, "%s\n", request) < 0)
		hva_die("request \"%s\" to the host", request);
	pfd.fd = port_fd;
	do {
		if (poll(&pfd, 1, 30 * 1000) != 1)
			hva_die("the host does not answer \"%s\"", request);
		n = read(port_fd, answer + len, size - 1 - len);
		if (n <= 0)
			hva_die("answer of the host to \"%s\"", request);
		len += n;
		answer[len] = '\0';
	} while (!strchr(answer, '\n') && len < size - 1);
	return true;
}

long hva_json_get(const char *json, const char *key)
{
	char quoted[64];
	const char *pos;

	snprintf(quoted, sizeof(quoted), "\"%s\"", key);
	pos = strstr(json, quoted);
	if (!pos)
		hva_die("no %s in the host's answer: %s", quoted, json);
	pos += strlen(quoted);
	return atol(pos + strspn(pos, ": \t"));
}

bool hva_host_reclaim(void)
{
	char answer[1024];

	if (!hva_host("reclaim", answer, sizeof(answer)))
		return false;
	hva_json_get(answer, "released-bytes");
	return true;
}

/* Is there a host at all, and one that means what it says? */
static const char *missing(void)
{
	static char why[128];
	char mode[32];

	hva_page = sysconf(_SC_PAGESIZE);
	if (geteuid())
		return "must be root";
	if (!hva_get(HVA_DIR "/mode", mode, sizeof(mode)))
		return "no " HVA_DIR
		       ": no ESSA, CONFIG_PAGE_HVA=n, or debugfs not mounted";
	mode[strcspn(mode, "\n")] = '\0';
	if (strcmp(mode, "off") && strcmp(mode, "unused"))
		return NULL;
	snprintf(why, sizeof(why), "page_hva mode is \"%s\"", mode);
	return why;
}

static const char *host_missing(void)
{
	struct hva_states s;
	char answer[1024];

	if (hva_host("states", answer, sizeof(answer)))
		return NULL;
	/* An eager host drops what is volatile without being asked */
	hva_scan(3);
	hva_states_read(&s);
	if (!s.vol.resident && s.vol.zero)
		return NULL;
	return "no virtio port org.page_hva.host to ask the host for reclaim";
}

/* Scanner passes */

void hva_scan(int passes)
{
	while (passes--) {
		if (!hva_put(HVA_DIR "/scan", "1"))
			hva_die(HVA_DIR "/scan");
	}
}

/*
 * A mapped folio takes longest: a pass to find it idle, one to find that it was
 * used through a page table, two more of the same, and it is unmapped.
 */
void hva_offer(void)
{
	hva_scan(5);
}

void hva_discard(void)
{
	hva_offer();
	hva_host_reclaim();
}

void hva_drop_caches(void)
{
	sync();
	if (!hva_put("/proc/sys/vm/drop_caches", "1"))
		hva_die("drop_caches");
}

bool hva_stays_mapped(void)
{
	char mode[32];

	if (!hva_get(HVA_DIR "/mode", mode, sizeof(mode)))
		hva_die(HVA_DIR "/mode");
	return strncmp(mode, "on", 2);
}

void hva_touch_all(const char *map, size_t size)
{
	size_t off;

	for (off = 0; off < size; off += hva_page)
		hva_touch(map + off);
}

/* Large folios do not stay mapped: they are read again singly, if MADV_RANDOM */
long hva_discard_mapped(void (*touch)(const char *map, size_t size),
			const char *map, size_t size)
{
	long before, mapped = 0, pages = size / hva_page;
	int i;

	for (i = 0; i < 2 && mapped < pages / 32 * 31; i++) {
		before = hva_count("hva_mapped");
		touch(map, size);
		hva_discard();
		mapped = hva_count("hva_mapped") - before;
	}
	if (mapped < pages / 32 * 31 && hva_stays_mapped())
		ksft_print_msg("only %ld pages became volatile while mapped\n",
			       mapped);
	return mapped;
}

size_t hva_present(const char *map, size_t size, unsigned long *pfn)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	size_t i, n = 0, pages = size / hva_page;
	unsigned long entry;

	for (i = 0; i < pages; i++) {
		if (pread(fd, &entry, sizeof(entry),
			  ((unsigned long)map / hva_page + i) * sizeof(entry)) !=
		    sizeof(entry))
			hva_die("/proc/self/pagemap");
		n += entry >> 63;
		if (pfn)
			pfn[i] = entry >> 63 ? entry & ((1UL << 55) - 1) : 0;
	}
	close(fd);
	return n;
}

/* Files */

const char *hva_begin(bool need_host)
{
	const char *parent = getenv("PAGE_HVA_DIR");
	const char *why = missing();
	struct statfs fs;

	if (!why && need_host)
		why = host_missing();
	if (why)
		return why;
	snprintf(hva_dir, sizeof(hva_dir), "%s/page_hva.XXXXXX",
		 parent ? parent : ".");
	if (!mkdtemp(hva_dir) || statfs(hva_dir, &fs))
		hva_die("%s", hva_dir);
	if (mlockall(MCL_CURRENT))
		hva_die("mlockall");
	ksft_print_msg("file system type %#lx, %ld CPUs\n", (long)fs.f_type,
		       sysconf(_SC_NPROCESSORS_ONLN));
	hva_stat_read(&stat_at_begin);
	return NULL;
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	return remove(path);
}

/* What the test has moved, for those who have to find out why it failed */
static void print_counters(void)
{
	char msg[1024], *pos = msg, *line, *val;
	struct hva_stat now;
	long diff;

	hva_stat_read(&now);
	*pos = '\0';
	for (line = strtok(now.text, "\n"); line; line = strtok(NULL, "\n")) {
		val = strchr(line, ' ');
		if (strncmp(line, "hva_", 4) || !val)
			continue;
		*val++ = '\0';
		diff = atol(val) - hva_stat_get(&stat_at_begin, line);
		if (diff && pos < msg + sizeof(msg) - 64)
			pos += sprintf(pos, " %s %ld", line + 4, diff);
	}
	ksft_print_msg("counters:%s\n", msg);
}

void hva_end(void)
{
	print_counters();
	hva_cgroup_leave();
	if (port_fd >= 0)
		close(port_fd);
	port_fd = -1;
	if (nftw(hva_dir, remove_one, 8, FTW_DEPTH | FTW_PHYS))
		hva_die("cannot remove %s", hva_dir);
}

static unsigned long word_at(unsigned int seed, unsigned long index)
{
	unsigned long x = ((unsigned long)seed << 40) + index + 1;

	x *= 0x9e3779b97f4a7c15UL;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93UL;
	/* No byte is 0, so that no lost byte looks right by chance */
	return (x ^ x >> 29) | 0x0101010101010101UL;
}

void hva_fill(void *buf, size_t len, unsigned int seed, off_t off)
{
	unsigned long word = word_at(seed, off / 8);
	unsigned char *p = buf;

	for (; len; len--, off++) {
		if (!(off % 8))
			word = word_at(seed, off / 8);
		*p++ = word >> (off % 8 * 8);
	}
}

off_t hva_differs(const void *buf, size_t len, unsigned int seed, off_t off)
{
	unsigned long word = word_at(seed, off / 8);
	const unsigned char *p = buf;

	for (; len; len--, p++, off++) {
		if (!(off % 8))
			word = word_at(seed, off / 8);
		if (*p != (unsigned char)(word >> (off % 8 * 8)))
			return off;
	}
	return -1;
}

const char *hva_path(const char *name)
{
	static __thread char path[sizeof(hva_dir) + 64];

	snprintf(path, sizeof(path), "%s/%s", hva_dir, name);
	return path;
}

int hva_create(const char *name, size_t size, unsigned int seed)
{
	int fd = open(hva_path(name), O_RDWR | O_CREAT | O_TRUNC, 0700);
	char buf[KIB(64)];
	size_t off, len;

	if (fd < 0)
		hva_die("%s", hva_path(name));
	for (off = 0; off < size; off += len) {
		len = size - off < sizeof(buf) ? size - off : sizeof(buf);
		hva_fill(buf, len, seed, off);
		if (pwrite(fd, buf, len, off) != (ssize_t)len)
			hva_die("writing %s", hva_path(name));
	}
	if (fsync(fd))
		hva_die("fsync of %s", hva_path(name));
	return fd;
}

void hva_read(int fd, size_t size)
{
	char buf[KIB(64)];
	size_t off = 0;
	ssize_t n = 1;

	for (; n && off < size; off += n) {
		n = pread(fd, buf, sizeof(buf), off);
		if (n < 0)
			hva_die("read at %zu", off);
	}
}

long hva_check(int fd, size_t size, unsigned int seed)
{
	char buf[hva_page];
	long bad = 0;
	size_t off;
	off_t at;

	for (off = 0; off < size; off += hva_page) {
		size_t len = size - off < hva_page ? size - off : hva_page;

		if (pread(fd, buf, len, off) != (ssize_t)len)
			hva_die("read at %zu", off);
		at = hva_differs(buf, len, seed, off);
		if (at < 0)
			continue;
		if (!bad++)
			ksft_print_msg("wrong at %lld: %#x\n", (long long)at,
				       (unsigned char)buf[at - off]);
	}
	return bad;
}

bool hva_copy_text(const char *path)
{
	char self[PATH_MAX] = "", text[PATH_MAX + 8], buf[KIB(64)];
	int in, out;
	ssize_t n;

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return false;
	snprintf(text, sizeof(text), "%s/text", dirname(self));
	in = open(text, O_RDONLY);
	out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0700);
	if (in < 0 || out < 0)
		return false;
	while ((n = read(in, buf, sizeof(buf))) > 0) {
		if (write(out, buf, n) != n)
			n = -1;
	}
	close(in);
	return !fsync(out) && !close(out) && !n;
}

bool hva_sysdev(int fd, char *buf, size_t size)
{
	char link[64], real[PATH_MAX];
	struct stat st;

	if (fstat(fd, &st))
		hva_die("fstat");
	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u",
		 major(st.st_dev), minor(st.st_dev));
	if (!realpath(link, real))
		return false;
	if (snprintf(buf, size, "%s", real) >= (int)size)
		return false;
	return true;
}

/* Control groups */

static bool cgroup_find(void)
{
	char mounts[8192], *line, *pos = mounts, *end;

	if (!hva_get("/proc/self/mounts", mounts, sizeof(mounts)))
		return false;
	while ((line = strsep(&pos, "\n"))) {
		if (strncmp(line, "cgroup2 ", 8) && !strstr(line, " cgroup2 "))
			continue;
		line = strchr(line, ' ') + 1;
		end = strchr(line, ' ');
		snprintf(cgroup_root, sizeof(cgroup_root), "%.*s",
			 (int)(end - line), line);
		return true;
	}
	return false;
}

bool hva_cgroup_enter(const char *controller, char *path, size_t size)
{
	char file[256], val[32];

	if (!cgroup_find()) {
		snprintf(cgroup_root, sizeof(cgroup_root),
			 "/sys/fs/cgroup");
		if (mount("cgroup2", cgroup_root, "cgroup2", 0, NULL))
			return false;
	}
	snprintf(file, sizeof(file), "%s/cgroup.subtree_control", cgroup_root);
	snprintf(val, sizeof(val), "+%s", controller);
	if (!hva_put(file, val))
		return false;
	snprintf(cgroup_dir, sizeof(cgroup_dir), "%s/page_hva.%d", cgroup_root,
		 getpid());
	if (mkdir(cgroup_dir, 0700) && errno != EEXIST)
		return false;
	snprintf(file, sizeof(file), "%s/cgroup.procs", cgroup_dir);
	if (!hva_put(file, "0"))
		return false;
	snprintf(path, size, "%s", cgroup_dir);
	return true;
}

void hva_cgroup_leave(void)
{
	char file[256];

	if (!*cgroup_dir)
		return;
	snprintf(file, sizeof(file), "%s/cgroup.procs", cgroup_root);
	hva_put(file, "0");
	rmdir(cgroup_dir);
	*cgroup_dir = '\0';
}

/* BPF */

static struct {
	struct bpf_insn insns[64];
	unsigned int nr;
} prog;

void hva_emit(int code, int dst, int src, int off, int imm)
{
	if (prog.nr == ARRAY_SIZE(prog.insns))
		hva_die("BPF program too long");
	prog.insns[prog.nr++] = (struct bpf_insn) {
		.code = code,
		.dst_reg = dst,
		.src_reg = src,
		.off = off,
		.imm = imm,
	};
}

void hva_emit_move(int dst, int src)
{
	hva_emit(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

void hva_emit_set(int dst, int imm)
{
	hva_emit(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm);
}

void hva_emit_call(int function)
{
	hva_emit(BPF_JMP | BPF_CALL, 0, 0, 0, function);
}

void hva_emit_exit(void)
{
	hva_emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

void hva_emit_lookup(int array, int index)
{
	hva_emit(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, index);
	hva_emit_move(BPF_REG_2, BPF_REG_10);
	hva_emit(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4);
	hva_emit(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0,
		 array);
	hva_emit(0, 0, 0, 0, 0);
	hva_emit_call(BPF_FUNC_map_lookup_elem);
	hva_emit(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, 1, 0);
	hva_emit_exit();
}

int hva_bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

int hva_bpf_array(size_t size, int elements)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = size,
		.max_entries = elements,
	};

	return hva_bpf(BPF_MAP_CREATE, &attr);
}

int hva_bpf_load(int type)
{
	union bpf_attr attr = {
		.prog_type = type,
		.insns = (unsigned long)prog.insns,
		.insn_cnt = prog.nr,
		.license = (unsigned long)"GPL",
	};

	prog.nr = 0;
	return hva_bpf(BPF_PROG_LOAD, &attr);
}

bool hva_bpf_get(int array, int index, void *value)
{
	union bpf_attr attr = {
		.map_fd = array,
		.key = (unsigned long)&index,
		.value = (unsigned long)value,
	};

	return !hva_bpf(BPF_MAP_LOOKUP_ELEM, &attr);
}
