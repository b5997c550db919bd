// SPDX-License-Identifier: GPL-2.0
/*
 * Page host virtual assist: volatile page cache, and memory that nobody needs.
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
 * mapped, and not uptodate, and every file system knows how to read that (if it
 * knows folios of that size).
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
 *   busy	both		somebody is changing the state: a lookup, or, where the
 *				folio is mapped, the scanner
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
 * of the reach of tracers (inline, and no kprobes), because lookups also come from
 * interrupts and from whatever BPF is attached to (it reads build ids of user
 * stacks). The scanner disables interrupts around the freeze for the same reason.
 * Neither waits for anything while it does so; a lookup may spin on the other two.
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
 * it: SIE would be left with a fault that KVM does not know. Nor does one that is
 * shared with a device (MMU notifiers), which takes no fault at all.
 *
 * Rule 2 for mapped folios: a reference from a pte counts as a lookup. These are
 * follow_page_pte(), gup_fast_pte_range(), hmm_vma_handle_pte(), do_wp_page(),
 * wp_page_shared() and mlock_folio(). What the processor does through the pte needs
 * no test: while the block is there it is right, and else there is a discard fault.
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
 * the fault is tried again. It sleeps; the discard fault calls it, by way of
 * page_hva_fault(), where a page fault may sleep, and elsewhere lets the access
 * fail, as a page fault would.
 *
 *		Lazily freed memory
 *
 * With page_hva=lazyfree the host may also drop what MADV_FREE has given up, as
 * reclaim may: anonymous pages whose pte was made clean and that nobody has stored
 * to since. There is nothing to read again: whoever touches such a page has agreed
 * to find zeros, and that is what a discarded block holds once it is stable. So to
 * make it stable never fails, its ptes stay, and rules 3 and 4 do not apply. The
 * discard fault just makes the page stable. What was seen as zeros stays zeros,
 * since the host has nothing else.
 *
 * Rule 1 for lazily freed pages: whether the content is needed is in the pte. So
 * the scanner holds the lock of the page table with the pte, the pte is clean,
 * and it is the only one: the page is exclusive to one process. MADV_FREE has
 * flushed the pte from the TLB, and the processor does not store through one that
 * is clean: a store is a page fault. It makes the page stable before the pte is
 * dirty, under the same lock. That lock comes before "busy", since a fault that
 * waits for "busy" holds it.
 *
 *	CPU 0: scanner, folio locked	CPU 1: page fault of a store
 *
 *	lock the page table		lock the page table
 *	pte clean, page exclusive?	pte clean? state volatile?
 *	state = busy (full barrier)		make stable, or zeros
 *	refs == mappings + 1 ?		make the pte dirty
 *	check the flags			unlock the page table
 *	state = volatile
 *	unlock the page table
 *
 * Either CPU 1 is first, and CPU 0 sees that the pte is dirty. Or CPU 1 sees that
 * the page is volatile. Who gets a reference without the lock, such as
 * get_user_pages_fast(), tests the state after it, as above. Not everybody who
 * stores by way of a reference marks the folio dirty (io_uring's registered buffers
 * do not), so with these modes get_user_pages_fast() takes only dirty ptes (and
 * pmds) for writing, get_user_pages() marks the folio dirty, and so does MADV_FREE,
 * after it has made the pte clean, if the folio is pinned.
 *
 * Rule 2 for lazily freed pages: these come to the content from a pte, too, or make
 * it dirty: handle_pte_fault() and do_wp_page() for stores, fork() when it copies a
 * page that may be pinned, KSM, and the collapse into a huge page. Otherwise fork()
 * shares the page as it is, volatile and clean. If the host drops it, both processes
 * find zeros, as they do when reclaim drops it. The first store, of either, copies
 * it or finds that it has it alone: do_wp_page(). A page that is shared does not
 * become volatile, since the need of the other process is in the other pte. A pte
 * may be clean and its process need the content all the same, because there is no
 * copy in swap: then the folio is dirty, and MADV_FREE leaves it alone as long as it
 * is shared. See wp_page_copy(), for a pin, and do_swap_page(), folio_free_swap().
 *
 * A lazily freed page that reclaim finds in use becomes swap backed again, and may
 * be written to swap next: try_to_unmap_one() makes it stable before. So a volatile
 * folio is swap backed only if it is in the swap cache, see below.
 *
 * Left alone are large folios, which count their mappings in several words (once
 * they are split, their pages can become volatile), mlocked memory, processes that
 * can be KVM hosts or share their memory with devices (MMU notifiers), and those
 * that watch what happens to it: userfaultfd, soft-dirty. What was volatile before
 * they began to watch stays so, and may turn to zeros, as MADV_FREE has announced.
 *
 *		Potentially volatile
 *
 * Whoever uses lazily freed memory again pays for a page fault, because its pte
 * has become clean and old. With page_hva=full it stays writable and young, and
 * what remembers the next store is the change bit in the storage key of the page.
 * The host drops a potentially volatile block only while this bit is off; the test
 * and the drop are one step. So the scanner need not keep stores out, either.
 *
 * Such a pte is clean in the eyes of Linux, and yet not protected by hardware. It
 * is one of rule 1's exclusive pages, so there is no other pte to which the same
 * key would belong. MADV_FREE makes it, in this order:
 *
 *	take the pte away		nobody stores to the page
 *	make the page stable
 *	page_clear_dirty()
 *	put the pte back, not protected	a store sets the change bit
 *
 * and ptep_get_and_clear(), ptep_clear_flush(), ptep_modify_prot_start(), in short
 * whatever takes it away again or changes it, undoes it:
 *
 *	make the pte invalid		nobody stores to the page
 *	page_test_dirty() ?		yes: make the page stable; return a dirty pte
 *					no: return a clean pte, protected as usual
 *
 * The pte is flushed from the TLBs, unless only this CPU can have it there, which
 * does not run the process meanwhile, and flushes it before it does.
 *
 * So unmapping, migration, mprotect(), mremap(), KSM and reclaim find the dirty bit
 * where they look for it. This is the split dirty test: were the page not stable
 * before the change bit is forgotten, the host could drop it while the bit is
 * nowhere. An unmapped page whose bit was off goes from potentially volatile to
 * volatile.
 *
 * Who overwrites such a pte without a look at the old one knows the answer, or does
 * not care: handle_pte_fault() has made the page stable, and its new pte is dirty; a
 * process that exits, see ptep_get_and_clear_full(), has no use for it. Who reads a
 * pte and leaves it there sees a clean one, which may be wrong only for those who
 * look again later (reclaim's ageing): fork() gets the bit into the pte first, since
 * the child's pte has none (and ptep_set_wrprotect(), which it calls, would lose it);
 * smaps and numa_maps ask for it.
 *
 *	CPU 0: scanner, page table locked	CPU 1: a store
 *
 *	page_test_dirty() ? no
 *						change bit on
 *	potentially volatile			(the host leaves it alone)
 *
 *		The swap cache
 *
 * With page_hva=full a page that was read from swap and not stored to since may go,
 * too, as long as it is in the swap cache: its slot has the same content. Rule 1 is
 * that of lazily freed pages, with one reference more; where the pte is writable,
 * the scanner has the storage key remember the next store. Rule 3 cannot be that of
 * files, since swapoff gives up, and a page fault fails, on a page that is not
 * uptodate. Instead a discarded page keeps its flag and stays volatile until it is
 * removed from the swap cache, which is rule 4: under the folio lock its ptes become
 * swap entries, see remove_from_swap_cache(). Whoever has found it by its entry
 * waits for the folio lock, and then finds it volatile, or not in the swap cache any
 * more, and looks again: do_swap_page(), unuse_pte_range(), try_to_unuse(). Whoever
 * has found it by its pte does as with a file, by way of page_hva_discard().
 * get_user_pages_fast() tests the state before it looks at the pte again: a page
 * that was removed meanwhile has none.
 *
 * A slot is not freed while it may have the only copy: those who free it,
 * folio_free_swap() and __try_to_reclaim_swap(), make the folio stable first, and
 * leave both alone if that fails.
 *
 *	CPU 0: a store through the pte		CPU 1: __try_to_reclaim_swap()
 *
 *						lock the folio
 *	discard fault				discarded? the slot stays
 *	lock the folio				unlock the folio
 *	the pte becomes a swap entry
 *	not in the swap cache any more
 *	page fault: reads the slot
 *
 * Shared memory (shmem) is left alone: it is in the swap cache for the time of the
 * I/O only. So is what zswap has decompressed, which is dirty from then on. What
 * zswap has taken, and is used again before reclaim frees the page, has its copy
 * there, as good as one on disk.
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
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>
#include <linux/vmstat.h>

#include "internal.h"
#include "page_hva.h"
#include "swap.h"

#define CREATE_TRACE_POINTS
#include <trace/events/page_hva.h>

DEFINE_STATIC_KEY_FALSE(page_hva_active);
DEFINE_STATIC_KEY_FALSE(page_hva_lazyfree_active);
DEFINE_STATIC_KEY_FALSE(page_hva_potential_active);

/* May folios be mapped while they are volatile? */
static bool hva_mapped __ro_after_init = true;

