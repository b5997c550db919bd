/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c: one folio of one block, a scanner, a
 * host that discards at any moment, two users that look the folio up, read it
 * and write to it, writeback, and reclaim.
 *
 * The names are those of the functions that are abstracted. Each line is one
 * atomic step, so the model is sequentially consistent; the barriers are argued
 * in the head comment of mm/page_hva.c.
 *
 * Checked: nobody touches a discarded block (a discard fault where there must be
 * none), nobody uses a content that is not the latest one (discarded content
 * used as data, dirty data lost), the reference count never goes wrong, and no
 * process hangs: all of them can always reach their end.
 *
 * Each MISTAKE_* puts one mistake back in; run.sh makes sure that it is found.
 */

#define ROUNDS 2		/* how often each user comes back */

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
bool is_free = false;		/* the allocator has it */
byte users = 0;			/* that are done */

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

inline put() { atomic { assert(refs > 0); refs-- } }

/* page_hva_make_stable() */
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

/* page_hva_make_volatile(), or set idle, for as long as there are users */
active proctype scanner() {
	do
	:: users == 2 -> break
	:: atomic { in_cache && refs > 0 && state == in_use -> state = idle }
	:: atomic { in_cache && refs > 0 && state == idle -> refs++ };	/* get_candidate() */
#ifndef MISTAKE_NO_LOCK
		if
		:: atomic { !locked -> locked = true }
		:: locked -> put(); goto next				/* folio_trylock() */
		fi
#endif
		if
		:: in_cache && uptodate && !dirty && !writeback
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
#ifdef MISTAKE_NO_RECHECK
		atomic { set_volatile() }
		state = is_volatile;
#else
		if
		:: uptodate && !dirty && !writeback && state == idle ->
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
	:: users == 2 && block != Vr -> break
	od
}

/* filemap_read() and generic_perform_write() */
active [2] proctype user() {
	bool intact;
	byte round = 0;

	do
	:: round == ROUNDS -> break
	:: else ->
		round++;
repeat:
#ifdef MISTAKE_TEST_BEFORE_REF
		make_stable();
#endif
		if
		:: atomic { in_cache && refs > 0 -> refs++ }		/* folio_try_get() */
		:: atomic { is_free ->					/* filemap_add_folio() */
			is_free = false; in_cache = true; refs = 2; locked = true;
			uptodate = false; state = in_use; block = Sz; content = 0 };
			goto refill
		fi
#ifndef MISTAKE_TEST_BEFORE_REF
		make_stable();
#endif
		if
		:: uptodate -> goto use
		:: else
		fi
		lock_folio();
		if
		:: !in_cache -> unlock_folio(); put(); goto repeat	/* truncated */
		:: in_cache && uptodate -> unlock_folio(); goto use
		:: else
		fi
refill:		skip;
		atomic { access(); content = disk };			/* filemap_read_folio() */
		uptodate = true;
		unlock_folio();
use:		skip;
		if
		:: atomic { access(); assert(content == latest) }	/* read */
		:: atomic { access(); content++; latest = content };	/* a pinned page */
			dirty = true
		:: lock_folio();					/* write_begin */
			if
			:: in_cache && uptodate ->
				atomic { access(); content++; latest = content };
				dirty = true
			:: else
			fi
			unlock_folio()
		fi
		put()
	od
	users++
}

/* folio_mkclean() and I/O */
active proctype writer() {
end:	do
	:: atomic { dirty && !locked -> locked = true };
		if
		:: dirty ->
			dirty = false;
			writeback = true;
			atomic { access(); disk = content };
			writeback = false
		:: else
		fi
		unlock_folio()
	od
}

/* shrink_folio_list(), once, and the allocator with init_on_free */
active proctype reclaim() {
	if
	:: users == 2 -> goto done
	:: atomic { in_cache && refs > 0 && !locked -> refs++; locked = true }
	fi
	if
	:: atomic { !dirty && !writeback && in_cache && refs == 2 -> refs = 0 };
		if
		:: !dirty ->						/* __remove_mapping() */
			in_cache = false;
			unlock_folio();
#ifndef MISTAKE_NO_FREE_HOOK
			atomic { set_stable() }				/* page_hva_free() */
#endif
			atomic { access(); content = 0 };
			is_free = true
		:: else -> refs = 2; unlock_folio(); put()
		fi
	:: else -> unlock_folio(); put()
	fi
done:	skip
}
