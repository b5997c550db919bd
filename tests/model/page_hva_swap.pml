/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c for memory that can be read again from a
 * swap slot: one small anonymous page of one block, clean in the swap cache, mapped
 * by a process, and after a fork by its child. They load, store, and have a device
 * write. Then there are the scanner, a host that discards at any moment, and one of
 * these: another thread, reclaim, swapoff, somebody who is short of slots.
 *
 * As in page_hva_potential.pml, names are those of the functions that are
 * abstracted, and each line is one atomic step. There is only one folio: while
 * anybody has a reference to what is not in the swap cache any more, reading it
 * again waits. Whoever gets the page from its pte does not pin it (FOLL_GET): a pin
 * would keep it mapped. Preserved blocks are in the other model.
 *
 * The rules: what was discarded stays volatile as long as it is in the swap cache.
 * It is removed under the folio lock, after its ptes have become swap entries.
 * Whoever has found it by its entry looks under the folio lock whether it still is
 * in the swap cache; whoever has found it by its pte without a lock tests the state,
 * and only then looks whether the pte still is there. Nobody frees a slot, or maps
 * what was found by its entry, before the folio is stable.
 *
 * Checked: every load gives the last store; nobody but a user, who takes the discard
 * fault, touches a discarded block; nobody maps a page that is not uptodate, which
 * would be SIGBUS; nobody hangs; no fault is tried again for ever, nor does swapoff.
 *
 * A device need not mark what it writes dirty (as io_uring's registered buffers do
 * not); it has got a dirty pte.
 *
 * OPEN_IGNORES_DIRTY is harmless here (13.3 million states); not part of the check.
 *
 * Each MISTAKE_* puts one mistake in; run.sh makes sure that it is found, by this
 * assertion:
 *
 *	MISTAKE_FAST_TAKES_CLEAN	content==want
 *	MISTAKE_FREE_SLOT_FIRST	content==want
 *	MISTAKE_FREE_SLOT_NO_TEST	tries<12
 *	MISTAKE_GUP_NO_TEST	block != Vz
 *	MISTAKE_GUP_TESTS_LAST	content==want
 *	MISTAKE_IGNORES_REFS	block != Vz
 *	MISTAKE_RECLAIM_SWAP_NO_TEST	!(pg_dirty)
 *	MISTAKE_SWAPOFF_NO_RECHECK	content==want
 *	MISTAKE_SWAPOFF_ONLY_RETRIES	tries<12
 *	MISTAKE_SWAP_IN_NO_TEST	content==want
 *	MISTAKE_UPTODATE_CLEARED	uptodate
 *	MISTAKE_ZEROS	content==want
 */

#ifndef PASSES
#define PASSES	1	/* how often the scanner succeeds */
#endif
#define FAILS	1	/* how often somebody pins it and gives up: not unmapped */
#define TRIES	12	/* enough for any fault; a loop takes more */
#define GARBAGE	9	/* a slot that was freed belongs to somebody else */

mtype = { Sr, Sz, Vr, Vz, Pr };			/* the block, as the host sees it */
mtype = { in_use, idle, is_volatile, busy };	/* the folio, as the guest does */
mtype = { none, swapped, clean, dirty, in_key };	/* a pte */

mtype block = Sr;
bool changed = true;		/* the change bit of its storage key */
byte content = 1;		/* of the block; 0: zeros */
mtype state = in_use;
bool locked = false;
bool in_cache = true;		/* the swap cache */
bool uptodate = true;
bool pg_dirty = false;
bool exclusive = true;		/* PageAnonExclusive() */
bool is_free = false;		/* the allocator has it */
byte refs = 2;			/* the swap cache, one pte */
byte mapcount = 1;

byte slot = 1;			/* what is in it */
byte count = 0;			/* ptes that refer to it, see swap_map */
bool has_cache = true;		/* SWAP_HAS_CACHE */

/* The process and its child */
mtype pte[2] = { clean, none };
bool pte_write[2] = { true, false };
bool pte_exclusive[2];		/* pte_swp_exclusive() */
bool ptl[2];
bool own[2];			/* another page, which is stable */
byte own_val[2];
byte want[2] = { 1, 0 };	/* the last store */
bool forked = false;
bool may_fork = false;		/* the process has one thread */
byte passes = 0;
byte fails = 0;
byte done = 0;			/* processes */

