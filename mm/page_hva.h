/* SPDX-License-Identifier: GPL-2.0 */
/* What mm/page_hva.c, mm/page_hva_scan.c and the KUnit tests share. */
#ifndef _MM_PAGE_HVA_H
#define _MM_PAGE_HVA_H

#include <linux/cgroup.h>
#include <linux/kprobes.h>
#include <linux/mm_types.h>
#include <linux/page-flags.h>
#include <linux/vm_event_item.h>

/* The values of the two page flags, see mm/page_hva.c. */
#define FOLIO_IN_USE	0UL
#define FOLIO_IDLE	(1UL << PG_hva_idle)
#define FOLIO_VOLATILE	(1UL << PG_hva_volatile)
#define FOLIO_BUSY	(FOLIO_IDLE | FOLIO_VOLATILE)

static inline unsigned long folio_hva_state(const struct folio *folio)
{
	return READ_ONCE(folio->flags) & PAGE_FLAGS_HVA;
}

/* Does a page of the swap cache have the charge of its slot? (memsw of cgroup v1) */
#ifdef CONFIG_MEMCG
static nokprobe_inline bool swap_charge_follows_page(void)
{
	return !cgroup_subsys_on_dfl(memory_cgrp_subsys);
}
#else
static nokprobe_inline bool swap_charge_follows_page(void)
{
	return false;
}
#endif

void folio_hva_set_idle(struct folio *folio);
enum vm_event_item page_hva_eligible(struct folio *folio);
enum vm_event_item page_hva_make_volatile(struct folio *folio);
const char *page_hva_mode(void);
bool folio_hva_discarded(struct folio *folio);

#endif /* _MM_PAGE_HVA_H */
