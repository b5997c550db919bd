/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page host virtual assist: tell the hypervisor which page cache it may drop.
 *
 * The idea, the states and the rules are in mm/page_hva.c. This header holds
 * what the rest of mm calls. A hook costs one patched-out branch where the
 * feature is not active and one test of a page flag where it is; with
 * CONFIG_PAGE_HVA=n it is nothing at all.
 */
#ifndef _LINUX_PAGE_HVA_H
#define _LINUX_PAGE_HVA_H

#include <linux/jump_label.h>
#include <linux/mm_types.h>
#include <linux/page-flags.h>
#include <linux/pgtable.h>
#include <asm/page_hva.h>

struct readahead_control;

#ifdef CONFIG_PAGE_HVA

enum page_hva_scan_state {
	PAGE_HVA_SCAN_ASLEEP,
	PAGE_HVA_SCAN_REQUESTED,
	PAGE_HVA_SCAN_RUNNING,
};

DECLARE_STATIC_KEY_FALSE(page_hva_active);
DECLARE_STATIC_KEY_FALSE(page_hva_lazyfree_active);
DECLARE_STATIC_KEY_FALSE(page_hva_potential_active);
extern int page_hva_scan_state;

void page_hva_init(void);
void page_hva_make_all_stable(void);
bool __page_hva_make_stable(struct folio *folio);
bool __page_hva_make_stable_locked(struct folio *folio, bool may_sleep);
bool page_hva_discard(struct folio *folio);
bool page_hva_fault(struct folio *folio);
void __page_hva_free(struct page *page, unsigned int order);
bool __page_hva_evict(struct address_space *mapping, struct folio *folio);
bool __page_hva_evict_range(struct address_space *mapping, pgoff_t start,
			    unsigned long nr);
bool __page_hva_evict_next(struct readahead_control *ractl);
void __page_hva_wake_scanner(void);
bool __page_hva_lazyfree_pte(struct vm_area_struct *vma, unsigned long addr,
			     pte_t *ptep, struct folio *folio);
void __page_hva_keep_pinned(struct folio *folio);
bool page_hva_harvest_dirty(struct page *page);
bool __page_hva_make_stable_swapcache(struct folio *folio);
bool __page_hva_swapcache_usable(struct folio *folio);

static inline bool page_hva_is_active(void)
{
	return static_branch_unlikely(&page_hva_active);
}

/* Can lazily freed memory (MADV_FREE) be volatile? */
static inline bool page_hva_lazyfree(void)
{
	return static_branch_unlikely(&page_hva_lazyfree_active);
}

/* Can it be potentially volatile, and ptes have their dirty bit in the key? */
static inline bool page_hva_potential(void)
{
	return static_branch_unlikely(&page_hva_potential_active);
}

/**
 * pte_dirty_in_key - Is the dirty bit of a page in its storage key?
 * @pte: A pte.
 *
 * Such a pte is clean, and stores need no page fault: page_test_dirty() knows of
 * them. ptep_get_and_clear() and the like ask it and return a pte that says so.
 *
 * Context: The caller holds the page table lock.
 * Return: True if so.
 */
static inline bool pte_dirty_in_key(pte_t pte)
{
	return page_hva_potential() && __pte_dirty_in_key(pte);
}

/**
 * page_hva_not_in_use - May a page be volatile?
 * @page: A page that is mapped: no large folio is volatile then.
 *
 * Context: Any. Without a reference, the answer is of no use unless the page is
 * looked at again.
 * Return: False if it is not, and does not become so before the scanner's pass after
 * the next.
 */
static inline bool page_hva_not_in_use(struct page *page)
{
	return page_hva_is_active() &&
	       unlikely(READ_ONCE(page->flags) & PAGE_FLAGS_HVA);
}

/**
 * page_hva_make_stable - Make the content of a page cache folio usable.
 * @folio: The folio that was just looked up.
 *
 * Every path that takes a reference on a page cache folio in order to touch
 * its content calls this after it took the reference and before it tests
 * PG_uptodate. A volatile folio becomes stable; if the host has discarded it,
 * it comes back not uptodate and is read again like after a failed read. Such a
 * folio may still be volatile, if it is mapped; whoever reads it again holds the
 * folio lock and calls page_hva_make_stable_locked().
 *
 * Context: Any, including hard interrupts. Does not sleep. The caller holds a
 * reference, taken with a full barrier or under the folio lock.
 */
