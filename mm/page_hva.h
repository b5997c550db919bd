/* SPDX-License-Identifier: GPL-2.0 */
/* What mm/page_hva.c and mm/page_hva_scan.c share. */
#ifndef _MM_PAGE_HVA_H
#define _MM_PAGE_HVA_H

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

void folio_hva_set_idle(struct folio *folio);
enum vm_event_item page_hva_eligible(struct folio *folio);
enum vm_event_item page_hva_make_volatile(struct folio *folio);
const char *page_hva_mode(void);
bool folio_hva_discarded(struct folio *folio);

#endif /* _MM_PAGE_HVA_H */
