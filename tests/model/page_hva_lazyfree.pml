/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c for lazily freed memory: one small
 * anonymous page of one block, mapped by a process and, after a fork, by its
 * child. They store, load, and free it with MADV_FREE; one thread of the process
 * has the kernel or a device read it or write to it. Then there are the scanner, a
 * host that discards at any moment, reclaim, and KSM.
 *
 * As in page_hva_mapped.pml, names are those of the functions that are abstracted,
 * and each line is one atomic step; the barriers are argued in mm/page_hva.c.
 *
 * Checked: every load gives the last store, or zeros after MADV_FREE, and zeros
 * from then on; nobody but a user, who takes the discard fault, touches a
 * discarded block; nobody hangs; no fault is tried again for ever.
 *
 * The pte may be clean from the start though the page is needed, as that of a copy
 * that was made for a pin is: then the folio is dirty. A device need not mark what
 * it writes dirty (as io_uring's registered buffers do not).
 *
 * HARMLESS_CHANGES look like mistakes and are none, here:
 * get_user_pages_fast() may as well look at the state after the pte, since to make
 * this memory stable never fails. Who makes the folio dirty without the page table
 * lock has found a dirty pte.
 *
 * Each MISTAKE_* puts one mistake in; run.sh makes sure that it is found, by this
 * assertion:
 *
 *	MISTAKE_BUSY_BEFORE_PTL	invalid end state
 *	MISTAKE_COPY_NOT_DIRTY	freed[
 *	MISTAKE_DIRTY_FIRST	freed[
 *	MISTAKE_FAST_TAKES_CLEAN	freed[
 *	MISTAKE_IGNORES_DIRTY	freed[
 *	MISTAKE_IGNORES_PTE	freed[
 *	MISTAKE_IGNORES_REFS	block != Vz
 *	MISTAKE_IGNORES_SHARED	freed[
 *	MISTAKE_KSM_NO_TEST	block != Vz
 *	MISTAKE_NO_PTL	freed[
 *	MISTAKE_PINNED_NO_TEST	block != Vz
 *	MISTAKE_REUSE_NO_TEST	freed[
 *	MISTAKE_STORE_NO_TEST	freed[
 *	MISTAKE_SWAPBACKED_NO_TEST	block != Vz
 *	MISTAKE_TEST_BEFORE_REF	block != Vz
 */

#ifndef PASSES
#define PASSES	1	/* how often the scanner succeeds */
#endif
#define TRIES	8	/* enough for any fault; a loop takes more */

mtype = { Sr, Sz, Vr, Vz };			/* the block, as the host sees it */
mtype = { in_use, idle, is_volatile, busy };	/* the page, as the guest does */

mtype block = Sr;
mtype state = in_use;
bool locked = false;
bool swapbacked = true;
bool pg_dirty = false;
bool exclusive = true;		/* PageAnonExclusive() */
bool is_free = false;		/* the allocator has it */
byte refs = 1;
byte mapcount = 1;
byte pins = 0;
byte content = 1;		/* of the block; 0: zeros */

/* The process and its child */
bool pte[2] = { true, false };
bool pte_write[2] = { true, false };
bool pte_dirty[2] = { true, false };
bool ptl[2];
bool own[2];			/* another page, which is stable */
byte own_val[2];
byte want[2] = { 1, 0 };	/* the last store, or 0 */
bool freed[2];			/* since then: zeros will do */
bool forked = false;
byte passes = 0;
byte done = 0;			/* processes */

/* An access to the content that is not through a page table of a user. */
inline access() {
	assert(block != Vz && !is_free);
	if
	:: block == Sz -> block = Sr
	:: else
	fi
}

inline set_stable() {
	if
	:: block == Vr -> block = Sr
	:: block == Vz -> block = Sz; content = 0
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

inline try_get(ok) {
	atomic {
		ok = refs > 0;
		if
		:: ok -> refs++
		:: else
		fi
	}
}

/* __page_hva_make_stable(), make_stable_busy() */
inline make_stable(intact) {
	if
	:: atomic { state == is_volatile -> state = busy };
		atomic {
			intact = (block != Vz);
			if
			:: block == Vr -> block = Sr
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

inline unmap_one(m) {
	atomic { !ptl[m] -> ptl[m] = true };
	if
	:: pte[m] -> atomic { pte[m] = false; mapcount-- }; put()
	:: else
	fi;
	unlock(ptl[m])
}

inline try_again() { tries++; assert(tries < TRIES) }

/* A load by a user. No pte: the page of zeros. */
inline load(m, intact) {
	tries = 0;
	do
	:: atomic { pte[m] && block != Vz -> access(); check(m, content) }; break
	:: pte[m] && block == Vz -> make_stable(intact); try_again()	/* page_hva_fault() */
	:: atomic { !pte[m] && !ptl[m] && own[m] -> check(m, own_val[m]) }; break
	:: atomic { !pte[m] && !ptl[m] && !own[m] -> check(m, 0) }; break
	od
}

/* do_wp_page(), with the ptl */
inline wp_page(m, intact) {
	if
	:: exclusive || (refs == 1 && !locked) ->
		exclusive = true;
#ifndef MISTAKE_REUSE_NO_TEST
		make_stable(intact);
#endif
		atomic { pte_write[m] = true; pte_dirty[m] = true };
		unlock(ptl[m])
	:: else ->
		refs++;
		make_stable(intact);
		unlock(ptl[m]);
		atomic { access(); copy = content };
		lock(ptl[m]);
		if
		:: pte[m] -> atomic { own_val[m] = copy; own[m] = true; pte[m] = false; mapcount-- }; put()
		:: else
		fi;
		unlock(ptl[m]);
		put()
	fi
}

inline handle_store_fault(m, intact) {
	lock(ptl[m]);
	if
	:: pte[m] && pte_write[m] ->
#ifdef MISTAKE_DIRTY_FIRST
		pte_dirty[m] = true;
		make_stable(intact);
#else
#ifndef MISTAKE_STORE_NO_TEST
		make_stable(intact);
#endif
		pte_dirty[m] = true;
#endif
		unlock(ptl[m])
	:: pte[m] && !pte_write[m] -> wp_page(m, intact)
	:: !pte[m] ->
		if
		:: !own[m] -> own_val[m] = 0; own[m] = true	/* do_anonymous_page() */
		:: else
		fi;
		unlock(ptl[m])
	fi
}

/* A store to a part of the page: look at the rest, too. */
inline store(m, intact) {
	tries = 0;
	do
	:: atomic { pte[m] && pte_write[m] && pte_dirty[m] && block != Vz ->
		access(); check(m, content);
		content = content % 2 + 1; want[m] = content; freed[m] = false }; break
	:: pte[m] && pte_write[m] && pte_dirty[m] && block == Vz ->
		make_stable(intact); try_again()
	:: atomic { !pte[m] && !ptl[m] && own[m] -> check(m, own_val[m]);
		own_val[m] = own_val[m] % 2 + 1; want[m] = own_val[m]; freed[m] = false }; break
	:: (pte[m] && !(pte_write[m] && pte_dirty[m])) || (!pte[m] && !own[m]) ->
		handle_store_fault(m, intact); try_again()
	od
}

/* madvise_free_pte_range(), folio_mark_lazyfree() */
inline madv_free(m) {
	lock(ptl[m]);
	if
	:: pte[m] && pg_dirty ->
		if
		:: atomic { !locked -> locked = true };
			if
			:: mapcount == 1 ->
				atomic { pg_dirty = false; freed[m] = true };
				atomic { pte_dirty[m] = false; freed[m] = true };
				swapbacked = false
			:: else
			fi;
			unlock(locked)
		:: locked
		fi
	:: pte[m] && !pg_dirty ->
		atomic { pte_dirty[m] = false; freed[m] = true };
		swapbacked = false
	:: !pte[m]
	fi;
	unlock(ptl[m])
}

/* A device stores, and the thread that asked for it waits. */
inline device_store(m) {
	atomic { access(); check(m, content) };
	atomic { access(); content = content % 2 + 1;
		want[m] = content; freed[m] = false };
	if
	:: pg_dirty = true
	:: true
	fi
}

inline make_stable_fast(intact) {
	if
	:: state != in_use -> make_stable(intact)
	:: else
	fi
}

/* follow_page_pte(), pinned; marks the folio dirty if its pte is clean */
inline gup(m, intact) {
	lock(ptl[m]);
	if
	:: pte[m] && pte_write[m] ->
		refs++; pins++;
		make_stable(intact);
		if
		:: !pte_dirty[m] -> pg_dirty = true
		:: else
		fi;
		unlock(ptl[m]);
		device_store(m);
		pins--; put()
	:: else -> unlock(ptl[m])
	fi
}

/*
 * gup_fast_pte_range(), pinned. That it looks for clean ptes is what makes users
 * harmless who do not mark dirty what they write.
 */
#ifdef MISTAKE_FAST_TAKES_CLEAN
#define fast_takes(m)	(pte[m] && pte_write[m] && exclusive)
#else
#define fast_takes(m)	(pte[m] && pte_write[m] && pte_dirty[m] && exclusive)
#endif

inline gup_fast(m, intact, ok) {
	ok = fast_takes(m);
	if
	:: ok -> try_get(ok)
	:: else
	fi;
	if
	:: ok ->
		pins++;
#ifndef HARMLESS_CHANGES
		make_stable_fast(intact);
#endif
		ok = fast_takes(m);
#ifdef HARMLESS_CHANGES
		make_stable_fast(intact);
#endif
		if
		:: ok -> device_store(m)
		:: else
		fi;
		pins--; put()
	:: else
	fi
}

/* FAULT_FLAG_UNSHARE: for a pin for reading, which leaves the pte clean */
inline unshare(m, intact) {
	lock(ptl[m]);
	if
	:: pte[m] && !exclusive && refs == 1 && !locked ->
		exclusive = true;
		make_stable(intact);
		unlock(ptl[m])
	:: else -> unlock(ptl[m])
	fi
}

inline inherit() { want[1] = want[0]; freed[1] = freed[0] }

/* copy_present_ptes() */
inline do_fork(intact) {
	lock(ptl[0]);
	if
	:: pte[0] && pins > 0 && exclusive ->			/* copy_present_page() */
#ifndef MISTAKE_PINNED_NO_TEST
		make_stable(intact);
#endif
		atomic { access(); own_val[1] = content; own[1] = true; inherit() }
	:: pte[0] && !(pins > 0 && exclusive) ->
		refs++;
		atomic { mapcount++; exclusive = false; pte_write[0] = false;
			pte[1] = true; pte_write[1] = false; pte_dirty[1] = pte_dirty[0];
			inherit() }
	:: !pte[0] -> atomic { own_val[1] = own_val[0]; own[1] = own[0]; inherit() }
	fi;
	unlock(ptl[0]);
	forked = true
}

/* The process */
active proctype parent() {
	bool intact, ok;
	byte tries, copy;

	if
	:: atomic { pte_dirty[0] = false; pte_write[0] = false;	/* a copy for a pin: wp_page_copy() */
#ifndef MISTAKE_COPY_NOT_DIRTY
		pg_dirty = true
#endif
		}
	:: true
	fi;
	if
	:: do_fork(intact)
	:: true
	fi;
	madv_free(0);
	if
	:: !forked -> do_fork(intact)
	:: true
	fi;
	if
	:: store(0, intact)
	:: gup_fast(0, intact, ok)
	:: gup(0, intact)
	:: true
	fi;
	load(0, intact);
	unmap_one(0);						/* zap_pte_range() */
	forked = true;
	atomic { intact = false; ok = false; tries = 0; copy = 0; done++ }	/* fewer states */
}

active proctype child() {
	bool intact;
	byte tries, copy;

	forked;
	if
	:: load(1, intact)
	:: store(1, intact)
	:: madv_free(1)
	:: unshare(1, intact)
	fi;
	load(1, intact);
	unmap_one(1);
	atomic { intact = false; tries = 0; copy = 0; done++ }
}

/* set_anon_volatile(), anon_pte_refuses(), set_mapped_volatile(), busy_folio_refuses() */
inline set_anon_volatile(m) {
#ifndef MISTAKE_NO_PTL
#ifdef MISTAKE_BUSY_BEFORE_PTL
	if
	:: atomic { state == idle -> state = busy }
	:: state != idle -> goto out
	fi;
#endif
	lock(ptl[m]);
#endif
	ok = pte[m];
#ifndef MISTAKE_IGNORES_PTE
	ok = ok && !pte_dirty[m];
#endif
#ifndef MISTAKE_IGNORES_SHARED
	ok = ok && exclusive;
#endif
#ifndef MISTAKE_BUSY_BEFORE_PTL
	if
	:: ok ->
		if
		:: atomic { state == idle -> state = busy }
		:: state != idle -> goto refused
		fi
	:: else -> goto refused
	fi;
#endif
#ifdef HARMLESS_CHANGES
	ok = ok && !pg_dirty;
#endif
#ifndef MISTAKE_IGNORES_REFS
	ok = ok && refs == mapcount + 1;
#endif
#ifndef HARMLESS_CHANGES
#ifndef MISTAKE_IGNORES_DIRTY
	ok = ok && !pg_dirty;
#endif
#endif
	if
	:: ok && !swapbacked ->
		atomic {
			if
			:: block == Sr -> block = Vr
			:: block == Sz -> block = Vz
			fi;
			passes++
		}
		state = is_volatile
	:: else -> state = idle
	fi;
refused: skip;
#ifndef MISTAKE_NO_PTL
	unlock(ptl[m])
#endif
}

/* page_hva_make_volatile(), or set idle */
active proctype scanner() {
	bool ok;
	byte m;

	do
	:: done == 3 || passes == PASSES -> break
	:: atomic { passes < PASSES && refs > 0 && state == in_use && !swapbacked -> state = idle }
	:: atomic { passes < PASSES && refs > 0 && state == idle && !swapbacked &&
		!locked -> refs++; locked = true };		/* folio_trylock() */
		if						/* the rmap walk */
		:: pte[0] -> m = 0
		:: !pte[0] && pte[1] -> m = 1
		:: else -> goto out
		fi;
		set_anon_volatile(m);
out:		unlock(locked);
		put()
	od
}

/* The host: Vr -> Vz whenever it likes. */
active proctype host() {
end:	do
	:: d_step { block == Vr -> block = Vz; content = 0 }
	:: done == 3 && block != Vr -> break
	od
}

/* try_to_unmap_one() */
inline reclaim_one(m) {
	lock(ptl[m]);
	if
	:: pte[m] ->
		pte[m] = false;					/* ptep_clear_flush() */
		if
		:: pte_dirty[m] -> pg_dirty = true
		:: else
		fi;
		if
		:: atomic { !swapbacked && refs == 1 + mapcount && !pg_dirty -> mapcount-- }; put()
		:: else ->
#ifndef MISTAKE_SWAPBACKED_NO_TEST
			make_stable(intact);
#endif
			pte[m] = true;
			swapbacked = true
		fi
	:: else
	fi;
	unlock(ptl[m])
}

/* One of those who come to the page otherwise; all but the first only look at it */
active proctype other() {
	bool intact, ok;

	if
	:: atomic { pte[0] && pte_write[0] && pte_dirty[0] && block != Vz ->
		access(); check(0, content);			/* a thread of the process */
		content = content % 2 + 1; want[0] = content; freed[0] = false }
	:: lock(ptl[0]);					/* ksm_next_page_pmd_entry() */
		if
		:: pte[0] ->
			refs++;
#ifndef MISTAKE_KSM_NO_TEST
			make_stable(intact);
#endif
			unlock(ptl[0]);
			access();
			put()
		:: else -> unlock(ptl[0])
		fi
	:: pte[0] && exclusive;				/* gup_fast_pte_range(), by a thread */
#ifdef MISTAKE_TEST_BEFORE_REF
		make_stable_fast(intact);
#endif
		try_get(ok);
		if
		:: !ok -> goto out
		:: ok -> pins++
		fi;
		if
		:: true ->
#ifndef MISTAKE_TEST_BEFORE_REF
			make_stable_fast(intact);
#endif
			if
			:: pte[0] && exclusive -> access()
			:: else
			fi
		fi;
		pins--;
		put()
	:: atomic { !locked && refs > 0 && mapcount > 0 -> refs++; locked = true };
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
	:: true
	fi;
out:	atomic { intact = false; ok = false; done++ }
}
