/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c for folios that stay mapped while they
 * are volatile: one small folio of one block, mapped by a process and sometimes
 * by its child; a scanner, a host that discards at any moment, writeback, and one
 * who reads the file, writes to it, truncates it, or reclaims its memory.
 *
 * As in page_hva.pml, names are those of the functions that are abstracted, and
 * each line is one atomic step; the barriers are argued in mm/page_hva.c. A
 * getter that tests the flag before its reference stands for one without them.
 * One step here and several in the code: a lookup (page_hva.pml has them all);
 * reclaim's reference and lock, since before the lock it only has the former, as
 * the scanner; its freeze and removal, since nobody gets a reference in between.
 *
 * Checked: nobody but a user, who takes the discard fault, touches a discarded
 * block; nobody sees a content that is not the latest one, through a pte, a
 * reference from a pte, or a lookup (what was truncated stays as it was for those
 * who have it); counts are never wrong; no process hangs; nothing is tried again
 * for ever; mlocked memory is present and stable, unless it was truncated.
 *
 * HARMLESS_CHANGES look like mistakes and are none. As long as the scanner holds
 * the folio lock: "at most" for the counts, and fault-around's rmap before its
 * reference. The state of a page cache folio may be tested after the pte was looked
 * at again, since PG_uptodate tells what was discarded; see page_hva_swap.pml. It
 * may take two attempts to unmap. These without reclaim and truncation.
 *
 * OPEN_FAST_IGNORES_UPTODATE is harmless here (12.1 million states); not part of the check.
 *
 * Each MISTAKE_* puts one mistake in; run.sh makes sure that it is found, by this
 * assertion:
 *
 *	MISTAKE_BUSY_IS_STABLE	block != Vz
 *	MISTAKE_FLAGS_FIRST	block != Vz
 *	MISTAKE_LOCK_KEPT	invalid end state
 *	MISTAKE_MLOCK_NO_TEST	truncated
 *	MISTAKE_NO_LOCK	block != Vz
 *	MISTAKE_ONLY_TRY_AGAIN	tries<12
 *	MISTAKE_PUT_WITHOUT_GET	!(in_cache)&&(mapcount==0)
 *	MISTAKE_STABLE_WHILE_MAPPED	content==latest
 *	MISTAKE_TEST_BEFORE_REF	block != Vz
 *	MISTAKE_TWO_LOADS	block != Vz
 *	MISTAKE_UNMAP_STOPS_AT_MLOCK	intact
 */

#ifndef PASSES
#define PASSES	1	/* how often the scanner succeeds */
#endif
#ifdef HARMLESS_CHANGES
#define FAILS	1
#else
#define FAILS	0
#endif
/* how often it takes another attempt to unmap */
#define TRIES	12	/* enough for any fault; a loop takes more */

mtype = { Sr, Sz, Vr, Vz };			/* the block, as the host sees it */
mtype = { in_use, idle, is_volatile, busy };	/* the folio, as the guest does */

mtype block = Sr;
mtype state = in_use;
bool in_cache = true;
bool uptodate = true;
bool dirty = false;
bool writeback = false;
bool mlocked = false;
bool locked = false;
bool is_free = false;		/* the allocator has it */
byte refs = 2;			/* the page cache, one pte */
byte mapcount = 1;
bool pte[2] = { true, false };	/* parent, child */
bool pte_write[2];
bool ptl[2];

byte content = 1;		/* of the block; 0: zeros */
byte disk = 1;
byte latest = 1;		/* what everybody has to see */
byte gone;			/* or what was truncated */
bool truncated = false;
bool vm_locked = false;
byte fails = 0;
byte passes = 0;
byte done = 0;			/* processes */

/* An access to the content that is not through a page table of a user. */
inline access() {
	assert(block != Vz);
	if
	:: block == Sz -> block = Sr
	:: else
	fi
}