/*
 * The state of a folio
 */

/* Change the state and whatever flags go with it in one step. */
static nokprobe_inline void folio_hva_set_state(struct folio *folio,
						unsigned long state)
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
static nokprobe_inline bool folio_hva_lock_volatile(struct folio *folio)
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
static nokprobe_inline bool folio_hva_lock_idle(struct folio *folio)
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

static nokprobe_inline void set_blocks_volatile(struct folio *folio, bool writable)
{
	long i, nr = folio_nr_pages(folio);

	for (i = 0; i < nr; i++)
		page_hva_set_volatile(folio_page(folio, i), writable);
}

static nokprobe_inline void set_blocks_stable(struct folio *folio)
{
	long i, nr = folio_nr_pages(folio);

	for (i = 0; i < nr; i++)
		page_hva_set_stable(folio_page(folio, i));
}

/* Leaves discarded blocks volatile, they must not be read as zeros. */
static nokprobe_inline bool set_blocks_stable_if_resident(struct folio *folio)
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
 * was read ahead with it is about to be used up. Nor is it a sign of memory
 * pressure to wait until it has been read again, see PG_workingset.
 */
static nokprobe_inline void forget_content(struct folio *folio)
{
	folio_clear_uptodate(folio);
	folio_clear_checked(folio);
	folio_clear_mappedtodisk(folio);
	folio_clear_readahead(folio);
	folio_clear_workingset(folio);
}

