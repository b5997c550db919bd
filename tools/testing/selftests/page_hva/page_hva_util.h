/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What all tests of the page host virtual assist need: the counters and the
 * table of states, scanner passes, a host that drops volatile pages, and files
 * whose every word tells where it belongs.
 */
#ifndef PAGE_HVA_UTIL_H
#define PAGE_HVA_UTIL_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "../kselftest.h"

#define HVA_DIR		"/sys/kernel/debug/page_hva"
/* Emulated machines on busy hosts: only a hang may end a test early */
#define HVA_TIMEOUT	240
/* Pages of others that may change state while a test looks at the counters */
#define HVA_NOISE	64

#define KIB(n)		((size_t)(n) << 10)
#define MIB(n)		((size_t)(n) << 20)

extern size_t hva_page;		/* page size */
extern char hva_dir[256];	/* directory of this test's files */

/* An environment that does not work is no test result: say why and give up */
#define hva_die(fmt, ...) \
	__hva_die("%s:%d: " fmt, __func__, __LINE__, ##__VA_ARGS__)
__noreturn __printf(1, 2) void __hva_die(const char *fmt, ...);

/*
 * hva_begin() - a directory for files, own text locked so that it does not
 *               change state and the counters.  Or returns why nothing can be
 *               tested here: no page_hva, or nobody who drops volatile pages.
 * hva_end() - removes the files.
 */
const char *hva_begin(bool need_host);
void hva_end(void);

/* One moment's /proc/vmstat */
struct hva_stat {
	char text[16384];
};

void hva_stat_read(struct hva_stat *st);
long hva_stat_get(const struct hva_stat *st, const char *name);
long hva_count(const char *name);
/*
 * hva_lookups() - volatile folios found by a lookup, intact or discarded.  The
 * difference over a read of a file is the number of its volatile pages.
 */
long hva_lookups(void);

/* The table of states, in blocks; impossible states stay 0 */
struct hva_state {
	long resident, preserved, zero;
};

struct hva_states {
	struct hva_state stable, unused, vol, pvol;
};

void hva_states_read(struct hva_states *s);
long hva_states_sum(const struct hva_states *s);

/*
 * The host at the other end of the virtio port: send a line, get a line.
 * hva_host() returns false if there is no port.
 */
bool hva_host(const char *request, char *answer, size_t size);
bool hva_host_reclaim(void);
long hva_json_get(const char *json, const char *key);

/*
 * hva_scan() - that many scanner passes.
 * hva_offer() - as many as it takes to make volatile all that is cold.
 * hva_discard() - hva_offer() and have the host drop it.
 */
void hva_scan(int passes);
void hva_offer(void);
void hva_discard(void);
void hva_drop_caches(void);

/*
 * hva_stays_mapped() - can pages be volatile while they are mapped? Not with
 *                      page_hva=on, where they are unmapped first.
 * hva_touch_all() - a load from each page.
 * hva_discard_mapped() - have the pages dropped while they are present in a page
 *                        table, into which touch() brings them. Nobody may have
 *                        the file mapped shared and be able to write to it: open
 *                        it read-only for this. Returns how many pages became
 *                        volatile while mapped.
 */
bool hva_stays_mapped(void);
void hva_touch_all(const char *map, size_t size);
long hva_discard_mapped(void (*touch)(const char *map, size_t size),
			const char *map, size_t size);
/* hva_present() - pages that are present in the page table, and their numbers */
size_t hva_present(const char *map, size_t size, unsigned long *pfn);

/*
 * Files.  The content of a byte depends on a seed and its offset and on
 * nothing else: data of another file or place is as visible as zeros are.
 */
void hva_fill(void *buf, size_t len, unsigned int seed, off_t off);
/* hva_differs() - first offset that is not as hva_fill() made it, or -1 */
off_t hva_differs(const void *buf, size_t len, unsigned int seed, off_t off);
const char *hva_path(const char *name);
int hva_create(const char *name, size_t size, unsigned int seed);
/* hva_read() - read a file front to back and throw it away */
void hva_read(int fd, size_t size);
/* hva_check() - number of pages of a file that are not as hva_fill()ed */
long hva_check(int fd, size_t size, unsigned int seed);
/* hva_copy_text() - the program text.c under another name, false if not found */
bool hva_copy_text(const char *path);

/* /sys and /proc: a value as text; hva_put() returns false with errno set */
bool hva_get(const char *path, char *buf, size_t size);
bool hva_put(const char *path, const char *val);
/* hva_sysdev() - path of the disk under a file, false if there is none */
bool hva_sysdev(int fd, char *buf, size_t size);

/*
 * Compaction moves pages towards the end of memory, where memory that is used
 * first comes from. hva_take_memory() - most of what is free; hva_compact() - give
 * it back and move there what was allocated since. Returns how many pages moved.
 */
void hva_take_memory(void);
long hva_compact(void);

/*
 * Swap, one at a time: a file, or what hva_swap_device names; false with errno
 * set if there can be none.
 */
extern const char *hva_swap_device;
bool hva_swap_on(size_t size);
bool hva_swap_off(void);

/* A control group (v2) with one controller for the calling process */
bool hva_cgroup_enter(const char *controller, char *path, size_t size);
void hva_cgroup_leave(void);

long hva_meminfo(const char *name);	/* KiB */

/*
 * BPF: one program, instruction by instruction, and arrays.
 * hva_emit_lookup() - r0 = element of the array, or leave the program with 0;
 *                     uses 8 bytes of the stack.
 * hva_bpf_load() - load what was emitted, and start another program.
 */
void hva_emit(int code, int dst, int src, int off, int imm);
void hva_emit_move(int dst, int src);
void hva_emit_set(int dst, int imm);
void hva_emit_call(int function);
void hva_emit_lookup(int array, int index);
void hva_emit_exit(void);
int hva_bpf(int cmd, union bpf_attr *attr);
int hva_bpf_array(size_t size, int elements);
int hva_bpf_load(int type);
bool hva_bpf_get(int array, int index, void *value);

double hva_now(void);

/* A load the compiler cannot do without */
static inline void hva_touch(const char *p)
{
	char byte = *p;

	asm volatile("" : : "r" (byte));
}

#endif /* PAGE_HVA_UTIL_H */
