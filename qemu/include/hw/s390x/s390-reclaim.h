/*
 * s390 storage attributes device -- TCG object: taking back memory
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or (at
 * your option) any later version. See the COPYING file in the top-level
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_S390_RECLAIM_H
#define HW_S390_RECLAIM_H

#include "hw/core/cpu.h"

/* To be called after s390_page_states_init(). */
void s390_reclaim_init(void);

/*
 * A CPU has done something to the state or the storage key of a block: the
 * policies "eager" and "random" may drop it, or another one, before the next
 * instruction. The caller must end the translation block. States must be kept.
 */
void s390_discard_adversary(CPUState *cs, uint64_t gfn);

#endif /* HW_S390_RECLAIM_H */
