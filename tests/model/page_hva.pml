/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c: one folio of one block, a scanner, a
 * host that discards at any moment, two users that look the folio up, read it
 * and write to it, writeback, and reclaim or truncation.
 *
 * The names are those of the functions that are abstracted. Each line is one
 * atomic step, so the model is sequentially consistent; the barriers are argued
 * in the head comment of mm/page_hva.c. What is one step here and several in the
 * code: freeing, since whoever comes to a folio without references goes away
 * again; I/O, since whoever stores meanwhile makes the folio dirty after that.
 *
 * Checked: nobody touches a discarded block (a discard fault where there must be
 * none), nobody uses a content that is not the latest one (discarded content
 * used as data, dirty data lost; what was truncated keeps its content for those
 * who have it), the reference count never goes wrong and is right in the end,
 * no lookup is tried again for ever, and no process hangs: all of them can always
 * reach their end. The scanner waits for what it would try, except once, or one
 * who is stuck would not be noticed while it goes on.
 *
 * Each MISTAKE_* puts one mistake back in; run.sh makes sure that it is found, by
 * this assertion:
 *
 *	MISTAKE_IGNORES_DIRTY		block != Vz
 *	MISTAKE_IGNORES_WRITEBACK	block != Vz
 *	MISTAKE_LOCK_KEPT		invalid end state
 *	MISTAKE_NO_BUSY			content ==
 *	MISTAKE_NO_FREEZE		block != Vz
 *	MISTAKE_NO_FREE_HOOK		block != Vz
 *	MISTAKE_NO_LOCK			refs > 0
 *	MISTAKE_NO_RECHECK		block != Vz
 *	MISTAKE_PUT_WITHOUT_GET		in_cache
 *	MISTAKE_TEST_BEFORE_REF		block != Vz
 *	MISTAKE_UPTODATE_LAST		content ==
 */

#ifndef PASSES
#define PASSES	1		/* how often one user comes back */
#endif
#define TRIES	4		/* enough for any lookup; a loop takes more */

mtype = { Sr, Sz, Vr, Vz };			/* the block, as the host sees it */
mtype = { in_use, idle, is_volatile, busy };	/* the folio, as the guest does */

mtype block = Sr;
mtype state = in_use;
bool in_cache = true;
bool uptodate = true;
bool dirty = false;
bool writeback = false;
bool locked = false;
byte refs = 1;			/* 0: frozen or free; the page cache has one */

byte content = 1;		/* of the block; 0: zeros */
byte disk = 1;
byte latest = 1;		/* what a user has to see */
byte gone;			/* or what was truncated */
bool is_free = false;		/* the allocator has it */
byte done = 0;			/* processes */

/* frozen_folio_refuses() */
#if defined(MISTAKE_IGNORES_DIRTY)
#define flags_refuse	(!uptodate || writeback)
#elif defined(MISTAKE_IGNORES_WRITEBACK)
#define flags_refuse	(!uptodate || dirty)
#else
#define flags_refuse	(!uptodate || dirty || writeback)
#endif

/* An access by the CPU to the content. */
inline access() {
	assert(block != Vz);
	if
	:: block == Sz -> block = Sr
	:: else
	fi
}

/* The commands of ESSA that the kernel uses. */
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

inline set_stable_if_resident(intact) {
	intact = (block != Vz);
	if
	:: block == Vr -> block = Sr
	:: else
	fi
}

inline lock_folio() { atomic { !locked -> locked = true } }
inline unlock_folio() { locked = false }

/* page_hva_free() and the allocator with init_on_free */
inline free() {
	assert(!in_cache && !locked && !writeback);
#ifndef MISTAKE_NO_FREE_HOOK
	set_stable();
#endif
	access();
	content = 0;
	state = in_use;
	uptodate = false;
	gone = 0;
	is_free = true
}

inline put() {
	atomic {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 -> free()
		:: else
		fi
	}
}

/* folio_mark_dirty() does not care for what was truncated. */
inline mark_dirty() {
	atomic {
		if
		:: in_cache -> dirty = true
		:: else
		fi
	}
}

inline store() {
	atomic {
		access();
		content++;
		if
		:: in_cache -> latest = content
		:: else -> gone = content
		fi
	}
}

/* __page_hva_make_stable(), make_stable_busy() */
inline make_stable() {
#ifdef MISTAKE_NO_BUSY
	/* Two lookups work on the same volatile folio. */
	if
	:: atomic { state == idle -> state = in_use }
	:: state == is_volatile ->
		atomic { set_stable_if_resident(intact) }
		if
		:: !intact ->
			uptodate = false;
			atomic { set_stable() }
		:: else
		fi
		state = in_use
	:: else
	fi
#else
	if
	:: atomic { state == is_volatile -> state = busy };	/* folio_hva_lock_volatile() */
		atomic { set_stable_if_resident(intact) }
		if
		:: !intact ->
#ifdef MISTAKE_UPTODATE_LAST
			atomic { set_stable() }
			state = in_use;
			uptodate = false
#else
			uptodate = false;			/* forget_content() */
			atomic { set_stable() }
#endif
		:: else
		fi
		state = in_use
	:: atomic { state == idle -> state = in_use }
	:: state == in_use
	fi	/* busy: no guard is true, wait */
#endif
}

