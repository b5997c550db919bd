/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM page_hva

#if !defined(_TRACE_PAGE_HVA_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PAGE_HVA_H

#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/mm.h>
#include <linux/tracepoint.h>

/* @mapping is NULL if the folio was truncated in the meantime, or is anonymous. */
DECLARE_EVENT_CLASS(page_hva_folio,

	TP_PROTO(struct address_space *mapping, struct folio *folio),

	TP_ARGS(mapping, folio),

	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(unsigned long, ino)
		__field(unsigned long, index)
		__field(unsigned long, pfn)
		__field(unsigned long, nr)
	),

	TP_fast_assign(
		__entry->dev = mapping && mapping->host ?
			       mapping->host->i_sb->s_dev : 0;
		__entry->ino = mapping && mapping->host ?
			       mapping->host->i_ino : 0;
		__entry->index = folio->index;
		__entry->pfn = folio_pfn(folio);
		__entry->nr = folio_nr_pages(folio);
	),

	TP_printk("dev=%d:%d ino=%lu index=%lu pfn=0x%lx nr=%lu",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->ino,
		  __entry->index, __entry->pfn, __entry->nr)
);

DEFINE_EVENT(page_hva_folio, page_hva_make_volatile,
	TP_PROTO(struct address_space *mapping, struct folio *folio),
	TP_ARGS(mapping, folio)
);

DEFINE_EVENT(page_hva_folio, page_hva_make_stable,
	TP_PROTO(struct address_space *mapping, struct folio *folio),
	TP_ARGS(mapping, folio)
);

DEFINE_EVENT(page_hva_folio, page_hva_discarded,
	TP_PROTO(struct address_space *mapping, struct folio *folio),
	TP_ARGS(mapping, folio)
);

DEFINE_EVENT(page_hva_folio, page_hva_evict,
	TP_PROTO(struct address_space *mapping, struct folio *folio),
	TP_ARGS(mapping, folio)
);

TRACE_EVENT(page_hva_fault,

	TP_PROTO(unsigned long paddr, unsigned long ip, bool user),

	TP_ARGS(paddr, ip, user),

	TP_STRUCT__entry(
		__field(unsigned long, paddr)
		__field(unsigned long, ip)
		__field(bool, user)
	),

	TP_fast_assign(
		__entry->paddr = paddr;
		__entry->ip = ip;
		__entry->user = user;
	),

	TP_printk("paddr=0x%lx ip=%pS user=%d", __entry->paddr,
		  (void *)__entry->ip, __entry->user)
);

#endif /* _TRACE_PAGE_HVA_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