#define mapped(m)	(pte[m] == clean || pte[m] == dirty || pte[m] == in_key)
#define stores(m)	(pte_write[m] && (pte[m] == dirty || pte[m] == in_key))

/* An access to the content that is not through a page table of a user. */
inline access() {
	assert(block != Vz && !is_free);
	if
	:: block == Sz -> block = Sr
	:: else
	fi
}

inline store_content(m) {
	assert(content == want[m]);
	content = content % 2 + 1;
	changed = true;
	want[m] = content
}

inline lock(x)   { atomic { !x -> x = true } }
inline unlock(x) { x = false }

inline put() {
	atomic {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 -> assert(mapcount == 0 && !in_cache); is_free = true
		:: else
		fi
	}
}

inline zeros() { block = Sz; intact = true; state = in_use }

/* __page_hva_make_stable(), make_stable_busy() */
inline make_stable() {
	if
	:: atomic { state == is_volatile -> state = busy; assert(!pg_dirty) };
		atomic {					/* ESSA 6 */
			intact = (block != Vz);
			if
			:: block == Vr || block == Pr -> block = Sr
			:: else
			fi
		}
		if
		:: intact -> state = in_use
		:: else ->
			if
			:: !in_cache -> zeros()			/* on its way out */
#ifdef MISTAKE_ZEROS
			:: in_cache -> zeros()			/* as for lazily freed memory */
#else
#ifdef MISTAKE_UPTODATE_CLEARED
			:: in_cache ->				/* as for page cache */
				uptodate = false;
				if
				:: mapcount > 0 -> state = is_volatile
				:: mapcount == 0 -> zeros(); intact = false
				fi
#else
			:: in_cache -> state = is_volatile
#endif
#endif
			fi
		fi
	:: atomic { state == idle -> state = in_use; intact = true }
	:: atomic { state == in_use -> intact = true }
	fi	/* busy: no guard is true, wait */
}

/* Zeros, which nobody takes for the content */
inline make_stable_for_good() {
	if
	:: atomic { state == is_volatile -> state = busy };
		block = Sz;
		state = in_use
	:: atomic { state == in_use -> skip }
	fi
}

/* ptep_clear_flush() with ptep_harvest_key() */
inline clear_flush(m) {
	atomic { old = pte[m]; pte[m] = none };
	if
	:: old == in_key && changed -> make_stable(); old = dirty
	:: old == in_key && !changed ->
		if
		:: atomic { state == is_volatile -> state = busy };
			atomic {				/* page_hva_reset_write() */
				if
				:: block == Pr -> block = Vr
				:: else
				fi
			}
			state = is_volatile
		:: else
		fi;
		old = clean
	:: else
	fi
}

/* try_to_unmap_one(), with the folio lock */
inline unmap_one(m) {
	lock(ptl[m]);
	if
	:: mapped(m) && fails < FAILS -> fails++		/* folio_try_share_anon_rmap_pte() */
	:: mapped(m) ->
		clear_flush(m);
		if
		:: old == dirty -> pg_dirty = true
		:: else
		fi;
		atomic { assert(has_cache); count++ };		/* swap_duplicate() */
		atomic { pte_exclusive[m] = exclusive; exclusive = false;
			pte[m] = swapped; mapcount-- };
		put()
	:: else
	fi;
	unlock(ptl[m])
}

inline put_swap_folio() {
	atomic {
		has_cache = false;
		if
		:: count == 0 -> slot = GARBAGE
		:: else
		fi
	}
}

/* delete_from_swap_cache(), with the folio lock */
inline delete_from_cache() {
	in_cache = false;
	put_swap_folio();
	refs--
}

/* discard_locked() and remove_from_swap_cache(), with the folio lock; try again */
inline discard_locked() {
	if
	:: in_cache && state != in_use && state != idle ->
		make_stable();
		if
		:: !intact ->
			unmap_one(0);
			unmap_one(1);
			if
			:: mapcount == 0 -> delete_from_cache(); make_stable_for_good()
			:: else
			fi
		:: else
		fi
	:: else
	fi
}

/* page_hva_discard() */
inline discard() {
	lock(locked);
	discard_locked();
	unlock(locked)
}

