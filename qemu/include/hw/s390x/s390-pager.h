/*
 * s390 storage attributes device -- TCG object: preserved blocks
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or (at
 * your option) any later version. See the COPYING file in the top-level
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_S390_PAGER_H
#define HW_S390_PAGER_H

#include "qapi/error.h"

/* Page to a new file at @path. Before any CPU runs. */
bool s390_pager_init(const char *path, Error **errp);

bool s390_pager_enabled(void);

/*
 * Preserve up to @n stable resident blocks, whose numbers are in @gfn in
 * ascending order. Returns how many; their numbers are in @gfn then, and how
 * long the CPUs were stopped for it in @ns. To be called in the main thread
 * with the BQL held.
 */
unsigned int s390_pager_page_out(uint64_t *gfn, unsigned int n, int64_t *ns);

/* The content of blocks is not needed any more; they are to be released. */
void s390_pager_forget(uint64_t gfn, uint64_t n);

/* The same for a preserved block. Returns false if its state is not @old. */
bool s390_pager_drop(uint64_t gfn, uint8_t old, uint8_t new);

/* Blocks written to, and read from, the paging file */
void s390_pager_statistics(uint64_t *out, uint64_t *in);

#endif /* HW_S390_PAGER_H */