static inline void page_hva_make_stable(struct folio *folio)
{
	if (!page_hva_is_active())
		return;
	if (unlikely(READ_ONCE(folio->flags) & PAGE_FLAGS_HVA))
		__page_hva_make_stable(folio);
}

/**
 * page_hva_make_stable_locked - Make a folio ready to be read again.
 * @folio: The folio.
 * @may_sleep: Whether mappings may be removed.
 *
 * What page_hva_make_stable() leaves undone because it cannot sleep: if the
 * folio was discarded while it was mapped, remove the mappings, through which
 * others would see what is not yet read.
 *
 * Context: The caller holds the folio lock and a reference.
 * Return: True if the folio is stable. False if it is not, because the caller
 * does not allow to sleep, or a mapping could not be removed; try again.
 */
static inline bool page_hva_make_stable_locked(struct folio *folio,
					       bool may_sleep)
{
	if (!page_hva_is_active() ||
	    likely(!(READ_ONCE(folio->flags) & PAGE_FLAGS_HVA)))
		return true;
	return __page_hva_make_stable_locked(folio, may_sleep);
}

/**
 * page_hva_make_stable_pte - Make a folio stable that was found by its pte.
 * @folio: The folio the pte maps.
 *
 * If the host has discarded it, the pte has to go, or the page fault that comes
 * next finds nothing wrong with it: drop the page table lock and call
 * page_hva_discard(), then handle the fault again.
 *
 * Context: The caller holds the page table lock. If the content is touched,
 * also a reference.
 * Return: True if the content can be used.
 */
static inline bool page_hva_make_stable_pte(struct folio *folio)
{
	if (!page_hva_is_active())
		return true;
	/* folio_get() is no barrier. */
	smp_mb__after_atomic();
	if (likely(!(READ_ONCE(folio->flags) & PAGE_FLAGS_HVA)))
		return true;
	return __page_hva_make_stable(folio);
}

/**
 * page_hva_make_stable_anon - Make anonymous memory stable.
 * @folio: The folio that was found by a pte.
 *
 * Also comes before a clean pte becomes dirty. What MADV_FREE has given up and
 * the host has discarded is zeros from now on, so this fails for the swap cache
 * only; then go on as if page_hva_make_stable_pte() had failed.
 *
 * Context: The caller holds the page table lock. As long as it does, the folio
 * stays stable.
 * Return: True if the content can be used.
 */
static inline bool page_hva_make_stable_anon(struct folio *folio)
{
	return !page_hva_lazyfree() || page_hva_make_stable_pte(folio);
}

/**
 * page_hva_make_stable_swapcache - Can the slot of a folio be freed?
 * @folio: The folio of the swap cache. No swap entry leads to the slot.
 *
 * Context: The caller holds the folio lock. Does not sleep.
 * Return: True if so: the folio is stable, or nobody needs its content. False
 * if the slot has the only copy.
 */
static inline bool page_hva_make_stable_swapcache(struct folio *folio)
{
	return !page_hva_potential() ||
	       likely(!(READ_ONCE(folio->flags) & PAGE_FLAGS_HVA)) ||
	       __page_hva_make_stable_swapcache(folio);
}

/**
 * page_hva_swapcache_usable - Is there content in a folio of the swap cache?
 * @folio: The folio, found by its swap entry.
 *
 * The folio is made stable. If it was discarded, it is unmapped and removed from
 * the swap cache; only its slot has the content.
 *
 * Context: The caller holds the folio lock and a reference. May sleep.
 * Return: True if the folio can be used.
 */
static inline bool page_hva_swapcache_usable(struct folio *folio)
{
	return !page_hva_potential() ||
	       likely(!(READ_ONCE(folio->flags) & PAGE_FLAGS_HVA)) ||
	       __page_hva_swapcache_usable(folio);
}

/**
 * page_hva_make_stable_fast - page_hva_make_stable_pte() without the lock.
 * @folio: The folio the pte maps.
 *
 * Without the lock the pte may be gone by now and the folio be read again, so
 * PG_uptodate has to be set, too. Pages for which it never is take the slow path.
 *
 * Context: The caller holds a reference, taken with a full barrier.
 * Return: True if the content can be used. If false, take the page table lock.
 */
