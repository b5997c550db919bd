// SPDX-License-Identifier: GPL-2.0
/*
 * Page host virtual assist: volatile page cache.
 *
 *		The idea
 *
 * A hypervisor that overcommits memory pages its guests, and half of what it
 * writes to its paging device is page cache: data the guest could read again
 * from its own disk. So the guest tells the host, block by block, what the
 * content is worth:
 *
 *   stable	keep it; this is how all memory starts,
 *   unused	free memory, see arch_free_page(),
 *   volatile	throw it away whenever you like, but tell me when I touch it.
 *
 * The host drops volatile blocks with no I/O and without asking. If the guest
 * touches a dropped block all the same, it gets a discard fault.
 *
 * The guest side, in one sentence: a folio of the page cache that nobody has
 * looked up for a while is made volatile, and a lookup makes it stable again;
 * if the host was faster, what the lookup finds is a folio that is clean, not
 * mapped, and not uptodate, and every file system knows how to read that.
 *
 *		Rule 1: a volatile folio is not in use
 *
 * The host may drop exactly what reclaim could drop without I/O: the folio is
 * clean, in the page cache of a regular file that can be read again, not
 * mapped (but see below), and nobody but the page cache (and the scanner) has a
 * reference.
 * The proof is the one of reclaim: folio_ref_freeze() to the expected count,
 * under the folio lock, see __remove_mapping(). While the count is frozen,
 * folio_try_get() fails and nobody can come to use the folio: there is no pte
 * to take a reference from, and whoever works on a folio without a reference
 * (readahead, writeback) has it locked or under writeback.
 *
 *		Rule 2: no reference without a test of the state
 *
 * A path that takes a reference in order to touch the content calls
 * page_hva_make_stable() after it got the reference. These are the lookups in
 * mm/filemap.c (__filemap_get_folio(), filemap_get_folios_contig(),
 * filemap_get_folios_tag(), filemap_get_read_batch(), next_uptodate_folio())
 * and the three places that come to the content from somewhere else:
 * migrate_folio_unmap(), collapse_file() and the split of a large folio.
 *
 * Paths that do not touch the content do not call it: truncation and
 * invalidation of whole folios, reclaim, mincore(), cachestat(),
 * SEEK_HOLE. They would only make the whole page cache stable.
 *
 *	CPU 0: scanner, folio locked	CPU 1: lookup
 *
 *	folio_ref_freeze()		folio_try_get()
 *	check the flags, set volatile	xas_reload()
 *	state = volatile		state volatile? make stable
 *	folio_ref_unfreeze()		use the content
 *
 * Either CPU 1 has its reference before the freeze: then the freeze fails. Or
 * folio_try_get() fails until the unfreeze, a release that follows the change
 * of state; folio_try_get() is a full barrier, so CPU 1 sees the new state.
 *
 *		Rule 3: uptodate goes first
 *
 * A lookup that finds the folio discarded clears PG_uptodate before it makes
 * the block stable: a stable block that was discarded reads as zeros. The
 * state of the folio and PG_uptodate are in one word, so whoever sees that
 * the folio is not volatile any more also sees that it is not uptodate.
 *
 *		The state of a folio
 *
 * Two page flags hold it. Blocks of a folio change their state together.
 *
 *	       lookup					scanner, next pass
 *	+-------------------+			      +--------------------+
 *	|		    |			      |			   v
 *	v		    |			      |
 *    in use ------------> idle ----------------------+		       volatile
 *	^     scanner				rule 1			   |
 *	|								   |
 *	|		      lookup: content intact			   |
 *	+------------------------------ busy <-----------------------------+
 *	      or discarded: not uptodate
 *
 *   in use	0		stable; looked up since the last pass
 *   idle	PG_hva_idle	stable; not looked up since the last pass
 *   volatile	PG_hva_volatile	the host may have dropped any block
 *   busy	both		a lookup is finding out whether it has
 *
 * "Busy" is a lock: two lookups may find the same volatile folio. Were the
 * slower one to clear PG_uptodate after the faster one has the folio read,
 * and perhaps written to, that data would be lost:
 *
 *	CPU 0				CPU 1
 *
 *	block discarded?  yes		block discarded?  yes
 *	clear PG_uptodate
 *	make the block stable
 *	state = in use
 *	(folio is read, set uptodate,
 *	 written to, set dirty)		clear PG_uptodate	<- wrong
 *
 * It is held for a few instructions per block, with interrupts disabled and out
 * of the reach of tracers, because lookups also come from interrupts and from
 * whatever BPF is attached to (it reads build ids of user stacks). The scanner
 * disables interrupts around the freeze for the same reason. Neither waits for
 * anything while it does so; a lookup may spin on the other two.
 *
 *		Volatile while mapped
 *
 * Unless page_hva=on asks for no more than the above, a small folio need not be
 * unmapped first. Its users go on without a fault, hot or cold; which of them are
 * hot is for the host to see. What nobody could get at is now a pte away, so three
 * things are added.
 *
 * Rule 1 for mapped folios: the reference count cannot be frozen, because ptes
 * come and go (fork, exit) without a look at whether it is. Instead the scanner,
 * which holds the folio lock, makes the folio busy, and then compares the counts
 * of references and of mappings. Both are in one word and read by one load:
 * two loads could see the mapping of a fork and not its reference, and take the
 * reference of somebody else for it. Who is not seen by the load has yet to test
 * the state, and waits until the folio is not busy any more:
 *
 *	CPU 0: scanner, folio locked	CPU 1: get_user_pages()
 *
 *	state = busy (full barrier)	folio_get(), smp_mb__after_atomic()
 *	refs == mappings + 2 ?		state busy? wait. volatile? make stable
 *	check the flags, set volatile	use the content
 *	state = volatile
 *
 * The flags are read after the counts: who sets the dirty flag drops the reference
 * later. mlock() has no reference that lasts, but sets PG_mlocked before it tests
 * the state. No pte is dirty: under the folio lock, a clean folio in a mapping
 * without shared writable mappings has none. No address space of a KVM guest maps
 * it: SIE would be left with a fault that KVM does not know.
 *
 * Rule 2 for mapped folios: a reference from a pte counts as a lookup. These are
 * follow_page_pte(), gup_fast_pte_range(), do_wp_page(), wp_page_shared() and
 * mlock_folio(). What the processor does through the pte needs no test: while the
 * block is there it is right, and else there is a discard fault.
 *
 * Rule 4: no pte outlives the content. A stable block that was discarded reads as
 * zeros, and nobody tests PG_uptodate of what is mapped. So a folio that was
 * discarded stays volatile, though not uptodate, until its last pte is gone. A
 * lookup leaves it like that, since it cannot sleep. Whoever reads it again holds
 * the folio lock and calls page_hva_make_stable_locked(), which removes the ptes:
 * filemap_read_folio(), and __filemap_get_folio() for those who fill it
 * otherwise. Migration does so, too, before the ptes are hidden in migration
 * entries. get_user_pages_fast(), which does not hold the page table lock, may
 * have seen a pte that is gone by now, and therefore looks at PG_uptodate as well.
 *
 *	CPU 0: discard fault		CPU 1: read()
 *
 *	lock the folio			folio_try_get()
 *	discarded? not uptodate		discarded? not uptodate
 *	remove all ptes			still mapped: leave it volatile
 *	stable, in use			lock the folio
 *	evict, unlock			in use by now: read it, or start again
 *
 * Progress: a page fault finds nothing wrong with a pte that is present. So where
 * a pte leads to a discarded folio, page_hva_discard() removes it, and only then
 * the fault is tried again. It sleeps; the discard fault calls it where a page
 * fault may sleep, and elsewhere lets the access fail, as a page fault would.
 *
 *		What else changes
 *
 * Freeing: a volatile folio that leaves the page cache (truncate, reclaim,
 * drop_caches) stays volatile until it is freed. page_hva_free() makes it
 * stable before the allocator may poison or clear it. Nobody can get at the
 * content in between: lookups fail in xas_reload().
 *
 * Readahead: a folio that is present stops readahead, so a file that was
 * dropped would be read again in single pages. The read path and readahead
 * remove discarded folios, see page_hva_evict(). That is an optimization;
 * where the folio is busy, it is read in place.
 *
 * Accounting: a discard is the host's doing. It leaves no shadow entry, so
 * reading the page again is neither a refault nor memory pressure.
 */
