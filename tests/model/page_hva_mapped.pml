/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c for folios that stay mapped while they
 * are volatile: one small folio of one block, mapped by a process and sometimes
 * by its child; a scanner, a host that discards at any moment, a process that
 * reads and writes the file, writeback, and reclaim.
 *
 * As in page_hva.pml, names are those of the functions that are abstracted, and
 * each line is one atomic step; the barriers are argued in mm/page_hva.c. A
 * getter that tests the flag before its reference stands for one without them.
 *
 * Checked: nobody but a user, who takes the discard fault, touches a discarded
 * block; nobody sees a content that is not the latest one, through a pte, a
 * reference from a pte, or a lookup; counts are never wrong; no process hangs;
 * no fault is tried again for ever; mlocked memory is present and stable.
 *
 * Each MISTAKE_* puts one mistake in; run.sh makes sure that it is found.
 * HARMLESS_CHANGES look like mistakes and are none, as long as the scanner holds
 * the folio lock: "at most" for the counts, and fault-around's rmap before its
 * reference.
 */

#ifndef PASSES
#define PASSES	1	/* how often the scanner succeeds */
#endif
#define TRIES	12	/* enough for any fault; a loop takes more */

mtype = { Sr, Sz, Vr, Vz };			/* the block, as the host sees it */
mtype = { in_use, idle, is_volatile, busy };	/* the folio, as the guest does */

mtype block = Sr;
mtype state = in_use;
bool in_cache = true;
bool uptodate = true;
bool dirty = false;
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
bool vm_locked = false;
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

/* __page_hva_make_stable() */
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

/* try_to_unmap(): the ptes of one process after the other, parents first */
inline unmap_one(m) {
	lock(ptl[m]);
	if
	:: pte[m] -> atomic { pte[m] = false; pte_write[m] = false };
		mapcount--;
		put()
	:: else
	fi
	unlock(ptl[m])
}

/* __page_hva_make_stable_locked() */
inline make_stable_locked(intact) {
	make_stable(intact);
	if
#ifdef MISTAKE_BUSY_IS_STABLE
	:: !intact && state == is_volatile ->
#else
	:: !intact && (state == is_volatile || state == busy) ->
#endif
		unmap_one(0);
		unmap_one(1);
		make_stable(intact);
		assert(state == in_use || state == idle)
	:: else
	fi
}

/* filemap_read_folio(), with the folio locked */
inline read_folio(intact) {
	make_stable_locked(intact);
	atomic { access(); content = disk };
	uptodate = true
}

/* page_hva_discard(), with a reference */
inline discard(intact) {
	if
	:: state == is_volatile || state == busy ->
		lock(locked);
		make_stable_locked(intact);
		atomic {					/* mapping_evict_folio() */
			if
			:: in_cache && !uptodate && !dirty && refs == 2 ->
				in_cache = false; refs = 1
			:: else
			fi
		}
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
		uptodate = false; mlocked = false; block = Sz; content = 0 };
		read_folio(intact);
		unlock(locked);
		put()
	fi
}

inline try_again() { tries++; assert(tries < TRIES) }

/* A load by a user, or a copy from one that may sleep: do_discard_fault() */
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

/* gup_fast_pte_range(): without the ptl; gives up easily */
inline get_from_pte_fast(m, intact, ok) {
	ok = pte[m];
	if
	:: ok -> try_get(ok)
	:: else
	fi
	if
	:: ok && !pte[m] -> put(); ok = false
	:: else
	fi
	if
#ifdef MISTAKE_FAST_IGNORES_UPTODATE
	:: ok && !(state == in_use) ->
#else
	:: ok && !(state == in_use && uptodate) ->
#endif
		make_stable(intact);
		ok = intact;
#ifndef MISTAKE_FAST_IGNORES_UPTODATE
		ok = ok && uptodate;
#endif
		if
		:: !ok -> put()
		:: else
		fi
	:: else
	fi
}

/* page_hva_make_volatile(), or set idle */
active proctype scanner() {
	byte count;
	bool ok;

	do
	:: done == 3 || passes == PASSES -> break
	:: atomic { passes < PASSES && in_cache && refs > 0 && state == in_use -> state = idle }
	:: atomic { passes < PASSES && in_cache && refs > 0 && state == idle -> refs++ };
#ifndef MISTAKE_NO_LOCK
		if
		:: atomic { !locked -> locked = true }
		:: locked -> goto unlocked			/* folio_trylock() */
		fi;
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
		ok = uptodate && !dirty && !mlocked;
#endif
		/* only_cache_and_ptes_refer() */
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
		ok = ok && uptodate && !dirty && !mlocked;
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
unlocked:	skip;
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
		atomic { access(); assert(content == latest) };
		put()
	:: get_from_pte_fast(0, intact, ok);
		if
		:: ok -> atomic { access(); assert(content == latest) }; put()
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
			mlocked = true;
#ifndef MISTAKE_MLOCK_NO_TEST
			make_stable(intact)
#endif
		:: else
		fi;
		unlock(ptl[0]);
#ifdef MISTAKE_MLOCK_NO_TEST
		if
		:: pte[0] -> skip
		:: else -> get_from_pte(0, intact); put()
		fi;
#else
		get_from_pte(0, intact);			/* populate */
		put();
#endif
		atomic { assert(pte[0] && state != is_volatile && block != Vr && block != Vz) };
		vm_locked = false;
		mlocked = false
	fi;
	done++
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
	done++
}

/* filemap_read() or generic_perform_write() */
active proctype file() {
	bool intact;
	byte tries;

repeat:	skip;
	if
	:: atomic { in_cache && refs > 0 -> refs++ }
	:: atomic { is_free ->
		is_free = false; in_cache = true; refs = 2; locked = true;
		uptodate = false; mlocked = false; block = Sz; content = 0 };
		read_folio(intact);
		unlock(locked);
		goto use
	fi;
	if
	:: make_stable(intact);					/* read() */
		if
		:: uptodate -> goto use
		:: else
		fi;
		lock(locked);
		if
		:: !in_cache -> unlock(locked); put(); goto repeat
		:: in_cache && uptodate
		:: in_cache && !uptodate -> read_folio(intact)
		fi;
		unlock(locked);
use:		skip;
		atomic { access(); assert(content == latest) };
		if
		:: true
		:: atomic { access(); content++; latest = content };	/* a pinned page */
			dirty = true
		fi
	:: lock(locked);					/* write_begin() */
		if
		:: !in_cache -> unlock(locked); put(); goto repeat
		:: else
		fi;
		make_stable_locked(intact);
		if
		:: !uptodate -> atomic { access(); content = disk }; uptodate = true
		:: else
		fi;
		atomic { access(); assert(content == latest); content++; latest = content };
		dirty = true;
		unlock(locked)
	fi;
	put();
	done++
}

/* folio_clear_dirty_for_io(), folio_mkclean() and I/O */
active proctype writer() {
end:	do
	:: atomic { dirty && !locked -> locked = true };
		if
		:: dirty ->
			atomic { pte_write[0] = false; pte_write[1] = false };
			dirty = false;
			atomic { access(); disk = content }
		:: else
		fi;
		unlock(locked)
	od
}