inline set_volatile() {
	if
	:: block == Sr -> block = Vr
	:: block == Sz -> block = Vz
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

/* folio_put() and the allocator, with page_hva_free() */
inline put() {
	atomic {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 ->
			assert(!in_cache && mapcount == 0);
			set_stable();
			access();
			content = 0;
			state = in_use;
			uptodate = false;
			mlocked = false;
			is_free = true
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
		:: intact -> state = in_use
		:: else ->
			uptodate = false;
#ifndef MISTAKE_STABLE_WHILE_MAPPED
			if
			:: mapcount > 0 -> state = is_volatile
			:: mapcount == 0 ->
#endif
				atomic { set_stable() }
				state = in_use
#ifndef MISTAKE_STABLE_WHILE_MAPPED
			fi
#endif
		fi
	:: atomic { state == idle -> state = in_use; intact = true }
	:: atomic { state == in_use -> intact = true }
	fi	/* busy: no guard is true, wait */
}

inline unmap_one(m) {
	lock(ptl[m]);
	if
	:: pte[m] -> atomic { pte[m] = false; pte_write[m] = false };
		mapcount--;
		put()
	:: else
	fi;
	unlock(ptl[m])
}

/* try_to_unmap(): the ptes of one process after the other, parents first */
inline try_to_unmap(may_fail) {
	if
	:: may_fail && fails < FAILS -> fails++
#ifdef MISTAKE_UNMAP_STOPS_AT_MLOCK
	:: vm_locked
	:: !vm_locked -> unmap_one(0)
#else
	:: unmap_one(0)
#endif
	fi;
	unmap_one(1)
}

/* page_hva_make_stable_locked(): is it? */
inline make_stable_locked(intact, may_fail) {
	make_stable(intact);
	if
#ifdef MISTAKE_BUSY_IS_STABLE
	:: !intact && state == is_volatile ->
#else
	:: !intact && (state == is_volatile || state == busy) ->
#endif
		try_to_unmap(may_fail);
		make_stable(intact);
		intact = (state == in_use || state == idle)
	:: else -> intact = true
	fi
}

/* filemap_read_folio(), with the folio locked; or AOP_TRUNCATED_PAGE */
inline read_folio(intact) {
	make_stable_locked(intact, true);
	if
	:: intact -> atomic { access(); content = disk }; uptodate = true
	:: else
	fi
}

/*
 * page_hva_discard(), with a reference. If there were a reason why a page of a
 * file cannot be unmapped, this would be SIGBUS.
 */
inline discard(intact) {
	if
	:: state == is_volatile || state == busy ->
		lock(locked);
		if
		:: state == is_volatile || state == busy ->
			make_stable_locked(intact, false);
			assert(intact);
			atomic {				/* mapping_evict_folio() */
				if
				:: in_cache && !uptodate && !dirty && !writeback && refs == 2 ->
					in_cache = false; refs = 1
				:: else
				fi
			}
		:: else
		fi;
		unlock(locked)
	:: else
	fi
}

/* filemap_fault() and finish_fault(): one attempt */
inline page_fault(m, intact) {
	if
	:: atomic { in_cache && refs > 0 -> refs++ };
		make_stable(intact);
		lock(locked);
		if
		:: !in_cache -> unlock(locked); put()
		:: in_cache && !uptodate -> read_folio(intact); unlock(locked); put()
		:: in_cache && uptodate ->
			lock(ptl[m]);
			if
			:: !pte[m] ->
#ifdef HARMLESS_CHANGES
				mapcount++;			/* filemap_map_pages() */
				refs++;
#else
				refs++;
				mapcount++;
#endif
				if
				:: vm_locked && m == 0 -> mlocked = true
				:: else
				fi;
				pte[m] = true
			:: else
			fi;
			unlock(ptl[m]);
			unlock(locked);
			put()
		fi
	:: atomic { is_free ->					/* filemap_add_folio() */
		is_free = false; in_cache = true; refs = 2; locked = true;
		dirty = false; block = Sz };
		read_folio(intact);
		unlock(locked);
		put()
	fi
}

/* The content, with a reference */
inline look() { atomic { access(); assert(content == (in_cache -> latest : gone)) } }

inline try_again() { tries++; assert(tries < TRIES) }

/* A load by a user, or a copy from one that may sleep: handle_user_fault() */
inline touch(m, intact, ok) {
	tries = 0;
	do
	:: atomic { pte[m] && block != Vz -> access(); assert(content == latest) }; break
	:: pte[m] && block == Vz ->
		try_get(ok);
		if
		:: ok -> discard(intact); put()
		:: else
		fi
		try_again()
	:: !pte[m] -> page_fault(m, intact); try_again()
	od
}

/* follow_page_pte(), do_wp_page(): a reference from a pte, under the ptl */
inline get_from_pte(m, intact) {
	tries = 0;
	do
	:: lock(ptl[m]);
		if
		:: pte[m] ->
#ifdef MISTAKE_TEST_BEFORE_REF
			make_stable(intact);
			refs++;
#else
			refs++;
			make_stable(intact);
#endif
			unlock(ptl[m]);
			if
			:: intact -> break
			:: else ->
#ifndef MISTAKE_ONLY_TRY_AGAIN
				discard(intact);
#endif
				put();
				try_again()
			fi
		:: else ->
			unlock(ptl[m]);
			page_fault(m, intact);
			try_again()
		fi
	od
}

/* The same without a reference, to populate; see "discarded" there. */
inline populate(m, intact) {
	tries = 0;
	do
	:: lock(ptl[m]);
		if
		:: pte[m] ->
			make_stable(intact);
			if
			:: intact -> unlock(ptl[m]); break
			:: else ->
				refs++;
#ifdef MISTAKE_PUT_WITHOUT_GET
				put();
#endif
				unlock(ptl[m]);
				discard(intact);
				put();
				try_again()
			fi
		:: else ->
			unlock(ptl[m]);
			page_fault(m, intact);
			try_again()
		fi
	od
}

/* page_hva_make_stable_fast() */
inline make_stable_fast(intact, ok) {
	if
#ifdef OPEN_FAST_IGNORES_UPTODATE
	:: ok && !(state == in_use) -> make_stable(intact); ok = intact
#else
	:: ok && !(state == in_use && uptodate) -> make_stable(intact); ok = intact && uptodate
#endif
	:: else
	fi
}

/* gup_fast_pte_range(): without the ptl; gives up easily */
inline get_from_pte_fast(m, intact, ok) {
	ok = pte[m];
	if
	:: ok ->
		try_get(ok);
		if
		:: ok ->
#ifdef HARMLESS_CHANGES
			ok = pte[m];
			make_stable_fast(intact, ok);
#else
			make_stable_fast(intact, ok);
			ok = ok && pte[m];
#endif
			if
			:: !ok -> put()
			:: else
			fi
		:: else
		fi
	:: else
	fi
}

#define flags_refuse	(!uptodate || dirty || writeback || mlocked)

/* page_hva_make_volatile(), set_mapped_volatile(), or set idle */
active proctype scanner() {
	byte count;
	bool ok;

	do
	:: done == 3 || passes == PASSES -> break
	:: atomic { passes < PASSES && in_cache && refs > 0 && state == in_use -> state = idle }
	:: atomic { passes < PASSES && in_cache && refs > 0 && state == idle -> refs++ };
#ifndef MISTAKE_NO_LOCK
		lock(locked);					/* folio_trylock() */
#endif
		if
		:: in_cache
		:: else -> goto out
		fi;
		if
		:: atomic { state == idle -> state = busy }	/* folio_hva_lock_idle() */
		:: state != idle -> goto out
		fi;
		ok = true;
#ifdef MISTAKE_FLAGS_FIRST
		ok = !flags_refuse;
#endif
		/* busy_folio_refuses(), only_cache_and_ptes_refer() */
#ifdef MISTAKE_TWO_LOADS
		count = mapcount;
		ok = ok && refs == count + 2;
#else
#ifdef HARMLESS_CHANGES
		ok = ok && refs <= mapcount + 2;
#else
		ok = ok && refs == mapcount + 2;
#endif
#endif
#ifndef MISTAKE_FLAGS_FIRST
		ok = ok && !flags_refuse;
#endif
		if
		:: ok ->
			atomic { set_volatile(); passes++ };
			state = is_volatile
		:: else -> state = idle
		fi;
out:		skip;
#ifndef MISTAKE_NO_LOCK
		unlock(locked);
#endif
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

/* The process: one of the things a process does with its mapping. */
active proctype parent() {
	bool intact, ok;
	byte tries;

	if
	:: touch(0, intact, ok)
	:: get_from_pte(0, intact);				/* GUP, copy-on-write */
		look();
		put()
	:: get_from_pte_fast(0, intact, ok);
		if
		:: ok -> look(); put()
		:: else
		fi
	:: get_from_pte(0, intact);				/* do_page_mkwrite() */
		lock(locked);
		if
		:: in_cache && pte[0] ->
			atomic { access(); assert(content == latest); uptodate = true };
			dirty = true;
			pte_write[0] = true
		:: else
		fi;
		unlock(locked);
		put();
		if
		:: atomic { pte[0] && pte_write[0] -> access();
			content++; latest = content }
		:: atomic { !(pte[0] && pte_write[0]) -> skip }
		fi
	:: vm_locked = true;					/* mlock() */
		lock(ptl[0]);
		if
		:: pte[0] ->
			mlocked = true;				/* mlock_folio() */
#ifndef MISTAKE_MLOCK_NO_TEST
			make_stable(intact)
#endif
		:: else
		fi;
		unlock(ptl[0]);
#ifdef MISTAKE_MLOCK_NO_TEST
		if
		:: pte[0] -> skip
		:: else -> populate(0, intact)
		fi;
#else
		populate(0, intact);
#endif
		atomic { assert(truncated ||
			(pte[0] && state != is_volatile && block != Vr && block != Vz)) };
		vm_locked = false;
		mlocked = false
	fi;
	atomic { intact = false; ok = false; tries = 0; done++ }	/* fewer states */
}

/* fork(), touch, exit() */
active proctype child() {
	bool intact, ok;
	byte tries;

	atomic { !ptl[0] -> ptl[0] = true };
	if
	:: pte[0] -> refs++; mapcount++; pte[1] = true		/* copy_present_ptes() */
	:: else
	fi;
	unlock(ptl[0]);
	if
	:: touch(1, intact, ok)
	:: true
	fi;
	unmap_one(1);						/* zap_pte_range() */
	atomic { intact = false; ok = false; tries = 0; done++ }
}

/* With the folio lock; stops at VM_LOCKED. */
inline reclaim_one(m) {
	lock(ptl[m]);
	if
	:: pte[m] && !(m == 0 && vm_locked) ->
		atomic { pte[m] = false; pte_write[m] = false };
		mapcount--;
		put()
	:: else
	fi;
	unlock(ptl[m])
}

/* filemap_read(), generic_perform_write(), or who removes the folio */
active proctype file() {
	bool intact;
	byte tries;

#ifndef HARMLESS_CHANGES
	if
	:: atomic { in_cache && refs > 0 && !locked -> refs++; locked = true };
		reclaim_one(0);					/* shrink_folio_list() */
		reclaim_one(1);
		atomic {					/* __remove_mapping() */
			if
			:: in_cache && mapcount == 0 && !dirty && !writeback && refs == 2 ->
				in_cache = false; refs = 1
			:: else
			fi
		};
		unlock(locked);
		put();
		goto out
	:: atomic { in_cache && refs > 0 -> refs++ };		/* truncate_inode_pages_range() */
		lock(locked);
		!writeback;					/* folio_wait_writeback() */
		if
		:: in_cache ->
			truncated = true;
			unmap_one(0);				/* unmap_mapping_folio() */
			unmap_one(1);
			atomic { in_cache = false; refs--; dirty = false;
				gone = latest; latest = disk }
		:: else
		fi;
		unlock(locked);
		put();
		goto out
	:: true
	fi;
#endif
repeat:	try_again();
	if
	:: atomic { in_cache && refs > 0 -> refs++ };
		if
		:: make_stable(intact);				/* read() */
			if
			:: uptodate -> goto use
			:: else
			fi;
			lock(locked);
			if
			:: !in_cache -> unlock(locked); put(); goto repeat
			:: in_cache && uptodate
			:: in_cache && !uptodate ->
				read_folio(intact);
				if
				:: !intact -> unlock(locked); put(); goto repeat
				:: else
				fi
			fi;
			unlock(locked)
		:: lock(locked);				/* write_begin() */
			if
			:: !in_cache -> unlock(locked); put(); goto repeat
			:: else
			fi;
			make_stable_locked(intact, true);
			if
			:: !intact -> unlock(locked); put(); goto repeat
			:: else
			fi;
			if
			:: !uptodate -> atomic { access(); content = disk }; uptodate = true
			:: else
			fi;
			atomic { access(); assert(content == latest); content++; latest = content };
			dirty = true;
#ifndef MISTAKE_LOCK_KEPT
			unlock(locked);
#endif
			goto unused
		fi
	:: atomic { is_free ->					/* filemap_add_folio() */
		is_free = false; in_cache = true; refs = 2; locked = true;
		dirty = false; block = Sz };
		read_folio(intact);
		unlock(locked)
	fi;
use:	atomic { intact = false; tries = 0 };
	look();
	if
	:: true
	:: atomic { access(); content++;			/* a pinned page */
		latest = (in_cache -> content : latest) };
		dirty = in_cache
	fi;
unused:	put();
out:	atomic { intact = false; tries = 0; done++ }
}

/* folio_clear_dirty_for_io(), folio_mkclean() and I/O */
active proctype writer() {
end:	do
	:: atomic { dirty && in_cache && !locked -> locked = true };
		if
		:: dirty && in_cache ->
			atomic { pte_write[0] = false; pte_write[1] = false };
			dirty = false;
			writeback = true;
			unlock(locked);
			atomic { access(); disk = content };
			writeback = false
		:: else -> unlock(locked)
		fi
	od
}