#define pr_fmt(fmt) "page_hva: " fmt

#include <linux/backing-dev.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/page_hva.h>
#include <linux/page_idle.h>
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/rmap.h>
#include <linux/string.h>
#include <linux/vmstat.h>
#include <asm/page_hva.h>

#include "internal.h"
#include "page_hva.h"

#define CREATE_TRACE_POINTS
#include <trace/events/page_hva.h>

DEFINE_STATIC_KEY_FALSE(page_hva_active);

/* May folios be mapped while they are volatile? */
static bool hva_mapped __ro_after_init = true;

/*
 * The state of a folio
 */

/* Change the state and whatever flags go with it in one step. */
static void folio_hva_set_state(struct folio *folio, unsigned long state)
{
	set_mask_bits(&folio->flags, PAGE_FLAGS_HVA, state);
}

/**
 * folio_hva_set_idle - Start to watch whether a folio is looked up.
 * @folio: A folio that is in use.
 *
 * Context: Any. The caller holds a reference.
 */
void folio_hva_set_idle(struct folio *folio)
{
	unsigned long old = READ_ONCE(folio->flags);

	do {
		if (old & PAGE_FLAGS_HVA)
			return;
	} while (!try_cmpxchg(&folio->flags, &old, old | FOLIO_IDLE));
}