/* Rules 3 and 4. The folio is busy. Returns the state to leave it in. */
static nokprobe_inline unsigned long make_stable_busy(struct folio *folio,
						      bool *intact)
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

	if (folio_test_anon(folio)) {
		/* Never not uptodate where an entry leads to it. */
		if (folio_test_swapcache(folio))
			return FOLIO_VOLATILE;
		/* Lazily freed, or on its way out: zeros will do. */
		__count_vm_event(HVA_DISCARDED);
		set_blocks_stable(folio);
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

/* Slow half of page_hva_make_stable(): the folio is not in use. */
bool __page_hva_make_stable(struct folio *folio)
{
	unsigned long irqflags, state = FOLIO_IN_USE;
	bool was_volatile, intact = true;

	VM_WARN_ON_ONCE_FOLIO(!folio_ref_count(folio), folio);

	local_irq_save(irqflags);
	was_volatile = folio_hva_lock_volatile(folio);
	if (was_volatile) {
		state = make_stable_busy(folio, &intact);
		folio_hva_set_state(folio, state);
	}
	local_irq_restore(irqflags);

	/* Only now: BPF programs that trace this may look up the same folio. */
	if (was_volatile && intact)
		trace_page_hva_make_stable(folio_mapping(folio), folio);
	else if (was_volatile)
		trace_page_hva_discarded(folio_mapping(folio), folio);
	page_hva_notify();
	return intact || (folio_test_anon(folio) && state == FOLIO_IN_USE);
}
NOKPROBE_SYMBOL(__page_hva_make_stable);

/* Volatile or busy. */
static bool maybe_volatile(struct folio *folio)
{
	return folio_hva_state(folio) & FOLIO_VOLATILE;
}

/* Zeros, which nobody gets to see: nothing leads to the folio any more. */
static void make_stable_for_good(struct folio *folio)
{
	unsigned long irqflags;

	local_irq_save(irqflags);
	if (folio_hva_lock_volatile(folio)) {
		__count_vm_event(HVA_DISCARDED);
		set_blocks_stable(folio);
		folio_hva_set_state(folio, FOLIO_IN_USE);
	}
	local_irq_restore(irqflags);
}
NOKPROBE_SYMBOL(make_stable_for_good);

/*
 * Rule 4 for the swap cache: the folio goes, and its slot has the content. Ptes
 * become swap entries. Whoever has a reference waits for the folio lock and finds
 * that it is not in the swap cache any more.
 */
static bool remove_from_swap_cache(struct folio *folio)
{
	if (folio_mapped(folio))
		try_to_unmap(folio, TTU_IGNORE_MLOCK | TTU_SYNC);
	/* Somebody pins it, finds it discarded, and unpins it: try again. */
	if (folio_mapped(folio))
		return false;
	delete_from_swap_cache(folio);
	make_stable_for_good(folio);
	return true;
}

bool __page_hva_make_stable_swapcache(struct folio *folio)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	if (__page_hva_make_stable(folio))
		return true;
	if (folio_mapped(folio))
		return false;
	/* Neither a pte nor an entry leads to it: nobody needs the content. */
	make_stable_for_good(folio);
	return true;
}