/* page_hva_make_volatile(), freeze_and_set_volatile(), or set idle */
active proctype scanner() {
	bool missed;

	do
	:: done == 3 -> assert(refs == in_cache); break
	:: atomic { in_cache && refs > 0 && state == in_use -> state = idle }
	:: atomic { in_cache && refs > 0 && state == idle -> refs++ };	/* get_candidate() */
#ifndef MISTAKE_NO_LOCK
		if
		:: atomic { !locked -> locked = true }
		:: locked && !missed -> missed = true; put(); goto next	/* folio_trylock() */
		fi
#endif
		if
		:: in_cache && !flags_refuse
		:: else -> goto out
		fi
#ifdef MISTAKE_NO_FREEZE
		/* The count is looked at, but others can still take references. */
		if
		:: refs == 2
		:: else -> goto out
		fi
#else
		if
		:: atomic { refs == 2 -> refs = 0 }			/* folio_ref_freeze() */
		:: refs != 2 -> goto out
		fi
#endif
#ifdef MISTAKE_NO_RECHECK					/* frozen_folio_refuses() */
		atomic { set_volatile() }
		state = is_volatile;
#else
		if
		:: !flags_refuse && state == idle ->
			atomic { set_volatile() }
			state = is_volatile
		:: else
		fi;
#endif
#ifndef MISTAKE_NO_FREEZE
		refs = 2;						/* folio_ref_unfreeze() */
#endif
out:
#ifndef MISTAKE_NO_LOCK
		unlock_folio();
#endif
		put();
next:		skip
	od
}

/* The host: Vr -> Vz whenever it likes. */
active proctype host() {
end:	do
	:: d_step { block == Vr -> block = Vz; content = 0 }
	:: done == 3 && block != Vr -> break
	od
}

/* filemap_get_read_batch() or __filemap_get_folio(), for reading and writing */
proctype user(byte rounds) {
	bool intact;
	byte round, tries;

	do
	:: round == rounds -> break
	:: else ->
		round++;
repeat:		tries++;
		assert(tries < TRIES);
#ifdef MISTAKE_TEST_BEFORE_REF
		make_stable();
#endif
		if
		:: in_cache						/* xas_load() */
		:: atomic { is_free ->					/* filemap_add_folio() */
			is_free = false; in_cache = true; refs = 2; locked = true;
			uptodate = false; dirty = false; block = Sz };
			goto refill
		fi;
		if
		:: atomic { refs > 0 -> refs++ }			/* folio_try_get() */
		:: refs == 0 && !in_cache -> goto repeat
		fi;	/* frozen: wait */
		if
		:: in_cache						/* xas_reload() */
		:: else -> put(); goto repeat
		fi;
#ifndef MISTAKE_TEST_BEFORE_REF
		make_stable();
#endif
		if
		:: uptodate -> goto use
		:: else
		fi;
		lock_folio();
		if
		:: !in_cache -> unlock_folio(); put(); goto repeat	/* truncated */
		:: in_cache && uptodate -> unlock_folio(); goto use
		:: else
		fi;
refill:		skip;
		atomic { access(); content = disk };			/* filemap_read_folio() */
		uptodate = true;
		unlock_folio();
use:		atomic { intact = false; tries = 0 };			/* fewer states */
		if
		:: atomic { access(); assert(content == (in_cache -> latest : gone)) }
		:: store(); mark_dirty()				/* a pinned page */
		:: lock_folio();					/* write_begin */
			if
			:: in_cache && uptodate -> store(); mark_dirty()
			:: else
			fi;
#ifndef MISTAKE_LOCK_KEPT
			unlock_folio()
#endif
		fi;
#ifdef MISTAKE_PUT_WITHOUT_GET
		if
		:: round == 1 -> put()
		:: else
		fi;
#endif
		put()
	od;
	done++
}

/* folio_clear_dirty_for_io() and I/O, which is not under the folio lock */
active proctype writer() {
end:	do
	:: atomic { dirty && in_cache && !locked -> locked = true };
		if
		:: dirty && in_cache ->
			dirty = false;
			writeback = true;
			unlock_folio();
			atomic { access(); disk = content };
			writeback = false
		:: else -> unlock_folio()
		fi
	od
}

/* Once, or never: reclaim or truncation */
active proctype remove() {
	if
	:: atomic { in_cache && refs > 0 -> refs++ };			/* shrink_folio_list() */
		if
		:: atomic { !locked -> locked = true }
		:: locked -> put(); goto out				/* folio_trylock() */
		fi;
		if
		:: atomic { !dirty && !writeback && in_cache && refs == 2 -> refs = 0 };
			if
			:: !dirty ->					/* __remove_mapping() */
				in_cache = false;
				unlock_folio();
				atomic { free() }
			:: else -> refs = 2; unlock_folio(); put()
			fi
		:: else -> unlock_folio(); put()
		fi
	:: atomic { in_cache && refs > 0 -> refs++ };		/* truncate_inode_pages_range() */
		lock_folio();
		!writeback;						/* folio_wait_writeback() */
		atomic {
			if
			:: in_cache -> in_cache = false; refs--; dirty = false;
				gone = latest; latest = disk
			:: else
			fi
		}
		unlock_folio();
		put()
	:: true
	fi;
out:	done++
}

init {
	atomic { run user(PASSES + 1); run user(1) }
}