/*
 * Make the folio busy if it is volatile, and say so. An idle folio is in use
 * from now on. Called, and if true returns, with interrupts disabled.
 */
static bool folio_hva_lock_volatile(struct folio *folio)
{
	unsigned long old = READ_ONCE(folio->flags);
	unsigned long new;

	for (;;) {
		switch (old & PAGE_FLAGS_HVA) {
		case FOLIO_IN_USE:
			return false;
		case FOLIO_BUSY:
			cpu_relax();
			old = READ_ONCE(folio->flags);
			continue;
		case FOLIO_IDLE:
			new = old & ~PAGE_FLAGS_HVA;
			break;
		case FOLIO_VOLATILE:
			new = old | FOLIO_BUSY;
			break;
		}
		if (try_cmpxchg(&folio->flags, &old, new))
			return (new & PAGE_FLAGS_HVA) == FOLIO_BUSY;
	}
}

/*
 * Make the folio busy if it is idle, and say so. A full barrier then: the counts
 * are read after it. Called, and if true returns, with interrupts disabled.
 */
static bool folio_hva_lock_idle(struct folio *folio)
{
	unsigned long old = READ_ONCE(folio->flags);

	do {
		if ((old & PAGE_FLAGS_HVA) != FOLIO_IDLE)
			return false;
	} while (!try_cmpxchg(&folio->flags, &old, old | FOLIO_BUSY));
	return true;
}

/*
 * The state of its blocks
 */

static void set_blocks_volatile(struct folio *folio)
{
	long i, nr = folio_nr_pages(folio);

	for (i = 0; i < nr; i++)
		page_hva_set_volatile(folio_page(folio, i), 0);
}

static void set_blocks_stable(struct folio *folio)
{
	long i, nr = folio_nr_pages(folio);

	for (i = 0; i < nr; i++)
		page_hva_set_stable(folio_page(folio, i));
}

/* Leaves discarded blocks volatile, they must not be read as zeros. */
static bool set_blocks_stable_if_resident(struct folio *folio)
{
	long i, nr = folio_nr_pages(folio);
	bool intact = true;

	for (i = 0; i < nr; i++)
		intact &= page_hva_set_stable_if_resident(folio_page(folio, i));
	return intact;
}

/**
 * folio_hva_discarded - Has the host dropped any block of a folio?
 * @folio: The folio.
 *
 * Context: Any. The caller holds a reference.
 * Return: True if so; then it stays so until the folio is made stable. False
 * may be outdated in the next moment.
 */
bool folio_hva_discarded(struct folio *folio)
{
	long i, nr = folio_nr_pages(folio);

	for (i = 0; i < nr; i++) {
		if (page_hva_discarded(folio_page(folio, i)))
			return true;
	}
	return false;
}

/*
 * Make stable
 */

/*
 * The flags that say something about the content: it is valid, it was verified
 * (fs-verity), it is mapped to disk (for buffer heads that are gone), and what
 * was read ahead with it is about to be used up.
 */
static void forget_content(struct folio *folio)
{
	folio_clear_uptodate(folio);
	folio_clear_checked(folio);
	folio_clear_mappedtodisk(folio);
	folio_clear_readahead(folio);
}