/* folio_free_swap(), page_hva_make_stable_swapcache(), with the folio lock */
inline free_swap() {
	ok = in_cache && count == 0;
	if
	:: ok ->
#ifdef MISTAKE_FREE_SLOT_FIRST
		delete_from_cache();
		make_stable();
		ok = intact;
		pg_dirty = true
#else
#ifndef MISTAKE_FREE_SLOT_NO_TEST
		make_stable();
		if
		:: !intact && mapcount == 0 -> make_stable_for_good()
		:: !intact && mapcount > 0 -> ok = false
		:: intact
		fi;
#endif
		if
		:: ok -> delete_from_cache(); pg_dirty = true
		:: else
		fi
#endif
	:: else
	fi
}

/* do_swap_page() and unuse_pte(), with both locks */
inline map_swapped(m) {
	if
	:: pte[m] == swapped ->
		assert(uptodate);
		count--;					/* swap_free() */
		if
		:: unuse || (write && refs == 2) -> free_swap()
		:: else
		fi;
		if
		:: pte_exclusive[m] || refs == 1 ->
			exclusive = true;
			atomic { pte[m] = (write -> dirty : clean); pte_write[m] = !unuse;
				mapcount++; refs++ }
		:: else ->
			atomic { pte[m] = clean; pte_write[m] = false; mapcount++; refs++ }
		fi
	:: else
	fi
}

/* do_swap_page(), and unuse_pte_range(), which frees the slot */
inline swap_page(m) {
	if
	:: atomic { in_cache && refs > 0 -> refs++ };		/* swap_cache_get_folio() */
		lock(locked);
		ok = true
	:: atomic { is_free && !has_cache && count > 0 ->	/* __read_swap_cache_async() */
		has_cache = true; in_cache = true; is_free = false; refs = 2; locked = true;
		uptodate = false; exclusive = false; pg_dirty = false;
		state = in_use; block = Sz };
		atomic { access(); content = slot; changed = true };
		uptodate = true;
		ok = true
	:: atomic { pte[m] != swapped -> ok = false }
	fi;
	if
	:: ok ->
#ifdef MISTAKE_SWAPOFF_NO_RECHECK
		intact = in_cache || unuse;
#else
		intact = in_cache;
#endif
#ifndef MISTAKE_SWAP_IN_NO_TEST
		if
		:: intact -> make_stable()
		:: else
		fi;
#endif
		if
		:: intact -> lock(ptl[m]); map_swapped(m); unlock(ptl[m])
		:: else -> discard_locked()
		fi;
		unlock(locked);
		put()
	:: else
	fi
}

inline try_again() { tries++; assert(tries < TRIES) }

/* handle_user_fault(), page_hva_fault() */
inline discard_fault() {
	if
	:: atomic { refs > 0 -> refs++ };
		discard();
		put()
	:: else
	fi
}

/* handle_pte_fault() and do_wp_page(), for a store to what is mapped */
inline handle_store_fault(m) {
	lock(ptl[m]);
	if
	:: mapped(m) && !stores(m) ->
		refs++;
		make_stable();
		if
		:: !intact -> unlock(ptl[m]); discard()
		:: intact && (pte_write[m] || exclusive) ->
			atomic { pte[m] = dirty; pte_write[m] = true };
			unlock(ptl[m])
		:: else ->					/* wp_can_reuse_anon_folio() */
			ok = false;
			if
			:: atomic { !locked -> locked = true };
				free_swap();
				ok = (refs == 2);		/* one of them is ours */
				if
				:: ok -> exclusive = true
				:: else
				fi;
				unlock(locked)
			:: else
			fi;
			if
			:: ok -> atomic { pte[m] = dirty; pte_write[m] = true }; unlock(ptl[m])
			:: else ->
				unlock(ptl[m]);
				atomic { access(); copy = content };
				lock(ptl[m]);
				if
				:: mapped(m) && !pte_write[m] ->
					atomic { own_val[m] = copy; own[m] = true;
						pte[m] = none; mapcount-- };
					put()
				:: else
				fi;
				unlock(ptl[m])
			fi
		fi;
		put()
	:: else -> unlock(ptl[m])
	fi
}

