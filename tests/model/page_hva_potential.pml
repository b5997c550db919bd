/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c for potentially volatile memory: one small
 * anonymous page of one block, mapped by a process whose pte may have its dirty bit
 * in the storage key, and after a fork by its child. Two threads of the process
 * store, load, free the page with MADV_FREE, and have a device write to it. Its pte
 * is taken away and put back (mprotect(), mremap(), migration, KSM). Then there are
 * the scanner, a host that discards or pages out at any moment, and reclaim.
 *
 * As in page_hva_lazyfree.pml, names are those of the functions that are
 * abstracted, and each line is one atomic step; the barriers are argued in
 * mm/page_hva.c. Of the machine it is assumed that a store and its change bit are
 * one step, and what the host does to a block another; and that nobody stores by
 * way of a pte that was made invalid: it is flushed from the TLB, or only this CPU
 * has it there, which flushes it before it runs the process again.
 *
 * Checked: every load gives the last store, or zeros after MADV_FREE, and zeros
 * from then on; MADV_FREE gives up what was stored before it took the pte away,
 * and nothing that is stored later; nobody but a user, who takes the discard fault,
 * touches a discarded block; a volatile page is neither dirty nor swap backed;
 * nobody hangs; no fault is tried again for ever.
 *
 * A device need not mark what it writes dirty (as io_uring's registered buffers do
 * not); it has pinned a dirty pte, and knows if MADV_FREE came after that.
 *
 * HARMLESS_CHANGES look like mistakes and are none: the scanner does not look at the
 * change bit, since the host does; page_hva_reset_write() is left out; and
 * page_clear_dirty() comes before the page is stable, since by then whoever needs
 * what the change bit protects has harvested it.
 *
 * OPEN_FAST_TAKES_CLEAN is harmless here (5.9 million states); not part of the check.
 *
 * Each MISTAKE_* puts one mistake in; run.sh makes sure that it is found, by this
 * assertion:
 *
 *	MISTAKE_CLEAR_LAST	freed[
 *	MISTAKE_CLEAR_WHILE_VALID	freed[
 *	MISTAKE_FORK_NO_HARVEST	freed[
 *	MISTAKE_FREE_NOT_STABLE	freed[
 *	MISTAKE_GUP_NO_TEST	block != Vz
 *	MISTAKE_HARVEST_NOT_STABLE	!(swapbacked)&&!(pg_dirty)
 *	MISTAKE_HARVEST_WHILE_VALID	freed[
 *	MISTAKE_HOST_NOT_ATOMIC	freed[
 *	MISTAKE_IGNORES_DIRTY	!(swapbacked)&&!(pg_dirty)
 *	MISTAKE_IGNORES_REFS	!(swapbacked)&&!(pg_dirty)
 *	MISTAKE_MPROTECT_NO_HARVEST	freed[
 *	MISTAKE_RESET_WHEN_CHANGED	freed[
 *	MISTAKE_VOLATILE_BY_KEY	freed[
 */

#ifndef PASSES
#define PASSES	1	/* how often the scanner succeeds */
#endif
#define TRIES	8	/* enough for any fault; a loop takes more */

mtype = { Sr, Sp, Sz, Vr, Vz, Pr };		/* the block, as the host sees it */
mtype = { in_use, idle, is_volatile, busy };	/* the page, as the guest does */
mtype = { none, clean, dirty, in_key };		/* a pte, and where its dirty bit is */

mtype block = Sr;
bool changed = true;		/* the change bit of its storage key */
mtype state = in_use;
bool locked = false;
bool swapbacked = true;
bool pg_dirty = false;
bool exclusive = true;		/* PageAnonExclusive() */
bool is_free = false;		/* the allocator has it */
byte refs = 1;
byte mapcount = 1;
byte content = 1;		/* of the block; 0: zeros */

/* The process and its child */
mtype pte[2] = { dirty, none };
bool pte_write[2] = { true, false };
bool ptl[2];
bool own[2];			/* another page, which is stable */
byte own_val[2];
byte want[2] = { 1, 0 };	/* the last store, or 0 */
bool freed[2];			/* since then: zeros will do */
bool freed_again = false;	/* while a device was at work */
bool forked = false;
bool threads = true;		/* may another thread be at work? */
byte passes = 0;
byte done = 0;			/* processes */

/* An access to the content that is not through a page table of a user. */
inline access() {
	assert(block != Vz && !is_free);
	if
	:: block == Sp || block == Sz -> block = Sr
	:: else
	fi
}

inline store_content(m) {
	content = content % 2 + 1;
	changed = true;
	want[m] = content;
	freed[m] = false
}

/* ESSA 1, 3 and 4 */
inline set_stable() {
	if
	:: block == Vr || block == Pr -> block = Sr
	:: block == Vz -> block = Sz
	:: else
	fi
}

inline set_volatile() {
	if
	:: block == Sr || block == Pr -> block = Vr
	:: block == Sp || block == Sz -> block = Vz; content = 0
	:: else
	fi
}

inline set_potentially_volatile() {
	if
	:: block == Sr || block == Vr -> block = Pr
	:: block == Sz || (block == Sp && !changed) -> block = Vz; content = 0
	:: else
	fi
}

inline lock(x)   { atomic { !x -> x = true } }
inline unlock(x) { x = false }

/* What a process, or the kernel for it, has found in its memory. */
inline check(m, v) {
	if
	:: v == want[m]
	:: v != want[m] -> assert(freed[m] && v == 0); want[m] = 0
	fi
}

inline put() {
	atomic {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 -> assert(mapcount == 0); set_stable(); is_free = true
		:: else
		fi
	}
}

/* __page_hva_make_stable(), make_stable_busy() */
inline make_stable(intact) {
	if
	:: atomic { state == is_volatile -> state = busy; assert(!swapbacked && !pg_dirty) };
		atomic {					/* ESSA 6 */
			intact = (block != Vz);
			if
			:: intact -> set_stable()
			:: else
			fi
		}
		if
		:: !intact -> atomic { set_stable() }
		:: else
		fi;
		state = in_use
	:: atomic { state == idle -> state = in_use }
	:: atomic { state == in_use -> skip }
	fi	/* busy: no guard is true, wait */
}

/* page_hva_reset_write() */
inline reset_write() {
	if
	:: atomic { state == is_volatile -> state = busy };
		atomic { set_volatile() };
		state = is_volatile
	:: else
	fi
}

/* ptep_harvest_key(), for a pte that was "old" and is invalid now */
inline harvest_key(old, intact) {
	if
	:: old == in_key && changed ->
#ifdef MISTAKE_RESET_WHEN_CHANGED
		reset_write();
#else
#ifndef MISTAKE_HARVEST_NOT_STABLE
		make_stable(intact);
#endif
#endif
		old = dirty
	:: old == in_key && !changed ->
#ifndef HARMLESS_CHANGES
		reset_write();
#endif
		old = clean
	:: else
	fi
}

/* ptep_get_and_clear(), ptep_clear_flush(), ptep_modify_prot_start() */
inline get_and_clear(m, old, intact) {
#ifdef MISTAKE_HARVEST_WHILE_VALID
	old = pte[m];
	harvest_key(old, intact);
	pte[m] = none
#else
	atomic { old = pte[m]; pte[m] = none };
	harvest_key(old, intact)
#endif
}

inline unmap_one(m) {
	lock(ptl[m]);
	if
	:: pte[m] != none -> atomic { pte[m] = none; mapcount-- }; put()
	:: else
	fi;
	unlock(ptl[m])
}

inline try_again() { tries++; assert(tries < TRIES) }

/* A load by a user. No pte: the page of zeros. */
inline load(m, intact) {
	tries = 0;
	do
	:: atomic { pte[m] != none && block != Vz -> access(); check(m, content) }; break
	:: pte[m] != none && block == Vz -> make_stable(intact); try_again()	/* page_hva_fault() */
	:: atomic { pte[m] == none && !ptl[m] && own[m] -> check(m, own_val[m]) }; break
	:: atomic { pte[m] == none && !ptl[m] && !own[m] -> check(m, 0) }; break
	od
}

/* do_wp_page(), with the ptl */
inline wp_page(m, intact) {
	if
	:: exclusive || (refs == 1 && !locked) ->
		exclusive = true;
		make_stable(intact);
		atomic { pte_write[m] = true; pte[m] = dirty };
		unlock(ptl[m])
	:: else ->
		refs++;
		make_stable(intact);
		unlock(ptl[m]);
		atomic { access(); copy = content };
		lock(ptl[m]);
		if
		:: pte[m] != none && !pte_write[m] ->
			atomic { own_val[m] = copy; own[m] = true; pte[m] = none; mapcount-- };
			put()
		:: else
		fi;
		unlock(ptl[m]);
		put()
	fi
}

/* handle_pte_fault(), do_anonymous_page() */
inline handle_store_fault(m, intact) {
	lock(ptl[m]);
	if
	:: pte[m] == clean && pte_write[m] ->
		make_stable(intact);
		pte[m] = dirty;
		unlock(ptl[m])
	:: pte[m] != none && !pte_write[m] -> wp_page(m, intact)
	:: pte[m] == none && !own[m] -> own_val[m] = 0; own[m] = true; unlock(ptl[m])
	:: else -> unlock(ptl[m])
	fi
}

/* A store to a part of the page: look at the rest, too. */
inline store(m, intact) {
	tries = 0;
	do
	:: atomic { pte_write[m] && (pte[m] == dirty || pte[m] == in_key) && block != Vz ->
		access(); check(m, content); store_content(m) }; break
	:: pte_write[m] && (pte[m] == dirty || pte[m] == in_key) && block == Vz ->
		make_stable(intact); try_again()
	:: atomic { pte[m] == none && !ptl[m] && own[m] -> check(m, own_val[m]);
		own_val[m] = own_val[m] % 2 + 1; want[m] = own_val[m]; freed[m] = false }; break
	:: pte[m] == clean || (pte[m] != none && !pte_write[m]) || (pte[m] == none && !own[m]) ->
		handle_store_fault(m, intact); try_again()
	od
}

/* page_clear_dirty(): iske, sske */
inline clear_dirty(iske) {
	iske = changed;
	if
	:: iske -> changed = false
	:: else
	fi
}

/* page_hva_lazyfree_pte(), track_by_key() */
inline lazyfree_pte(m, old, intact, iske) {
	if
	:: atomic { pte[m] == in_key && !changed -> freed[m] = true; freed_again = true }
	:: else ->
#ifdef MISTAKE_CLEAR_WHILE_VALID
		clear_dirty(iske);
#endif
		atomic { old = pte[m]; pte[m] = none; freed[m] = true; freed_again = true };
		harvest_key(old, intact);
#ifdef HARMLESS_CHANGES
		clear_dirty(iske);
		make_stable(intact);
#else
#ifndef MISTAKE_FREE_NOT_STABLE
		make_stable(intact);
#endif
#ifndef MISTAKE_CLEAR_WHILE_VALID
#ifndef MISTAKE_CLEAR_LAST
		clear_dirty(iske);
#endif
#endif
#endif
		pte[m] = in_key;
#ifdef MISTAKE_CLEAR_LAST
		clear_dirty(iske)
#endif
	fi
}

/* madvise_free_pte_range(), folio_mark_lazyfree() */
inline madv_free(m, old, intact, ok, iske) {
	freed[m] = true;
	lock(ptl[m]);
	ok = pte[m] != none;
	if
	:: ok && pg_dirty ->
		if
		:: atomic { !locked -> locked = true };
			if
			:: mapcount == 1 -> pg_dirty = false
			:: else -> ok = false
			fi;
			unlock(locked)
		:: locked -> ok = false
		fi
	:: else
	fi;
	if
	:: ok -> lazyfree_pte(m, old, intact, iske); swapbacked = false
	:: else
	fi;
	unlock(ptl[m])
}

/*
 * gup_fast_pte_range(), by a thread. A store by the device makes the page dirty
 * when it is done, or not at all.
 */
#ifdef OPEN_FAST_TAKES_CLEAN
#define fast_takes(m)	(pte[m] != none && pte_write[m] && exclusive)
#else
#define fast_takes(m)	(pte[m] == dirty && pte_write[m] && exclusive)
#endif

inline gup_fast(m, intact) {
	if
	:: atomic { fast_takes(m) && refs > 0 -> refs++; freed_again = false };
		if
		:: state != in_use -> make_stable(intact)	/* page_hva_make_stable_fast() */
		:: else
		fi;
		if
		:: fast_takes(m) ->
			atomic { access(); check(m, content) };
			if
			:: atomic { access(); store_content(m) };
				pg_dirty = true
			:: atomic { access(); ok = freed[m] && freed_again;
				store_content(m); freed[m] = ok }
			fi
		:: else
		fi;
		put()
	:: else
	fi
}

/* The same for reading */
inline gup_fast_read(m, intact) {
	if
	:: atomic { pte[m] != none && refs > 0 -> refs++ };
#ifndef MISTAKE_GUP_NO_TEST
		if
		:: state != in_use -> make_stable(intact)
		:: else
		fi;
#endif
		if
		:: pte[m] != none -> atomic { access(); check(m, content) }
		:: else
		fi;
		put()
	:: else
	fi
}

/* copy_present_ptes() */
inline do_fork(old, intact) {
	lock(ptl[0]);
	if
	:: pte[0] != none ->
#ifdef MISTAKE_FORK_NO_HARVEST
		atomic {
			if
			:: pte[0] == in_key -> pte[0] = clean
			:: else
			fi
		}
#else
		get_and_clear(0, old, intact);			/* ptep_harvest_dirty() */
		pte[0] = old;
#endif
		refs++;
		atomic { mapcount++; exclusive = false; pte_write[0] = false;
			pte[1] = pte[0]; want[1] = want[0]; freed[1] = freed[0] }
	:: else -> atomic { own_val[1] = own_val[0]; own[1] = own[0];
			want[1] = want[0]; freed[1] = freed[0] }
	fi;
	unlock(ptl[0]);
	forked = true
}

/* The process */
active proctype parent() {
	bool intact, ok, iske;
	byte tries, copy;
	mtype old;

	if
	:: true
	:: atomic { pte[0] == dirty && !ptl[0] && !locked && refs == 1 && !pg_dirty ->
		pte[0] = clean; swapbacked = false;		/* freed before, otherwise */
		freed[0] = true; set_volatile(); state = is_volatile }
	fi;
	madv_free(0, old, intact, ok, iske);
	if
	:: store(0, intact)
	:: true
	fi;
	if
	:: !threads -> do_fork(old, intact);
		if
		:: store(0, intact)
		:: true
		fi
	:: gup_fast(0, intact)
	:: true
	fi;
	load(0, intact);
	forked = true;
	!threads;
	unmap_one(0);						/* zap_pte_range() */
	atomic { intact = false; ok = false; iske = false; tries = 0; copy = 0; old = none; done++ }
}

active proctype child() {
	bool intact;
	byte tries, copy;

	forked;
	if
	:: pte[1] == none
	:: else ->
		if
		:: load(1, intact)
		:: store(1, intact)
		fi;
		load(1, intact);
		unmap_one(1)
	fi;
	atomic { intact = false; tries = 0; copy = 0; done++ }
}

/* set_anon_volatile(), anon_pte_refuses(), set_mapped_volatile(), busy_folio_refuses() */
inline set_anon_volatile(m) {
	lock(ptl[m]);
	ok = pte[m] != none && pte[m] != dirty && exclusive;
#ifndef HARMLESS_CHANGES
	ok = ok && !(pte[m] == in_key && changed);		/* pte_maybe_dirty() */
#endif
	if
	:: ok ->
		if
		:: atomic { state == idle -> state = busy }
		:: state != idle -> goto refused
		fi
	:: else -> goto refused
	fi;
#ifndef MISTAKE_IGNORES_REFS
	ok = ok && refs == mapcount + 1;
#endif
#ifndef MISTAKE_IGNORES_DIRTY
	ok = ok && !pg_dirty;
#endif
	if
	:: ok && !swapbacked ->
		atomic {
			if
#ifndef MISTAKE_VOLATILE_BY_KEY
			:: pte[m] == in_key -> set_potentially_volatile()
			:: else -> set_volatile()
#else
			:: set_volatile()
#endif
			fi;
			passes++
		}
		state = is_volatile
	:: else -> state = idle
	fi;
refused: unlock(ptl[m])
}

/* page_hva_make_volatile(), or set idle */
active proctype scanner() {
	bool ok;

	do
	:: done == 3 || passes == PASSES -> break
	:: atomic { passes < PASSES && refs > 0 && state == in_use && !swapbacked -> state = idle }
	:: atomic { passes < PASSES && refs > 0 && state == idle && !swapbacked &&
		!locked -> refs++; locked = true };		/* folio_trylock() */
		set_anon_volatile(0);
		unlock(locked);
		put()
	od
}

/* The host: drops what it may, and pages out what it has to keep. */
active proctype host() {
end:	do
	:: d_step { block == Vr -> block = Vz; content = 0 }
#ifdef MISTAKE_HOST_NOT_ATOMIC
	:: block == Pr && !changed ->
		if
		:: d_step { block == Pr -> block = Vz; content = 0 }
		:: block != Pr
		fi
#else
	:: d_step { block == Pr && !changed -> block = Vz; content = 0 }
#endif
	:: d_step { block == Pr && changed -> block = Sp }
	:: d_step { block == Sr && state == busy -> block = Sp }	/* when it matters */
	:: done == 3 && block != Vr && block != Pr -> break
	od
}

/* try_to_unmap_one() */
inline reclaim_one(m) {
	lock(ptl[m]);
	if
	:: pte[m] != none ->
		get_and_clear(m, old, intact);
		if
		:: old == dirty -> pg_dirty = true
		:: else
		fi;
		if
		:: atomic { !swapbacked && refs == 1 + mapcount && !pg_dirty -> mapcount-- }; put()
		:: else ->
			make_stable(intact);
			pte[m] = old;
			swapbacked = true
		fi
	:: else
	fi;
	unlock(ptl[m])
}

/* What else happens to the page, one of these */
active proctype other() {
	bool intact, ok, iske;
	byte tries, copy;
	mtype old;

	if
	:: store(0, intact); threads = false			/* a thread of the process */
	:: true; gup_fast(0, intact); threads = false
	:: true; gup_fast_read(0, intact); threads = false
	:: madv_free(0, old, intact, ok, iske); threads = false
	:: atomic { !ptl[0] -> threads = false; ptl[0] = true };
		if						/* change_pte_range() and others */
		:: pte[0] != none ->
#ifdef MISTAKE_MPROTECT_NO_HARVEST
			atomic {
				if
				:: pte[0] == in_key -> pte[0] = clean
				:: else
				fi
			}
#else
			get_and_clear(0, old, intact);
			pte[0] = old
#endif
		:: else
		fi;
		unlock(ptl[0])
	:: atomic { !locked && refs > 0 && mapcount > 0 ->
		threads = false; refs++; locked = true };
		reclaim_one(0);					/* shrink_folio_list() */
		if
		:: !swapbacked -> reclaim_one(1)
		:: else
		fi;
		unlock(locked);
		put();
		if						/* and again, to swap */
		:: atomic { swapbacked && !locked && refs > 0 && mapcount > 0 -> refs++; locked = true };
			access();
			unlock(locked);
			put()
		:: true
		fi
	:: threads = false
	fi;
	atomic { intact = false; ok = false; iske = false; tries = 0; copy = 0; old = none; done++ }
}