/* Rules 3 and 4. The folio is busy. Returns the state to leave it in. */
static unsigned long make_stable_busy(struct folio *folio, bool *intact)
{
	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio) && folio_test_large(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio_test_dirty(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio_test_writeback(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_uptodate(folio) &&
			      folio_test_large(folio), folio);

	*intact = set_blocks_stable_if_resident(folio);
	if (*intact) {
		__count_vm_events(HVA_STABLE, folio_nr_pages(folio));
		return FOLIO_IN_USE;
	}

	/* Unless it was mapped, and another lookup was here before. */
	if (folio_test_uptodate(folio)) {
		forget_content(folio);
		__count_vm_events(HVA_DISCARDED, folio_nr_pages(folio));
	}
	if (folio_mapped(folio))
		return FOLIO_VOLATILE;
	/* Rule 3, for those who look at the content without a reference. */
	smp_mb__after_atomic();
	set_blocks_stable(folio);
	return FOLIO_IN_USE;
}
NOKPROBE_SYMBOL(make_stable_busy);

/* Slow half of page_hva_make_stable(): the folio is not in use. */
bool __page_hva_make_stable(struct folio *folio)
{
	bool was_volatile, intact = true;
	unsigned long irqflags;

	VM_WARN_ON_ONCE_FOLIO(!folio_ref_count(folio), folio);

	local_irq_save(irqflags);
	was_volatile = folio_hva_lock_volatile(folio);
	if (was_volatile)
		folio_hva_set_state(folio, make_stable_busy(folio, &intact));
	local_irq_restore(irqflags);

	/* Only now: BPF programs that trace this may look up the same folio. */
	if (was_volatile && intact)
		trace_page_hva_make_stable(folio->mapping, folio);
	else if (was_volatile)
		trace_page_hva_discarded(folio->mapping, folio);
	page_hva_notify();
	return intact;
}

/* Volatile or busy. */
static bool maybe_volatile(struct folio *folio)
{
	return folio_hva_state(folio) & FOLIO_VOLATILE;
}

/*
 * Rule 4, for a folio that was discarded while it was mapped. Not only mappings
 * of this process: in none of them the content can be used. mlock() made the
 * folio stable before it was discarded, or takes the page fault now.
 */
bool __page_hva_make_stable_locked(struct folio *folio, bool may_sleep)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	/* Busy: another lookup, which may leave it volatile. */
	if (__page_hva_make_stable(folio) || !maybe_volatile(folio))
		return true;
	if (!may_sleep)
		return false;
	try_to_unmap(folio, TTU_IGNORE_MLOCK | TTU_SYNC);
	__page_hva_make_stable(folio);
	return !maybe_volatile(folio);
}

void __page_hva_free(struct page *page, unsigned int order)
{
	unsigned int i, nr = 1U << order;

	VM_WARN_ON_ONCE_PAGE(page_ref_count(page), page);

	for (i = 0; i < nr; i++)
		page_hva_set_stable(page + i);
	/* Else it was found discarded, and counted, while it was mapped. */
	if (test_bit(PG_uptodate, &page->flags))
		count_vm_events(HVA_FREED, nr);
}

/*
 * Read again
 */

/* The caller holds the folio lock and one reference. */
static bool evict_locked(struct address_space *mapping, struct folio *folio)
{
	if (folio->mapping != mapping || folio_test_uptodate(folio))
		return false;
	/* Not discarded, but partly uptodate, or being read otherwise. */
	if (folio_has_private(folio))
		return false;
	if (!page_hva_make_stable_locked(folio, true))
		return false;
	if (!mapping_evict_folio(mapping, folio))
		return false;
	trace_page_hva_evict(mapping, folio);
	return true;
}

bool __page_hva_evict(struct address_space *mapping, struct folio *folio)
{
	bool evicted;

	if (!folio_trylock(folio))
		return false;
	evicted = evict_locked(mapping, folio);
	folio_unlock(folio);
	if (evicted) {
		count_vm_events(HVA_EVICTED, folio_nr_pages(folio));
		folio_put(folio);
	}
	return evicted;
}

static bool discard_locked(struct folio *folio, bool *evicted)
{
	if (!maybe_volatile(folio) || !page_hva_make_stable_locked(folio, true))
		return false;
	if (!folio->mapping || !evict_locked(folio->mapping, folio))
		return true;
	count_vm_events(HVA_EVICTED, folio_nr_pages(folio));
	*evicted = true;
	return true;
}

static bool discard(struct folio *folio, bool *evicted)
{
	bool result;

	*evicted = false;
	/* It may be anything, even a slab, which uses PG_locked otherwise. */
	if (!maybe_volatile(folio))
		return false;
	folio_lock(folio);
	result = discard_locked(folio, evicted);
	folio_unlock(folio);
	return result;
}

/**
 * page_hva_discard - Unmap a folio that the host discarded while it was mapped.
 * @folio: The folio, which was found by a pte.
 *
 * After that the page fault finds no pte and reads the page again. The folio is
 * also removed from the page cache if nobody else refers to it, so that it is
 * read with readahead, and counted as a major fault.
 *
 * Context: Process context. May sleep; takes the folio lock and i_mmap_rwsem.
 * The caller holds a reference and no page table lock.
 * Return: True if the folio was volatile and is stable now.
 */
