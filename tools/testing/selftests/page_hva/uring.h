/* SPDX-License-Identifier: GPL-2.0 */
/* io_uring without a library: one request at a time. */
#ifndef PAGE_HVA_URING_H
#define PAGE_HVA_URING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "page_hva_util.h"

static struct uring {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array;
	unsigned int *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
} uring;

static bool uring_setup(void)
{
	struct io_uring_params p = { };
	size_t size;
	char *ring;

	uring.fd = syscall(SYS_io_uring_setup, 4, &p);
	if (uring.fd < 0)
		return false;
	/* One mapping for both rings, see IORING_FEAT_SINGLE_MMAP */
	size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	if (size < p.sq_off.array + p.sq_entries * sizeof(unsigned int))
		size = p.sq_off.array + p.sq_entries * sizeof(unsigned int);
	ring = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_POPULATE, uring.fd, IORING_OFF_SQ_RING);
	uring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe),
			  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			  uring.fd, IORING_OFF_SQES);
	if (ring == MAP_FAILED || uring.sqes == MAP_FAILED)
		hva_die("io_uring");
	uring.sq_tail = (unsigned int *)(ring + p.sq_off.tail);
	uring.sq_mask = (unsigned int *)(ring + p.sq_off.ring_mask);
	uring.sq_array = (unsigned int *)(ring + p.sq_off.array);
	uring.cq_head = (unsigned int *)(ring + p.cq_off.head);
	uring.cq_tail = (unsigned int *)(ring + p.cq_off.tail);
	uring.cq_mask = (unsigned int *)(ring + p.cq_off.ring_mask);
	uring.cqes = (struct io_uring_cqe *)(ring + p.cq_off.cqes);
	return true;
}

/* One request, and its result */
static int uring_do(int op, int fd, void *buf, size_t len, off_t off)
{
	unsigned int tail = *uring.sq_tail, at = tail & *uring.sq_mask;
	unsigned int head = *uring.cq_head;
	int res;

	uring.sqes[at] = (struct io_uring_sqe) {
		.opcode = op,
		.fd = fd,
		.addr = (unsigned long)buf,
		.len = len,
		.off = off,
	};
	uring.sq_array[at] = at;
	__atomic_store_n(uring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, uring.fd, 1, 1, IORING_ENTER_GETEVENTS,
		    NULL, 0) != 1)
		hva_die("io_uring_enter");
	if (__atomic_load_n(uring.cq_tail, __ATOMIC_ACQUIRE) == head)
		hva_die("no completion");
	res = uring.cqes[head & *uring.cq_mask].res;
	__atomic_store_n(uring.cq_head, head + 1, __ATOMIC_RELEASE);
	return res;
}

#endif /* PAGE_HVA_URING_H */