/* A load or a store by a user */
inline touch(m) {
	tries = 0;
	do
	:: atomic { mapped(m) && block != Vz && (!write || stores(m)) ->
		access(); assert(content == want[m]);
		if
		:: write -> store_content(m)
		:: else
		fi }; break
	:: mapped(m) && block == Vz && (!write || stores(m)) -> discard_fault(); try_again()
	:: mapped(m) && write && !stores(m) -> handle_store_fault(m); try_again()
	:: pte[m] == swapped -> swap_page(m); try_again()
	:: atomic { own[m] -> assert(own_val[m] == want[m]);
		if
		:: write -> own_val[m] = own_val[m] % 2 + 1; want[m] = own_val[m]
		:: else
		fi }; break
	od
}

/* page_hva_make_stable_fast() */
inline make_stable_fast() {
	if
	:: state != in_use || !uptodate -> make_stable(); intact = intact && uptodate
	:: else
	fi
}

/* gup_fast_pte_range(), for a device that reads or writes; gives up easily */
#ifdef MISTAKE_FAST_TAKES_CLEAN
#define fast_takes(m)	(mapped(m) && (!write || (pte_write[m] && exclusive)))
#else
#define fast_takes(m)	(mapped(m) && (!write || (pte[m] == dirty && pte_write[m] && exclusive)))
#endif

inline gup_fast(m) {
	if
	:: atomic { fast_takes(m) -> refs++; intact = true };
#ifndef MISTAKE_GUP_NO_TEST
#ifndef MISTAKE_GUP_TESTS_LAST
		make_stable_fast();
#endif
#endif
		intact = intact && fast_takes(m);
#ifdef MISTAKE_GUP_TESTS_LAST
		make_stable_fast();
#endif
		if
		:: intact && write ->
			atomic { access(); store_content(m) };
			if
			:: pg_dirty = true
			:: true
			fi
		:: intact && !write -> atomic { access(); assert(content == want[m]) }
		:: else
		fi;
		put()
	:: else
	fi
}

/* copy_present_ptes(), copy_nonpresent_pte() */
inline do_fork() {
	lock(ptl[0]);
	if
	:: mapped(0) ->
		clear_flush(0);
		refs++;
		atomic { exclusive = false; mapcount++; pte[0] = old; pte[1] = old;
			pte_write[0] = false; want[1] = want[0] }
	:: pte[0] == swapped ->
		atomic { count++; pte[1] = swapped; pte_exclusive[0] = false; want[1] = want[0] }
	:: else -> atomic { own[1] = own[0]; own_val[1] = own_val[0]; want[1] = want[0] }
	fi;
	unlock(ptl[0]);
	forked = true
}

/* __try_to_reclaim_swap() */
inline reclaim_swap() {
	if
	:: atomic { in_cache && refs > 0 -> refs++ };
		if
		:: atomic { !locked -> locked = true };
#ifdef MISTAKE_RECLAIM_SWAP_NO_TEST
			if
			:: in_cache && count == 0 -> delete_from_cache(); pg_dirty = true
			:: else
			fi;
#else
			free_swap();
#endif
			unlock(locked)
		:: else
		fi;
		put()
	:: else
	fi
}

/* zap_pte_range() */
inline zap(m) {
	lock(ptl[m]);
	if
	:: mapped(m) -> atomic { pte[m] = none; mapcount-- }; put()
	:: pte[m] == swapped ->
		pte[m] = none;
		atomic {
			count--;
			if
			:: count == 0 && !has_cache -> slot = GARBAGE
			:: else
			fi
		}
		reclaim_swap()					/* free_swap_and_cache() */
	:: else
	fi;
	unlock(ptl[m])
}

active proctype parent() {
	bool intact, ok, write, unuse;
	byte tries, copy, turn;
	mtype old;

	do
	:: turn == 2 -> break
	:: turn < 2 ->
		turn++;
		if
		:: turn == 1 -> write = true
		:: turn == 1 -> write = true; gup_fast(0); write = false
		:: turn == 1 && may_fork -> do_fork(); write = true
		:: turn == 1 && may_fork -> do_fork()
		:: write = false
		fi;
		touch(0)
	od;
	forked = true;
	atomic { intact = false; ok = false; write = false; tries = 0; copy = 0; old = none; done++ }
}