bool page_hva_discard(struct folio *folio)
{
	bool evicted;

	return discard(folio, &evicted);
}

/**
 * page_hva_fault - Somebody touched a discarded block through a page table.
 * @folio: The folio that has the block.
 *
 * Context: As page_hva_discard().
 * Return: As page_hva_discard(); then the access can be tried again.
 */
bool page_hva_fault(struct folio *folio)
{
	bool evicted, result = discard(folio, &evicted);

	/* filemap_fault() counts it when it finds nothing in the page cache. */
	if (result && !evicted && !folio_test_uptodate(folio)) {
		count_vm_event(PGMAJFAULT);
		count_memcg_event_mm(current->mm, PGMAJFAULT);
		current->maj_flt++;
	}
	return result;
}

/* Only a look at the flags: may the host have dropped it, or has it already? */
static bool maybe_discarded(struct folio *folio)
{
	unsigned long flags = READ_ONCE(folio->flags);

	if ((flags & PAGE_FLAGS_HVA) == FOLIO_VOLATILE)
		return true;
	return !(flags & (BIT(PG_uptodate) | BIT(PG_locked)));
}

/* Do not make a folio stable for the question, or readahead keeps all hot. */
static bool worth_evicting(struct folio *folio)
{
	return folio_hva_state(folio) != FOLIO_VOLATILE ||
	       folio_hva_discarded(folio);
}

/* Find the next folios of a range that the host discarded, with references. */
static void find_discarded(struct xa_state *xas, pgoff_t last,
			   struct folio_batch *fbatch)
{
	struct folio *folio;

	rcu_read_lock();
	xas_for_each(xas, folio, last) {
		if (xas_retry(xas, folio) || xa_is_value(folio))
			continue;
		if (!maybe_discarded(folio) || !folio_try_get(folio))
			continue;
		if (folio != xas_reload(xas) || !worth_evicting(folio)) {
			folio_put(folio);
			continue;
		}
		if (!folio_batch_add(fbatch, folio)) {
			xas_pause(xas);
			break;
		}
	}
	rcu_read_unlock();
}

static bool evict_range(struct address_space *mapping, pgoff_t start,
			unsigned long nr)
{
	XA_STATE(xas, &mapping->i_pages, start);
	struct folio_batch fbatch;
	unsigned int i, found;
	bool evicted = false;

	do {
		folio_batch_init(&fbatch);
		find_discarded(&xas, start + nr - 1, &fbatch);
		found = folio_batch_count(&fbatch);
		for (i = 0; i < found; i++) {
			struct folio *folio = fbatch.folios[i];

			page_hva_make_stable(folio);
			if (__page_hva_evict(mapping, folio))
				evicted = true;
			else
				folio_put(folio);
		}
	} while (found == PAGEVEC_SIZE);
	return evicted;
}

void __page_hva_evict_range(struct address_space *mapping, pgoff_t start,
			    unsigned long nr)
{
	evict_range(mapping, start, nr);
}

bool __page_hva_evict_next(struct readahead_control *ractl)
{
	return evict_range(ractl->mapping, readahead_index(ractl) +
			   readahead_count(ractl), 1);
}

/*
 * Make volatile
 */

/* A regular file whose content can be read again. */
static bool mapping_refillable(struct address_space *mapping)
{
	struct inode *inode = mapping->host;

	if (!S_ISREG(inode->i_mode) || IS_DAX(inode))
		return false;
	if (!mapping->a_ops->read_folio || mapping->a_ops == &ram_aops)
		return false;
	if (mapping_unevictable(mapping) || mapping_inaccessible(mapping))
		return false;
	/* Without writeback the dirty flag means nothing, if it can be written. */
	return mapping_can_writeback(mapping) || sb_rdonly(inode->i_sb);
}

/**
 * page_hva_eligible - Can a folio become volatile at all?
 * @folio: The folio.
 *
 * To keep what never will be out of the scanner's way: block devices, ramfs,
 * directories, mlocked pages, lazily freed anonymous memory.
 *
 * Context: The caller holds a reference. Does not wait.
 * Return: HVA_VOLATILE if so, else the event that counts the reason.
 */
enum vm_event_item page_hva_eligible(struct folio *folio)
{
	enum vm_event_item result = HVA_VOLATILE;
	struct address_space *mapping;