bool __page_hva_swapcache_usable(struct folio *folio)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	if (__page_hva_make_stable(folio))
		return true;
	remove_from_swap_cache(folio);
	return false;
}

/*
 * Rule 4, for a folio that was discarded while it was mapped. Not only mappings
 * of this process: in none of them the content can be used. mlock() made the
 * folio stable before it was discarded, or takes the page fault now. Or, if its
 * pages need not be there before they are touched (MLOCK_ONFAULT), when they are.
 */
bool __page_hva_make_stable_locked(struct folio *folio, bool may_sleep)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	/* Busy: another lookup, which may leave it volatile. */
	if (__page_hva_make_stable(folio) || !maybe_volatile(folio))
		return true;
	if (!may_sleep)
		return false;
	if (folio_test_swapcache(folio))
		return remove_from_swap_cache(folio);
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
	/* Before: the inode may go when its last folio has gone. */
	trace_page_hva_evict(mapping, folio);
	return mapping_evict_folio(mapping, folio);
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
	if (!maybe_volatile(folio))
		return false;
	if (!page_hva_make_stable_locked(folio, true)) {
		/* Only the swap cache has a good reason. */
		if (!folio_test_swapcache(folio) || fatal_signal_pending(current))
			return false;
		schedule_timeout_uninterruptible(1);
		return true;
	}
	if (!folio->mapping || folio_test_anon(folio) || !evict_locked(folio->mapping, folio))
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
	if (folio_test_anon(folio) && __page_hva_make_stable(folio))
		return true;
	/* Who reads it again holds the lock as long as the disk takes. */
	if (folio_lock_killable(folio))
		return false;
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
 * Context: Process context. May sleep; takes the folio lock, unless a fatal signal
 * ends the wait for it, and the locks of rmap. The caller holds a reference and no
 * page table lock.
 * Return: True if the folio was volatile and is stable now, or is in the swap
 * cache and others keep it from being unmapped for a moment: try again.
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

