/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page host virtual assist, for machines whose dirty bits are nowhere but in
 * page tables. See arch/s390/include/asm/page_hva.h for those with storage keys.
 */
#ifndef _ASM_GENERIC_PAGE_HVA_H
#define _ASM_GENERIC_PAGE_HVA_H

#include <linux/mm_types.h>
#include <linux/pgtable.h>
#include <linux/types.h>

/**
 * page_test_dirty - Has a page been stored to since page_clear_dirty()?
 * @page: The page.
 *
 * The question is put to what the machine records for the memory itself, not for
 * a way to it. Without such a record the answer is in the ptes alone.
 *
 * Who finds a page dirty makes it stable, with a reference held (that of the pte
 * will do), before the record is cleared or forgotten, and keeps the reference
 * until a pte or the folio is marked dirty. In the other order the host finds a
 * page that looks clean and drops the only copy.
 *
 * Context: Any.
 * Return: True if so.
 */
static inline bool page_test_dirty(struct page *page)
{
	return false;
}

/**
 * page_clear_dirty - Start to record stores to a page anew.
 * @page: The page, stable and with a reference.
 *
 * Context: Whoever could store to the page meanwhile marks it dirty by other
 * means: no pte is valid, and a reference for writing marks the folio.
 */
static inline void page_clear_dirty(struct page *page)
{
}

/* Is a pte clean and yet stores need no page fault? page_test_dirty() knows. */
static inline bool __pte_dirty_in_key(pte_t pte)
{
	return false;
}

/* Make a clean, writable pte one of that kind. */
static inline pte_t pte_mkdirty_in_key(pte_t pte)
{
	return pte;
}

#endif /* _ASM_GENERIC_PAGE_HVA_H */