	if (folio_test_mlocked(folio) || folio_test_unevictable(folio))
		return HVA_REFUSED_MLOCKED;
	if (!folio_trylock(folio))
		return HVA_REFUSED_LOCKED;
	mapping = folio_mapping(folio);
	if (!mapping || !mapping_refillable(mapping))
		result = HVA_REFUSED_MAPPING;
	folio_unlock(folio);
	return result;
}

/* Why the flags of the folio forbid to make it volatile; HVA_VOLATILE if not. */
static enum vm_event_item flags_refuse(struct folio *folio)
{
	if (folio_test_dirty(folio))
		return HVA_REFUSED_DIRTY;
	if (folio_test_writeback(folio))
		return HVA_REFUSED_WRITEBACK;
	if (folio_test_mlocked(folio) || folio_test_unevictable(folio))
		return HVA_REFUSED_MLOCKED;
	if (!folio_test_lru(folio) || !folio_test_uptodate(folio) ||
	    folio_test_swapbacked(folio) || folio_test_checked(folio) ||
	    folio_test_hwpoison(folio))
		return HVA_REFUSED_FLAGS;
	return HVA_VOLATILE;
}

/* What the page tables say about a mapped folio. */
struct mapped_use {
	bool ask_young;
	bool young;	/* used since we asked last */
	bool locked;	/* mapped with VM_LOCKED */
	bool no_fault;	/* mapped where a discard fault cannot be handled */
};

static bool ask_one_mapping(struct folio *folio, struct vm_area_struct *vma,
			    unsigned long addr, void *arg)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, 0);
	struct mapped_use *use = arg;

	/* Large folios are not always PG_mlocked. Do not make such ptes fault. */
	if (vma->vm_flags & VM_LOCKED) {
		use->locked = true;
		return false;
	}
	if (!page_hva_fault_possible(vma->vm_mm))
		use->no_fault = true;
	while (use->ask_young && page_vma_mapped_walk(&pvmw)) {
		if (pvmw.pte)
			use->young |= ptep_clear_young_notify(vma,
						pvmw.address, pvmw.pte);
		else if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
			use->young |= pmdp_clear_young_notify(vma,
						pvmw.address, pvmw.pmd);
	}
	return true;
}

/* Returns false if the answer is not complete. */
static bool ask_mappings(struct folio *folio, struct mapped_use *use)
{
	struct rmap_walk_control rwc = {
		.rmap_one = ask_one_mapping,
		.arg = use,
		.try_lock = true,
	};

	rmap_walk(folio, &rwc);
	return !rwc.contended;
}

/*
 * Has anybody used the folio through a page table since we asked last? Not
 * folio_referenced(): that is for isolated folios, looks at the neighbours, and
 * does not ask mappings with MADV_RANDOM. What the young bits said is kept for
 * reclaim and for page_idle.
 */
static enum vm_event_item mapped_folio_use(struct folio *folio)
{
	struct mapped_use use = { .ask_young = true };
	bool complete = ask_mappings(folio, &use);

	if (use.young) {
		folio_clear_idle(folio);
		folio_set_young(folio);
		folio_set_referenced(folio);
	}
	if (use.locked)
		return HVA_REFUSED_MLOCKED;
	return use.young || !complete ? HVA_REFUSED_HOT : HVA_VOLATILE;
}

/* Not the proof, but good enough not to bother others for nothing. */
static bool seems_referenced(struct folio *folio)
{
	return folio_ref_count(folio) != 1 + folio_nr_pages(folio) +
					 folio_mapcount(folio) +
					 folio_has_private(folio);
}

/* Is there a chance that the folio can be unmapped and is not used? */
static enum vm_event_item mapping_refuses(struct folio *folio)
{
	enum vm_event_item result;

	if (!folio_mapped(folio))
		return HVA_VOLATILE;
	if (seems_referenced(folio))
		return HVA_REFUSED_REFS;
	result = mapped_folio_use(folio);
	if (result == HVA_REFUSED_HOT)
		folio_hva_set_state(folio, FOLIO_IN_USE);
	return result;
}

/* Stops at VM_LOCKED. A pte that is dirty makes the folio dirty. */
static bool unmap_folio(struct folio *folio)
{
	if (!folio_mapped(folio))
		return true;
	try_to_unmap(folio, folio_test_large(folio) ? TTU_SPLIT_HUGE_PMD : 0);
	if (folio_mapped(folio))
		return false;
	count_vm_events(HVA_UNMAPPED, folio_nr_pages(folio));
	return true;
}

/*
 * Buffer heads and the like hold references and would survive the content. A
 * file system may also have to know before its content goes. The mask says
 * neither to block nor to write: what cannot be released now will be cold later,
 * too. (btrfs may allocate with GFP_NOFS all the same.)
 */
