/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Model of the protocol in mm/page_hva.c and arch/s390/mm/page_hva.c where nobody
 * may sleep: two files of one small folio each, two writers, of which each writes
 * to one file what it has mapped of the other, a scanner, a host that discards at
 * any moment, and interrupts of whatever runs, in which somebody reads the memory
 * of the process or looks up a folio.
 *
 * As in page_hva_mapped.pml, names are those of the functions that are abstracted,
 * and each line is one atomic step. One step here and several in the code: a lookup
 * (page_hva.pml has them all); references, since who has one here has the folio
 * lock, too; content, which is right or zeros.
 *
 * Checked: what is copied is not discarded content; no process hangs, also not one
 * whose interrupt waits for what it holds itself; nothing is tried again for ever.
 *
 * Each MISTAKE_* puts one mistake in; run.sh makes sure that it is found, by this
 * assertion:
 *
 *	MISTAKE_COPY_SLEEPS	invalid end state
 *	MISTAKE_INTERRUPT_SLEEPS	invalid end state
 *	MISTAKE_INTERRUPTS_ON	invalid end state
 *	MISTAKE_NOT_READ_AGAIN	tries<8
 *	MISTAKE_STABLE_WHILE_MAPPED	right[
 */

#ifndef PASSES
#define PASSES	2	/* how often the scanner succeeds */
#endif
#define INTERRUPTS	1
#define TRIES	8	/* enough for any fault; a loop takes more */
#define SCANNER	2	/* whom an interrupt hits: a writer, or this */

mtype = { Sr, Sz, Vr, Vz };		/* a block, as the host sees it */
mtype = { in_use, is_volatile, busy };	/* a folio, as the guest does */

mtype block[2] = Sr;
mtype state[2] = in_use;
bool uptodate[2] = true;
bool right[2] = true;			/* the content; false: zeros */
bool dirty[2];
bool locked[2];
bool pte[2] = true;			/* of the writer who reads from it */
bool interrupted[3];
bool interrupts_off;			/* of the scanner's CPU */
byte passes = 0;
byte done = 0;				/* writers */

inline lock(i)   { atomic { !locked[i] -> locked[i] = true } }
inline unlock(i) { locked[i] = false }

/* page_hva_make_stable(); may come from an interrupt, so it only waits for "busy" */
inline make_stable(i) {
	atomic {
		state[i] != busy;
		if
		:: state[i] == is_volatile && block[i] == Vr ->
			block[i] = Sr; state[i] = in_use
		:: state[i] == is_volatile && block[i] == Vz ->
			uptodate[i] = false;
			if
#ifndef MISTAKE_STABLE_WHILE_MAPPED
			:: pte[i]
#endif
			:: else -> block[i] = Sz; state[i] = in_use
			fi
		:: else
		fi
	}
}

/* page_hva_make_stable_locked() */
inline make_stable_locked(i) {
	make_stable(i);
	if
	:: state[i] == is_volatile -> pte[i] = false; make_stable(i)	/* try_to_unmap() */
	:: else
	fi
}

/* filemap_read_folio(), write_begin() */
inline read_folio(i) {
	make_stable_locked(i);
	if
	:: !uptodate[i] ->
		atomic { assert(block[i] != Vz); block[i] = Sr; right[i] = true };
		uptodate[i] = true
	:: else
	fi
}

/* page_hva_discard(): sleeps */
inline discard(i) {
	lock(i);
	make_stable_locked(i);
	unlock(i)
}

/* fault_in_readable(): do_discard_fault(), or a page fault, until there is the page */
inline fault_in(i) {
	tries = 0;
	do
	:: atomic { pte[i] && block[i] != Vz -> assert(right[i]) }; break
	:: pte[i] && block[i] == Vz -> discard(i); tries++; assert(tries < TRIES)
	:: !pte[i] ->						/* filemap_fault() */
		lock(i);
		read_folio(i);
		pte[i] = true;
		unlock(i);
		tries++;
		assert(tries < TRIES)
	od
}

/* generic_perform_write(): to its own file, from what it has mapped of the other's */
proctype writer(byte file) provided (!interrupted[file]) {
	byte source = 1 - file;
	byte tries, rounds;
	bool copied;

again:	fault_in(source);
once:	rounds++;
	tries = rounds;
	assert(tries < TRIES);
	lock(file);
	read_folio(file);
	/* copy_folio_from_iter_atomic(): page faults are disabled, and so is ours */
	copied = false;
	if
	:: atomic { pte[source] && block[source] != Vz -> assert(right[source]) }; copied = true
#ifdef MISTAKE_COPY_SLEEPS
	:: !pte[source] || block[source] == Vz -> fault_in(source); copied = true
#else
	:: !pte[source] || block[source] == Vz			/* fixup_exception() */
#endif
	fi;
	dirty[file] = copied;
	unlock(file);
	if
	:: !copied ->
#ifdef MISTAKE_NOT_READ_AGAIN
		goto once
#else
		goto again
#endif
	:: else
	fi;
	done++
}

/* set_mapped_volatile(): as long as the folio is busy, with interrupts disabled */
proctype scanner() provided (!interrupted[SCANNER]) {
	byte i;

	do
	:: done == 2 || passes == PASSES -> break
	:: passes < PASSES ->
		if
		:: i = 0
		:: i = 1
		fi;
		if
		:: atomic { !locked[i] -> locked[i] = true }	/* folio_trylock() */
			if
			:: atomic { state[i] == in_use && uptodate[i] && !dirty[i] ->
				state[i] = busy;
#ifndef MISTAKE_INTERRUPTS_ON
				interrupts_off = true
#endif
				};
				atomic { block[i] = (block[i] == Sr -> Vr : Vz); passes++ };
				state[i] = is_volatile;
				interrupts_off = false
			:: else
			fi;
			unlock(i)
		:: locked[i]
		fi
	od
}

/* The host: Vr -> Vz whenever it likes. */
proctype host() {
end:	do
	:: d_step { block[0] == Vr -> block[0] = Vz; right[0] = false }
	:: d_step { block[1] == Vr -> block[1] = Vz; right[1] = false }
	od
}

/* perf's call chains read the memory of a process; what is attached to an event looks a folio up. */
proctype interrupts() {
	byte whom, i, n;

	do
	:: n < INTERRUPTS && done < 2 ->
		if
		:: whom = 0
		:: whom = 1
		:: whom = SCANNER
		fi;
		if
		:: i = 0
		:: i = 1
		fi;
		atomic { !(whom == SCANNER && interrupts_off) -> interrupted[whom] = true };
		if
		:: whom != SCANNER -> i = 1 - whom;
			if
			:: atomic { pte[i] && block[i] != Vz -> assert(right[i]) }
			:: pte[i] && block[i] == Vz ->
#ifdef MISTAKE_INTERRUPT_SLEEPS
				discard(i)
#endif
				skip				/* fixup_exception() */
			:: !pte[i]
			fi
		:: make_stable(i)
		fi;
		interrupted[whom] = false;
		n++
	:: n == INTERRUPTS || done == 2 -> break
	od
}

init { atomic { run writer(0); run writer(1); run scanner(); run host(); run interrupts() } }