active proctype child() {
	bool intact, ok, write, unuse;
	byte tries, copy, turn;
	mtype old;

	forked;
	do
	:: turn == 2 || (pte[1] == none && !own[1]) -> break
	:: turn < 2 && !(pte[1] == none && !own[1]) ->
		if
		:: turn == 0 -> write = true
		:: write = false
		fi;
		turn++;
		touch(1)
	:: turn == 0 && pte[1] != none -> break
	od;
	zap(1);
	atomic { intact = false; ok = false; write = false; tries = 0; copy = 0; old = none; done++ }
}

/* The pte was protected; from now on stores are in the storage key. */
inline track_by_key() {
	pte[0] = none;
	make_stable();
	iske = changed;						/* page_clear_dirty() */
	if
	:: iske -> changed = false
	:: else
	fi;
	pte[0] = in_key
}

/* page_hva_make_volatile(), or set idle */
active proctype scanner() {
	bool ok, intact, iske;

	do
	:: done == 3 || passes == PASSES -> break
	:: atomic { passes < PASSES && in_cache && state == in_use -> state = idle }
	:: atomic { passes < PASSES && in_cache && refs > 0 && state == idle && !locked ->
		refs++; locked = true };			/* folio_trylock() */
		lock(ptl[0]);
		ok = mapped(0) && pte[0] != dirty && exclusive && in_cache && !pg_dirty &&
			!(pte[0] == in_key && changed);
		if
		:: ok && pte[0] == clean && pte_write[0] -> track_by_key()
		:: else
		fi;
		if
		:: ok ->
			if
			:: atomic { state == idle -> state = busy }
			:: state != idle -> goto refused
			fi
		:: else -> goto refused
		fi;
#ifndef MISTAKE_IGNORES_REFS
		ok = ok && refs == mapcount + 2;
#endif
#ifndef OPEN_IGNORES_DIRTY
		ok = ok && !pg_dirty;
#endif
		if
		:: ok && uptodate ->
			atomic {
				if
				:: pte[0] == in_key && block == Sr -> block = Pr
				:: pte[0] != in_key && block == Sr -> block = Vr
				:: else -> block = Vz
				fi;
				passes++
			}
			state = is_volatile
		:: else -> state = idle
		fi;
refused:	unlock(ptl[0]);
		unlock(locked);
		put()
	od
}

/* The host: drops what it may, whenever it likes. */
active proctype host() {
end:	do
	:: d_step { (block == Vr || (block == Pr && !changed)) -> block = Vz; content = 0 }
	:: done == 3 && block != Vr && block != Pr -> break
	od
}

/* One of those who come to the page otherwise */
active proctype other() {
	bool intact, ok, write, unuse;
	byte tries, copy, m;
	mtype old;

	if
	:: true; gup_fast(0)					/* for reading */
	:: touch(0)						/* a thread of the process */
	:: write = true; touch(0)
	:: atomic { in_cache && refs > 0 && !locked ->		/* shrink_folio_list() */
		refs++; locked = true; may_fork = true };
		unmap_one(0);
		unmap_one(1);
		if
		:: mapcount == 0 && pg_dirty && refs == 2 ->	/* pageout() */
			pg_dirty = false;
			atomic { access(); slot = content }
		:: else
		fi;
		if						/* __remove_mapping() */
		:: atomic { mapcount == 0 && !pg_dirty && refs == 2 -> refs = 1; in_cache = false };
			put_swap_folio()
		:: true						/* somebody else had a reference */
		fi;
		unlock(locked);
		put()
	:: unuse = true;					/* try_to_unuse() */
		do
		:: atomic { count == 0 && !has_cache -> break }
		:: pte[0] == swapped || pte[1] == swapped ->
			m = (pte[0] == swapped -> 0 : 1);
			swap_page(m);
			try_again()
		:: atomic { in_cache && refs > 0 && count == 0 -> refs++ };
			lock(locked);
			free_swap();
#ifndef MISTAKE_SWAPOFF_ONLY_RETRIES
			if
			:: !ok -> discard_locked()
			:: else
			fi;
#endif
			unlock(locked);
			put();
			try_again()
		od
	:: may_fork = true; reclaim_swap()			/* scan_swap_map_slots() */
	:: may_fork = true
	fi;
	atomic { intact = false; ok = false; write = false; unuse = false; tries = 0; copy = 0; m = 0; old = none; done++ }
}