static bool release_private(struct folio *folio)
{
	if (!folio_needs_release(folio))
		return true;
	return filemap_release_folio(folio, GFP_NOWAIT) &&
	       !folio_has_private(folio);
}

/* The last look. Flags after the count, as in __remove_mapping(). */
static enum vm_event_item frozen_folio_refuses(struct folio *folio)
{
	if (folio_mapped(folio))
		return HVA_REFUSED_MAPPED;
	if (folio_has_private(folio))
		return HVA_REFUSED_PRIVATE;
	if (folio_hva_state(folio) != FOLIO_IDLE)
		return HVA_REFUSED_HOT;
	return flags_refuse(folio);
}

/* Rule 1: the point of no return. */
static enum vm_event_item freeze_and_set_volatile(struct folio *folio)
{
	int expected = 1 + folio_nr_pages(folio);
	enum vm_event_item result;
	unsigned long irqflags;

	local_irq_save(irqflags);
	if (!folio_ref_freeze(folio, expected)) {
		local_irq_restore(irqflags);
		return HVA_REFUSED_REFS;
	}

	result = frozen_folio_refuses(folio);
	if (result == HVA_VOLATILE) {
		set_blocks_volatile(folio);
		folio_hva_set_state(folio, FOLIO_VOLATILE);
		__count_vm_events(HVA_VOLATILE, folio_nr_pages(folio));
	}
	folio_ref_unfreeze(folio, expected);
	local_irq_restore(irqflags);
	return result;
}
NOKPROBE_SYMBOL(freeze_and_set_volatile);

/*
 * Rule 1 for a folio that stays mapped
 */

/* The two counts of a small folio, in one word. */
union folio_counts {
	struct {
		atomic_t mapcount;	/* less one */
		atomic_t refcount;
	};
	u64 both;
};
static_assert(offsetof(struct page, _mapcount) % sizeof(u64) == 0);
static_assert(offsetof(struct page, _refcount) -
	      offsetof(struct page, _mapcount) ==
	      offsetof(union folio_counts, refcount));

/*
 * One load: of two, the first could be of before a fork and the other of after
 * an unmap, and look right when they never were. This is a plain word for the
 * compiler and KCSAN, which know nothing of loads that overlap atomics.
 */
static bool only_cache_and_ptes_refer(struct folio *folio)
{
	union folio_counts counts;

	/* Whoever changes one of them meanwhile tests the state after it. */
	counts.both = data_race(READ_ONCE(*(u64 *)&folio->_mapcount));
	/* The page cache's, and ours. */
	return atomic_read(&counts.refcount) ==
	       atomic_read(&counts.mapcount) + 1 + 1 + 1;
}

/* The last look. Flags after the counts, as in __remove_mapping(). */
static enum vm_event_item busy_folio_refuses(struct folio *folio)
{
	if (!only_cache_and_ptes_refer(folio))
		return HVA_REFUSED_REFS;
	/* Who has set a flag that matters drops the reference after that. */
	smp_rmb();
	if (folio_has_private(folio))
		return HVA_REFUSED_PRIVATE;
	if (mapping_writably_mapped(folio->mapping))
		return HVA_REFUSED_MAPPED;
	return flags_refuse(folio);
}

/*
 * The point of no return. While the folio is busy, whoever gets a reference, by
 * a lookup or from a pte, waits for us in folio_hva_lock_volatile(). The caller
 * holds the folio lock.
 */
static enum vm_event_item set_mapped_volatile(struct folio *folio)
{
	enum vm_event_item result = HVA_REFUSED_HOT;
	unsigned long irqflags;

	local_irq_save(irqflags);
	if (folio_hva_lock_idle(folio)) {
		result = busy_folio_refuses(folio);
		if (result == HVA_VOLATILE) {
			set_blocks_volatile(folio);
			folio_hva_set_state(folio, FOLIO_VOLATILE);
			__count_vm_event(HVA_VOLATILE);
			__count_vm_event(HVA_MAPPED);
		} else {
			folio_hva_set_state(folio, FOLIO_IDLE);
		}
	}
	local_irq_restore(irqflags);
	return result;
}
NOKPROBE_SYMBOL(set_mapped_volatile);

/*
 * Only small folios: large ones count their mappings in several words. Only
 * where the dirty bits of ptes are known to be clear.
 */
static bool may_stay_mapped(struct folio *folio)
{
	return hva_mapped && folio_mapped(folio) && !folio_test_large(folio) &&
	       !mapping_writably_mapped(folio->mapping);
}

