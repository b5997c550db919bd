/*
 * Test storage keys: that changes are recorded, which potentially volatile
 * blocks depend on, and these blocks.
 *
 * To be run with discard=eager: clean potentially volatile blocks are dropped
 * at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

static unsigned char block[BLOCK] __attribute__((aligned(4096)));
static unsigned char other[BLOCK] __attribute__((aligned(4096)));

/* All in one translation block */
INSN(sske_store, "stg %r5,0(%r2); sske %r6,%r2; stg %r5,0(%r2); iske %r7,%r2");
INSN(sske_load, "stg %r5,0(%r2); sske %r6,%r2; lg %r8,0(%r2); iske %r7,%r2");
INSN(rrbe_load, "lg %r8,0(%r2); rrbe %r0,%r2; lg %r8,0(%r2); iske %r7,%r2");
INSN(rrbe_only, "lg %r8,0(%r2); rrbe %r0,%r2; iske %r7,%r2");
INSN(tprot, "sske %r6,%r2; tprot 0(%r2),0; iske %r7,%r2");
INSN(essa, "sske %r6,%r2; .insn rrf,0xb9ab0000,%r8,%r2,0,0\n iske %r7,%r2");
INSN(lra, "sske %r6,%r2; lra %r8,0(%r2); iske %r7,%r2");

static unsigned int key_after(const char *insn, unsigned int key)
{
    uint64_t regs[16] = { [2] = (unsigned long)block, [6] = key };

    execute(insn, regs, 0, NULL);
    return lc()->out_regs[7] & 0xff;
}

static void test_keys(void)
{
    ok1(get_key(block) == (KEY_R | KEY_C),
        "before the first key instruction: referenced and changed");
    ok1(get_key((void *)0x4000000) == (KEY_R | KEY_C),
        "a block that was never touched, too");
    ok1(key_after(insn_sske_store, 0) == (KEY_R | KEY_C),
        "store after SSKE sets the change bit");
    ok1(key_after(insn_sske_store, 0x30) == (0x30 | KEY_R | KEY_C),
        "it keeps the access-control bits");
    ok1(key_after(insn_sske_load, 0) == KEY_R,
        "load after SSKE sets the reference bit");
    set_key(block, KEY_R | KEY_C);
    ok1(key_after(insn_rrbe_load, 0) == (KEY_R | KEY_C),
        "load after RRBE sets the reference bit");
    ok1(key_after(insn_rrbe_only, 0) == KEY_C, "RRBE resets it");
    ok1(lc()->cc == 3, "RRBE returns both bits as condition code");
    ok1(key_after(insn_tprot, 0) == 0, "TPROT is no reference");
    ok1(key_after(insn_essa, 0) == 0, "ESSA is no reference");
    ok1(key_after(insn_lra, 0) == 0, "LRA is no reference");
}

static void test_potentially_volatile(void)
{
    uint64_t regs[16] = { [2] = (unsigned long)block };
    unsigned int state;

    essa(block, SET_STABLE);
    set_key(block, 0);
    block[0] = 42;
    state = essa(block, SET_PVOLATILE);
    ok1(state == SR && get_state(block) == PR,
        "changed: potentially volatile and not dropped");
    ok1(block[0] == 42 && get_state(block) == PR, "it can be read");
    block[0] = 43;
    ok1(block[0] == 43 && get_state(block) == PR, "and be written");
    state = essa(block, SET_STABLE);
    ok1(state == PR && block[0] == 43, "and made stable");

    set_key(block, KEY_R);
    essa(block, SET_PVOLATILE);
    ok1(get_state(block) == VZ, "unchanged: dropped at once");
    ok1(essa(block, SET_STABLE_IF) == VZ, "the guest can tell");
    essa(block, SET_STABLE);

    block[0] = 44;
    essa(block, SET_PVOLATILE);
    ok1(get_state(block) == PR, "changed again: not dropped");
    set_key(block, KEY_R);
    ok1(get_state(block) == VZ, "dropped when the change bit is reset");
    essa(block, SET_STABLE);
    ok1(block[0] == 0, "then it is zero");

    /* The change bit stays on from here on. */
    block[0] = 45;
    essa(block, SET_PVOLATILE);
    execute(insn_rrbe_only, regs, 0, NULL);
    ok1(get_state(block) == PR, "not dropped by RRBE");
    essa(block, SET_VOLATILE);
    ok1(get_state(block) == VZ, "volatile: the change bit does not matter");
    essa(block, SET_STABLE);

    /* A block is written through a TLB entry that others keep alive. */
    block[8] = 1;
    set_key(block, 0);
    other[0] = 1;
    block[8] = 46;
    essa(block, SET_PVOLATILE);
    ok1(get_state(block) == PR && block[8] == 46,
        "a store after SSKE is not lost");
    essa(block, SET_STABLE);
}

int main(void)
{
    cmm_init();
    block[0] = 1;
    test_keys();
    test_potentially_volatile();
    return tap_done();
}