bool __page_hva_evict_range(struct address_space *mapping, pgoff_t start,
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

bool __page_hva_evict_next(struct readahead_control *ractl)
{
	return __page_hva_evict_range(ractl->mapping, readahead_index(ractl) +
				      readahead_count(ractl), 1);
}

/*
 * Make volatile
 */

/* A regular file whose content can be read again. */
static bool mapping_refillable(struct address_space *mapping)
{
	struct inode *inode = mapping->host;

	/* The swap cache has none. */
	if (!inode || !S_ISREG(inode->i_mode) || IS_DAX(inode))
		return false;
	if (!mapping->a_ops->read_folio || mapping->a_ops == &ram_aops)
		return false;
	if (mapping_unevictable(mapping) || mapping_inaccessible(mapping))
		return false;
	/* Without writeback the dirty flag means nothing, if it can be written. */
	return mapping_can_writeback(mapping) || sb_rdonly(inode->i_sb);
}

/*
 * A file system that knows small folios only gets large ones from khugepaged
 * (READ_ONLY_THP_FOR_FS), which fills them. It would read the first page of one
 * that is not uptodate, and take the rest for read.
 */
static bool folio_refillable(struct folio *folio)
{
	struct address_space *mapping = folio_mapping(folio);

	return mapping && mapping_refillable(mapping) &&
	       (!folio_test_large(folio) || mapping_large_folio_support(mapping));
}

/* MADV_FREE gave it up. Whether it has been used since is in its pte. */
static nokprobe_inline bool is_lazyfree(struct folio *folio)
{
	return page_hva_lazyfree() && folio_test_anon(folio) &&
	       !folio_test_ksm(folio) && !folio_test_swapbacked(folio) &&
	       !folio_test_large(folio);
}

/*
 * Its slot has the same content, as long as it is clean. A page of shared memory
 * (shmem) is in the swap cache only while it is read or written. In the first
 * version of cgroups the charge for the slot is the page's, and would be lost.
 */
static nokprobe_inline bool is_swapcache(struct folio *folio)
{
	return page_hva_potential() && !swap_charge_follows_page() &&
	       folio_test_anon(folio) &&
	       !folio_test_ksm(folio) && folio_test_swapbacked(folio) &&
	       folio_test_swapcache(folio) && folio_mapped(folio) &&
	       !folio_test_large(folio);
}

/* Memory without a file. Whether the content is needed is in the pte. */
static bool is_anon_candidate(struct folio *folio)
{
	return is_lazyfree(folio) || is_swapcache(folio);
}

/**
 * page_hva_eligible - Can a folio become volatile at all?
 * @folio: The folio.
 *
 * To keep what never will be out of the scanner's way: block devices, ramfs,
 * directories, mlocked pages.
 *
 * Context: The caller holds a reference. Does not wait.
 * Return: HVA_VOLATILE if so, else the event that counts the reason.
 */
enum vm_event_item page_hva_eligible(struct folio *folio)
{
	enum vm_event_item result = HVA_VOLATILE;

	if (folio_test_mlocked(folio) || folio_test_unevictable(folio))
		return HVA_REFUSED_MLOCKED;
	if (!folio_trylock(folio))
		return HVA_REFUSED_LOCKED;
	if (!is_anon_candidate(folio) && !folio_refillable(folio))
		result = HVA_REFUSED_MAPPING;
	folio_unlock(folio);
	return result;
}

/* Why the flags of the folio forbid to make it volatile; HVA_VOLATILE if not. */
static nokprobe_inline enum vm_event_item flags_refuse(struct folio *folio)
{
	if (folio_test_dirty(folio))
		return HVA_REFUSED_DIRTY;
	if (folio_test_writeback(folio))
		return HVA_REFUSED_WRITEBACK;
	if (folio_test_mlocked(folio) || folio_test_unevictable(folio))
		return HVA_REFUSED_MLOCKED;
	if (!folio_test_lru(folio) || !folio_test_uptodate(folio) ||
	    folio_test_hwpoison(folio))
		return HVA_REFUSED_FLAGS;
	/* PG_checked of a file is PG_swapcache of anonymous memory. */
	if (folio_test_swapbacked(folio) ? !is_swapcache(folio) :
					   folio_test_checked(folio))
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

/*
 * Devices that share the address space (HMM) do not. What became volatile before
 * they came is made stable when they ask for it: hmm_vma_handle_pte().
 */
static bool all_take_the_fault(struct mm_struct *mm)
{
	return page_hva_fault_possible(mm) && !mm_has_notifiers(mm);
}

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
	if (!all_take_the_fault(vma->vm_mm))
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

/*
 * Not the proof, but good enough not to bother others for nothing. Who has pinned
 * a folio in order to write to it may need its private data after that: the file
 * system does not expect a folio to become dirty without.
 */
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
static nokprobe_inline enum vm_event_item frozen_folio_refuses(struct folio *folio)
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
		set_blocks_volatile(folio, false);
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
static nokprobe_inline bool only_cache_and_ptes_refer(struct folio *folio)
{
	/* The page or swap cache's, and ours. */
	int others = is_lazyfree(folio) ? 1 : 2;
	union folio_counts counts;

	/* Whoever changes one of them meanwhile tests the state after it. */
	counts.both = data_race(READ_ONCE(*(u64 *)&folio->_mapcount));
	return atomic_read(&counts.refcount) ==
	       atomic_read(&counts.mapcount) + 1 + others;
}

/* The last look. Flags after the counts, as in __remove_mapping(). */
static nokprobe_inline enum vm_event_item busy_folio_refuses(struct folio *folio)
{
	if (!only_cache_and_ptes_refer(folio))
		return HVA_REFUSED_REFS;
	/* Who has set a flag that matters drops the reference after that. */
	smp_rmb();
	if (folio_has_private(folio))
		return HVA_REFUSED_PRIVATE;
	if (!folio_test_anon(folio) && mapping_writably_mapped(folio->mapping))
		return HVA_REFUSED_MAPPED;
	return flags_refuse(folio);
}

static nokprobe_inline enum vm_event_item mapped_event(struct folio *folio)
{
	if (!folio_test_anon(folio))
		return HVA_MAPPED;
	return folio_test_swapbacked(folio) ? HVA_SWAPCACHE : HVA_LAZYFREE;
}

/*
 * The point of no return. While the folio is busy, whoever gets a reference, by
 * a lookup or from a pte, waits for us in folio_hva_lock_volatile(). The caller
 * holds the folio lock, and for lazily freed memory the page table lock.
 */
static enum vm_event_item set_mapped_volatile(struct folio *folio,
					      bool writable)
{
	enum vm_event_item result = HVA_REFUSED_HOT;
	unsigned long irqflags;

	local_irq_save(irqflags);
	if (folio_hva_lock_idle(folio)) {
		result = busy_folio_refuses(folio);
		if (result == HVA_VOLATILE) {
			set_blocks_volatile(folio, writable);
			folio_hva_set_state(folio, FOLIO_VOLATILE);
			__count_vm_event(HVA_VOLATILE);
			__count_vm_event(mapped_event(folio));
			if (writable)
				__count_vm_event(HVA_POTENTIAL);
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

	if (!ask_mappings(folio, &use))
		return HVA_REFUSED_HOT;
	if (use.locked)
		return HVA_REFUSED_MLOCKED;
	if (use.no_fault)
		return HVA_REFUSED_MAPPED;
	if (!release_private(folio))
		return HVA_REFUSED_PRIVATE;
	return set_mapped_volatile(folio, false);
}

/*
 * Rule 1 for memory without a file
 */

static enum vm_event_item anon_pte_refuses(struct folio *folio,
					   struct vm_area_struct *vma,
					   pte_t pte)
{
	struct mm_struct *mm = vma->vm_mm;

	if (vma->vm_flags & VM_LOCKED)
		return HVA_REFUSED_MLOCKED;
	if (!all_take_the_fault(mm) || userfaultfd_armed(vma) ||
	    vma_soft_dirty_enabled(vma))
		return HVA_REFUSED_MAPPED;
	/* Stored to since then, maybe by the other process of a fork. */
	if (pte_maybe_dirty(pte) || folio_test_dirty(folio) ||
	    !PageAnonExclusive(&folio->page))
		return HVA_REFUSED_MAPPING;
	/* MADV_FREE is not through: the TLB may allow to store without a fault. */
	if (mm_tlb_flush_pending(mm))
		return HVA_REFUSED_HOT;
	return HVA_VOLATILE;
}

/* Can the storage key remember the stores to a page, and nobody misses them? */
static bool may_track_by_key(struct folio *folio, struct vm_area_struct *vma,
			     pte_t pte)
{
	return page_hva_potential() && pte_write(pte) &&
	       !folio_test_large(folio) && PageAnonExclusive(&folio->page) &&
	       all_take_the_fault(vma->vm_mm) && !userfaultfd_armed(vma) &&
	       !vma_soft_dirty_enabled(vma);
}

/* Those that were before do not count. Returns the new pte. */
static pte_t track_by_key(struct folio *folio, struct vm_area_struct *vma,
			  unsigned long addr, pte_t *ptep)
{
	pte_t pte = ptep_get_and_clear(vma->vm_mm, addr, ptep);

	/* An idle folio stays idle. */
	if (maybe_volatile(folio))
		page_hva_make_stable_anon(folio);
	page_clear_dirty(&folio->page);
	pte = pte_mkdirty_in_key(pte_mkclean(pte));
	set_pte_at(vma->vm_mm, addr, ptep, pte);
	return pte;
}

bool __page_hva_lazyfree_pte(struct vm_area_struct *vma, unsigned long addr,
			     pte_t *ptep, struct folio *folio)
{
	pte_t pte = ptep_get(ptep);

	if (!may_track_by_key(folio, vma, pte))
		return false;
	/* Not if it was freed before and not used since. */
	if (!pte_dirty_in_key(pte) || page_test_dirty(&folio->page))
		track_by_key(folio, vma, addr, ptep);
	return true;
}

void __page_hva_keep_pinned(struct folio *folio)
{
	if (!folio_test_anon(folio))
		return;
	/* get_user_pages_fast() looks at the pte again when it has the pin. */
	smp_mb();
	if (!folio_maybe_dma_pinned(folio))
		return;
	page_hva_make_stable_anon(folio);
	folio_mark_dirty(folio);
}

/* The walk ends at the first pte: an exclusive page has no other one. */
static bool set_anon_volatile(struct folio *folio, struct vm_area_struct *vma,
			      unsigned long addr, void *arg)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, 0);
	enum vm_event_item *result = arg;
	pte_t pte;

	if (!page_vma_mapped_walk(&pvmw))
		return true;
	pte = ptep_get(pvmw.pte);
	*result = anon_pte_refuses(folio, vma, pte);
	if (*result == HVA_VOLATILE) {
		if (is_swapcache(folio) && may_track_by_key(folio, vma, pte) &&
		    !pte_dirty_in_key(pte))
			pte = track_by_key(folio, vma, pvmw.address, pvmw.pte);
		/* A store that comes now is in the key, or waits for the lock. */
		*result = set_mapped_volatile(folio, pte_dirty_in_key(pte));
	}
	page_vma_mapped_walk_done(&pvmw);
	return false;
}

static enum vm_event_item make_anon_volatile(struct folio *folio)
{
	enum vm_event_item result = HVA_REFUSED_REFS;
	struct rmap_walk_control rwc = {
		.rmap_one = set_anon_volatile,
		.arg = &result,
		.anon_lock = folio_lock_anon_vma_read,
		.try_lock = true,
	};

	if (is_swapcache(folio) && seems_referenced(folio))
		return HVA_REFUSED_REFS;
	rmap_walk(folio, &rwc);
	return rwc.contended ? HVA_REFUSED_HOT : result;
}

/*
 * The dirty bit in the storage key
 */

/*
 * Nobody can store to the page by way of a pte any more. If it is still
 * potentially volatile, the host need not ask the storage key from now on.
 */
static void page_hva_reset_write(struct folio *folio)
{
	unsigned long irqflags;

	if (folio_hva_state(folio) != FOLIO_VOLATILE)
		return;
	local_irq_save(irqflags);
	if (folio_hva_lock_volatile(folio)) {
		set_blocks_volatile(folio, false);
		folio_hva_set_state(folio, FOLIO_VOLATILE);
	}
	local_irq_restore(irqflags);
}
NOKPROBE_SYMBOL(page_hva_reset_write);

/**
 * page_hva_harvest_dirty - The dirty bit moves from the storage key to a pte.
 * @page: The page, a small folio that is mapped once.
 *
 * The page is stable before anybody forgets what the key says. The key keeps
 * its change bit: it is not asked again before page_clear_dirty().
 *
 * Context: The caller holds the page table lock and has made the pte invalid: no
 * CPU stores by way of it any more.
 * Return: True if the page has been stored to.
 */
bool page_hva_harvest_dirty(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (!page_test_dirty(page)) {
		page_hva_reset_write(folio);
		return false;
	}
	if (!page_hva_make_stable_anon(folio))
		VM_WARN_ON_ONCE_PAGE(true, page);
	return true;
}

/* Whoever takes a pte away finds the dirty bit in it: see ptep_harvest_key(). */
pte_t __ptep_harvest_dirty(struct mm_struct *mm, unsigned long addr, pte_t *ptep)
{
	pte_t pte = ptep_get_and_clear(mm, addr, ptep);

	set_pte_at(mm, addr, ptep, pte);
	return pte;
}

static enum vm_event_item make_volatile_locked(struct folio *folio)
{
	enum vm_event_item result;

	if (is_anon_candidate(folio))
		return make_anon_volatile(folio);
	if (!folio_refillable(folio))
		return HVA_REFUSED_MAPPING;
	/* Whoever found it discarded did not come back to read it. */
	if (!folio_test_uptodate(folio) && evict_locked(folio->mapping, folio))
		return HVA_EVICTED;
	result = flags_refuse(folio);
	if (result != HVA_VOLATILE)
		return result;
	if (seems_referenced(folio))
		return HVA_REFUSED_REFS;
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
		trace_page_hva_make_volatile(folio_mapping(folio), folio);
	folio_unlock(folio);
	return result;
}

/*
 * Switch
 */

static bool hva_off __ro_after_init;
static bool hva_lazyfree __initdata;
static bool hva_potential __initdata;
static bool hva_force __initdata;

static void __init set_stages(bool mapped, bool lazyfree, bool potential)
{
	hva_mapped = mapped;
	hva_lazyfree = lazyfree;
	hva_potential = potential;
}

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
			set_stages(false, false, false);
		} else if (!strcmp(option, "mapped")) {
			set_stages(true, false, false);
		} else if (!strcmp(option, "lazyfree")) {
			set_stages(true, true, false);
		} else if (!strcmp(option, "full")) {
			set_stages(true, true, true);
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
 * fault at boot so that only unused pages are hinted, "full" if memory can be
 * potentially volatile, "lazyfree" if lazily freed memory can be volatile,
 * "mapped" if mapped pages of files can, else "on".
 */
const char *page_hva_mode(void)
{
	if (!page_hva_is_active())
		return hva_off ? "off" : "unused";
	if (page_hva_potential())
		return "full";
	if (page_hva_lazyfree())
		return "lazyfree";
	return hva_mapped ? "mapped" : "on";
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
	if (hva_lazyfree)
		static_branch_enable(&page_hva_lazyfree_active);
	if (hva_potential)
		static_branch_enable(&page_hva_potential_active);
	pr_info("the host may drop clean page cache%s\n",
		hva_lazyfree ? " and lazily freed memory" : "");
}