/* HVA_REFUSED_MAPPED: as far as we know it can be unmapped. */
static enum vm_event_item make_mapped_volatile(struct folio *folio)
{
	struct mapped_use use = {};

	if (seems_referenced(folio))
		return HVA_REFUSED_REFS;
	if (!ask_mappings(folio, &use))
		return HVA_REFUSED_HOT;
	if (use.locked)
		return HVA_REFUSED_MLOCKED;
	if (use.no_fault)
		return HVA_REFUSED_MAPPED;
	if (!release_private(folio))
		return HVA_REFUSED_PRIVATE;
	return set_mapped_volatile(folio);
}

static enum vm_event_item make_volatile_locked(struct folio *folio)
{
	struct address_space *mapping = folio_mapping(folio);
	enum vm_event_item result;

	if (!mapping || !mapping_refillable(mapping))
		return HVA_REFUSED_MAPPING;
	/* Whoever found it discarded did not come back to read it. */
	if (!folio_test_uptodate(folio) && evict_locked(mapping, folio))
		return HVA_EVICTED;
	result = flags_refuse(folio);
	if (result != HVA_VOLATILE)
		return result;
	if (may_stay_mapped(folio)) {
		result = make_mapped_volatile(folio);
		if (result != HVA_REFUSED_MAPPED)
			return result;
	}
	result = mapping_refuses(folio);
	if (result != HVA_VOLATILE)
		return result;
	if (!release_private(folio))
		return HVA_REFUSED_PRIVATE;
	if (!unmap_folio(folio))
		return HVA_REFUSED_MAPPED;
	return freeze_and_set_volatile(folio);
}

/**
 * page_hva_make_volatile - Offer an idle folio to the host.
 * @folio: An idle folio, on which the caller holds one reference.
 *
 * Context: Process context. May wait for page table and i_mmap locks, but
 * neither for the folio lock nor for I/O.
 * Return: HVA_VOLATILE on success, HVA_EVICTED if the host had discarded the
 * folio before and it is gone, else the event that counts the reason.
 */
enum vm_event_item page_hva_make_volatile(struct folio *folio)
{
	enum vm_event_item result;

	if (!folio_trylock(folio))
		return HVA_REFUSED_LOCKED;
	result = make_volatile_locked(folio);
	if (result == HVA_VOLATILE)
		trace_page_hva_make_volatile(folio->mapping, folio);
	folio_unlock(folio);
	return result;
}

/*
 * Switch
 */

static bool hva_off __ro_after_init;
static bool hva_force __initdata;

static int __init parse_page_hva(char *options)
{
	char *option;

	if (!options)
		return -EINVAL;
	while ((option = strsep(&options, ","))) {
		if (!strcmp(option, "off")) {
			hva_off = true;
			continue;
		}
		if (!strcmp(option, "on")) {
			hva_mapped = false;
		} else if (!strcmp(option, "mapped")) {
			hva_mapped = true;
		} else if (!strcmp(option, "force")) {
			hva_force = true;
		} else {
			pr_warn("ignoring unknown option '%s'\n", option);
			continue;
		}
		hva_off = false;
	}
	return 0;
}
early_param("page_hva", parse_page_hva);

/**
 * page_hva_mode - How the feature runs, in one word for people.
 *
 * Context: Any.
 * Return: "off" on request, "unused" if the host did not deliver a discard
 * fault at boot so that only unused pages are hinted, "mapped" if mapped pages
 * can be volatile, else "on".
 */
const char *page_hva_mode(void)
{
	if (page_hva_is_active())
		return hva_mapped ? "mapped" : "on";
	return hva_off ? "off" : "unused";
}

/**
 * page_hva_init - Find out whether the host can be trusted, and go.
 *
 * A host that drops volatile blocks but does not deliver the discard fault
 * would make us read zeros, so it has to prove that it does.
 *
 * Context: Before the page allocator takes over from memblock: the proof needs
 * a block that the host has not backed yet.
 */
void __init page_hva_init(void)
{
	if (!page_hva_enabled())
		return;
	if (hva_off) {
		pr_info("switched off\n");
		return;
	}
	if (!page_hva_prove()) {
		if (!hva_force) {
			pr_info("no proof of the discard fault, only unused pages are hinted\n");
			return;
		}
		pr_warn("no proof of the discard fault, but volatile pages are forced\n");
	}
	static_branch_enable(&page_hva_active);
	pr_info("the host may drop clean page cache\n");
}