static inline bool page_hva_make_stable_fast(struct folio *folio)
{
	const unsigned long mask = PAGE_FLAGS_HVA | BIT(PG_uptodate);

	if (!page_hva_is_active())
		return true;
	if (likely((READ_ONCE(folio->flags) & mask) == BIT(PG_uptodate))) {
		/* As folio_test_uptodate(): the content after the flag. */
		smp_rmb();
		return true;
	}
	return __page_hva_make_stable(folio) && folio_test_uptodate(folio);
}

/**
 * page_hva_ready - Make a folio stable; can it be used as it is?
 * @folio: The folio that was just looked up.
 *
 * For the paths that look at a folio per page: one test of the flags instead of
 * one each for the state, PG_uptodate and PG_readahead.
 *
 * Context: As page_hva_make_stable().
 * Return: True if the folio is uptodate and does not ask for readahead. If
 * false, test the flags; without the option that is all there is to do.
 */
static inline bool page_hva_ready(struct folio *folio)
{
	const unsigned long mask = PAGE_FLAGS_HVA | BIT(PG_uptodate) |
				   BIT(PG_readahead);

	if (likely((READ_ONCE(folio->flags) & mask) == BIT(PG_uptodate))) {
		/* As folio_test_uptodate(): the content after the flag. */
		smp_rmb();
		return true;
	}
	page_hva_make_stable(folio);
	return false;
}

/**
 * page_hva_free - Take back the hint for a page that is being freed.
 * @page: The (head) page, which nobody refers to any more.
 * @order: Its order.
 *
 * Context: Any. Comes before anything that touches the content of the page
 * (poisoning, init_on_free) and before its flags are cleared.
 */
static inline void page_hva_free(struct page *page, unsigned int order)
{
	if (page_hva_is_active() && test_bit(PG_hva_volatile, &page->flags))
		__page_hva_free(page, order);
}

/**
 * page_hva_evict - Remove a discarded folio, so that readahead sees a hole.
 * @mapping: The mapping the folio was found in.
 * @folio: The folio, which the caller found not uptodate.
 *
 * Reading a discarded folio in place is correct, but it reads a single folio.
 * Context: Process context. May sleep for the locks of rmap; never waits for the
 * folio lock.
 * Return: True if the folio is gone. Then the caller's reference is gone, too.
 */
static inline bool page_hva_evict(struct address_space *mapping,
				  struct folio *folio)
{
	if (!page_hva_is_active() || likely(folio_test_uptodate(folio)))
		return false;
	return __page_hva_evict(mapping, folio);
}

/**
 * page_hva_evict_range - Remove what the host discarded from a range.
 * @mapping: The mapping that is about to be read ahead.
 * @start: First index.
 * @nr: Number of pages.
 *
 * Volatile folios whose content is still there are left alone.
 * Context: As page_hva_evict().
 */
static inline void page_hva_evict_range(struct address_space *mapping,
					pgoff_t start, unsigned long nr)
{
	if (page_hva_is_active())
		__page_hva_evict_range(mapping, start, nr);
}

/**
 * page_hva_evict_next - Remove a discarded folio from where readahead is.
 * @ractl: The readahead; where it is, there is a folio.
 *
 * Context: As page_hva_evict().
 * Return: True if the folio was removed.
 */
static inline bool page_hva_evict_next(struct readahead_control *ractl)
{
	return page_hva_is_active() && __page_hva_evict_next(ractl);
}

/**
 * page_hva_notify - There is page cache that the scanner has not seen.
 *
 * Context: Any.
 */
static inline void page_hva_notify(void)
{
	if (!page_hva_is_active())
		return;
	if (unlikely(READ_ONCE(page_hva_scan_state) != PAGE_HVA_SCAN_REQUESTED))
		__page_hva_wake_scanner();
}

/**
 * page_hva_notify_swapcache - A folio was mapped that has a copy in swap.
 *
 * Context: Any.
 */
static inline void page_hva_notify_swapcache(void)
{
	if (page_hva_potential())
		page_hva_notify();
}

/**
 * page_hva_lazyfree_pte - Let the storage key remember stores after MADV_FREE.
 * @vma: The mapping.
 * @addr: The address.
 * @ptep: The pte of a small folio.
 * @folio: The folio.
 *
 * Instead of making the pte clean and old, which costs a page fault when the
 * memory is used again.
 *
 * Context: The caller holds the page table lock.
 * Return: True if the pte is done. False if it has to be made clean.
 */
