/*
 * Test ESSA: every command in every state, and the exceptions.
 *
 * States come about as on a real host: blocks that were never touched are
 * zero, blocks that were are resident. To be run with discard=demand.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

/* Behind the end of 128 MiB, and the first invalid one in 31-bit mode */
#define BEYOND 0x8000000UL

/* The table: state after each command. */
static const struct {
    unsigned int state;
    unsigned char after[8];
} table[] = {
    { SR, { SR, SR, UR, VR, PR, SR, SR, SR } },
    { SZ, { SZ, SZ, UZ, VZ, VZ, SR, SZ, SZ } },
    { UR, { UR, SR, UR, VR, PR, SR, SR, SR } },
    { UZ, { UZ, SZ, UZ, VZ, VZ, SR, SZ, SZ } },
    { VR, { VR, SR, UR, VR, PR, SR, SR, SR } },
    { VZ, { VZ, SZ, UZ, VZ, VZ, SR, VZ, SZ } },
    { PR, { PR, SR, UR, VR, PR, SR, SR, SR } },
};

static const char *const commands[] = {
    " get-state", " set-stable", " set-unused", " set-volatile",
    " set-potentially-volatile", " set-stable-make-resident",
    " set-stable-if-not-discarded", " set-stable-nodat",
};

static void test_table(void)
{
    unsigned int i, cmd, old, new, made;
    int ok;

    for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        for (cmd = 0; cmd < 8; cmd++) {
            unsigned char *block = make_block(table[i].state);

            made = get_state(block);
            old = essa(block, cmd);
            new = get_state(block);
            ok = tap_ok(made == table[i].state && old == made &&
                        new == table[i].after[cmd],
                        state_name(table[i].state), commands[cmd], "");
            if (!ok) {
                ml_printf("# made %x, returned %x, then %x, expected %x\n",
                          made, old, new, table[i].after[cmd]);
            }
            /* Content survives what leaves the block resident. */
            if ((table[i].state & 3) == 0) {
                essa(block, SET_STABLE);
                ok = block[0] == 0x5a && block[BLOCK - 1] == 0x5a;
                tap_ok(ok, state_name(table[i].state), commands[cmd],
                       " keeps the content");
            } else if (new != VZ) {
                essa(block, SET_STABLE);
                ok = block[0] == 0 && block[BLOCK - 1] == 0;
                tap_ok(ok, state_name(table[i].state), commands[cmd],
                       " and then reads zeros");
            }
        }
    }
}

INSN(essa_0, ".insn rrf,0xb9ab0000,%r1,%r2,0,0");
INSN(essa_1, ".insn rrf,0xb9ab0000,%r1,%r2,1,0");
INSN(essa_3, ".insn rrf,0xb9ab0000,%r1,%r2,3,0");
INSN(essa_7, ".insn rrf,0xb9ab0000,%r1,%r2,7,0");
INSN(essa_8, ".insn rrf,0xb9ab0000,%r1,%r2,8,0");
INSN(essa_15, ".insn rrf,0xb9ab0000,%r1,%r2,15,0");
INSN(ex_essa, "ex %r0,0(%r5)");
INSN(essa_same, ".insn rrf,0xb9ab0000,%r2,%r2,0,0");

/* The old PSW of an instruction that is not executed: behind it. */
static int suppressed(const char *insn, unsigned int len)
{
    return pgm.psw_addr == (unsigned long)insn + len && pgm.ilen == len &&
           same(lc()->out_regs, lc()->in_regs, sizeof(lc()->in_regs));
}

static void test_exceptions(void)
{
    unsigned char *block = make_block(SR);
    uint64_t regs[16] = { [1] = -1UL, [2] = (unsigned long)block };

    ok1(execute(insn_essa_8, regs, 0, NULL) == PGM_SPECIFICATION &&
        suppressed(insn_essa_8, 4), "specification exception: M3 = 8");
    ok1(execute(insn_essa_15, regs, 0, NULL) == PGM_SPECIFICATION &&
        suppressed(insn_essa_15, 4), "specification exception: M3 = 15");
    ok1(execute(insn_essa_3, regs, PSW_PROBLEM, NULL) == PGM_PRIVILEGED &&
        suppressed(insn_essa_3, 4) && get_state(block) == SR,
        "privileged-operation exception");
    ok1(execute(insn_essa_8, regs, PSW_PROBLEM, NULL) == PGM_PRIVILEGED,
        "privileged-operation has priority over specification");
    regs[2] = BEYOND;
    ok1(execute(insn_essa_0, regs, 0, NULL) == PGM_ADDRESSING &&
        suppressed(insn_essa_0, 4), "addressing exception: first block");
    regs[2] = -BLOCK;
    ok1(execute(insn_essa_0, regs, 0, NULL) == PGM_ADDRESSING,
        "addressing exception: last block");
    regs[2] = -1UL;
    ok1(execute(insn_essa_0, regs, 0, NULL) == PGM_ADDRESSING,
        "addressing exception: last byte");
    regs[2] = BEYOND - 1;
    ok1(execute(insn_essa_0, regs, 0, NULL) == 0, "last byte of storage");
}

static void test_operands(void)
{
    unsigned char *block = make_block(SR);
    uint64_t regs[16] = { [1] = -1UL, [2] = (unsigned long)block + 0xfff };

    essa(block, SET_VOLATILE);
    ok1(execute(insn_essa_0, regs, 0, NULL) == 0 &&
        lc()->out_regs[1] == VR && lc()->out_regs[2] == regs[2],
        "R1 is set as a whole, low bits of R2 are ignored");
    regs[2] = (unsigned long)block;
    ok1(execute(insn_essa_same, regs, 0, NULL) == 0 &&
        lc()->out_regs[2] == VR, "R1 and R2 are the same");
    regs[5] = (unsigned long)insn_essa_1;
    ok1(execute(insn_ex_essa, regs, 0, NULL) == 0 &&
        lc()->out_regs[1] == VR && get_state(block) == SR,
        "ESSA as the target of EXECUTE");
    regs[2] = (unsigned long)block | 0x1234567880000000UL;
    ok1(execute_psw(insn_essa_3, regs, PSW_31, NULL) == 0 &&
        get_state(block) == VR, "31-bit addressing mode");
    essa(block, SET_STABLE);
}

static void test_nodat(void)
{
    unsigned char *block = make_block(SR);
    unsigned long addr_ = (unsigned long)block;

    ESSA(7);
    ok1(ESSA(0) == (SR | NODAT), "command 7 sets the no-DAT attribute");
    ESSA(5);
    ok1(ESSA(0) == (SR | NODAT), "command 5 keeps it");
    ESSA(6);
    ok1(ESSA(0) == (SR | NODAT), "command 6 keeps it");
    ESSA(2);
    ok1(ESSA(7) == (UR | NODAT), "command 2 keeps it");
    ESSA(3);
    ok1(ESSA(7) == (VR | NODAT), "command 3 keeps it");
    ESSA(4);
    ok1(ESSA(7) == (PR | NODAT), "command 4 keeps it");
    ESSA(1);
    ok1(ESSA(0) == SR, "command 1 clears it");
}

/* The content is not accessed: neither the state nor the key changes. */
static void test_no_access(void)
{
    unsigned char *block = make_block(SR);

    set_key(block, 0);
    essa(block, SET_VOLATILE);
    essa(block, SET_STABLE);
    essa(block, SET_STABLE_IF);
    ok1(get_key(block) == 0, "ESSA does not reference or change the block");
}

int main(void)
{
    cmm_init();
    test_table();
    test_exceptions();
    test_operands();
    test_nodat();
    test_no_access();
    return tap_done();
}