static inline bool page_hva_lazyfree_pte(struct vm_area_struct *vma,
					 unsigned long addr, pte_t *ptep,
					 struct folio *folio)
{
	return page_hva_potential() &&
	       __page_hva_lazyfree_pte(vma, addr, ptep, folio);
}

/**
 * page_hva_keep_pinned - MADV_FREE leaves alone what is pinned.
 * @folio: The folio, whose ptes (or pmd) are clean.
 *
 * What a device stores to a page that was pinned before is not in the pte, and not
 * all who pin say that the page is dirty when they are done.
 *
 * Context: The caller holds the page table lock.
 */
static inline void page_hva_keep_pinned(struct folio *folio)
{
	if (page_hva_lazyfree())
		__page_hva_keep_pinned(folio);
}

/**
 * page_hva_notify_lazyfree - There is lazily freed memory, too.
 *
 * Context: Any.
 */
static inline void page_hva_notify_lazyfree(void)
{
	if (page_hva_lazyfree())
		page_hva_notify();
}

#else /* !CONFIG_PAGE_HVA */

static inline bool page_hva_lazyfree(void)
{
	return false;
}

static inline bool page_hva_potential(void)
{
	return false;
}

static inline bool pte_dirty_in_key(pte_t pte)
{
	return false;
}

static inline void page_hva_init(void)
{
}

static inline void page_hva_make_all_stable(void)
{
}

static inline bool page_hva_not_in_use(struct page *page)
{
	return false;
}

static inline void page_hva_make_stable(struct folio *folio)
{
}

static inline bool page_hva_make_stable_locked(struct folio *folio,
					       bool may_sleep)
{
	return true;
}

static inline bool page_hva_make_stable_pte(struct folio *folio)
{
	return true;
}

static inline bool page_hva_make_stable_anon(struct folio *folio)
{
	return true;
}

static inline bool page_hva_make_stable_swapcache(struct folio *folio)
{
	return true;
}

static inline bool page_hva_swapcache_usable(struct folio *folio)
{
	return true;
}

static inline bool page_hva_make_stable_fast(struct folio *folio)
{
	return true;
}

static inline bool page_hva_discard(struct folio *folio)
{
	return false;
}

static inline bool page_hva_ready(struct folio *folio)
{
	return false;
}

static inline void page_hva_free(struct page *page, unsigned int order)
{
}

static inline bool page_hva_evict(struct address_space *mapping,
				  struct folio *folio)
{
	return false;
}

static inline void page_hva_evict_range(struct address_space *mapping,
					pgoff_t start, unsigned long nr)
{
}

static inline bool page_hva_evict_next(struct readahead_control *ractl)
{
	return false;
}

static inline void page_hva_notify(void)
{
}

static inline bool page_hva_lazyfree_pte(struct vm_area_struct *vma,
					 unsigned long addr, pte_t *ptep,
					 struct folio *folio)
{
	return false;
}

static inline bool page_hva_harvest_dirty(struct page *page)
{
	return false;
}

static inline void page_hva_keep_pinned(struct folio *folio)
{
}

static inline void page_hva_notify_lazyfree(void)
{
}

static inline void page_hva_notify_swapcache(void)
{
}

#endif /* CONFIG_PAGE_HVA */

#ifdef CONFIG_MMU

/**
 * pte_maybe_dirty - Does a pte or the storage key say that a page is dirty?
 * @pte: A present pte of a page.
 *
 * Context: The caller holds the page table lock.
 * Return: True if so.
 */
static inline bool pte_maybe_dirty(pte_t pte)
{
	if (pte_dirty_in_key(pte) && page_test_dirty(pte_page(pte)))
		return true;
	return pte_dirty(pte);
}

pte_t __ptep_harvest_dirty(struct mm_struct *mm, unsigned long addr, pte_t *ptep);

/**
 * ptep_harvest_dirty - Get the dirty bit from the storage key into the pte.
 * @mm: The address space.
 * @addr: The address.
 * @ptep: The pte.
 * @pte: Its value.
 *
 * Context: The caller holds the page table lock.
 * Return: The value of the pte now.
 */
static inline pte_t ptep_harvest_dirty(struct mm_struct *mm, unsigned long addr,
				       pte_t *ptep, pte_t pte)
{
	if (!pte_dirty_in_key(pte))
		return pte;
	return __ptep_harvest_dirty(mm, addr, ptep);
}

#endif /* CONFIG_MMU */

#endif /* _LINUX_PAGE_HVA_H */
