/*
 * Test each kind of access in each page state: which exception there is, which
 * state it leaves, and what is read.
 *
 * Blocks that were never touched are zero. To be run with discard=demand. With
 * strict-unused=on, resident unused blocks refuse accesses, too; the test finds
 * out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

static int strict;

INSN(lgfi, "lgfi %r5,0x12345678");

/* A block with a small program at offset 0x200, or fresh. */
static unsigned char *make(unsigned int state)
{
    unsigned char *block = fresh_block(state);

    if ((state & 3) == 0) {
        memcpy(block + 0x200, insn_lgfi, insn_lgfi_end - insn_lgfi);
    }
    set_usage(block, state);
    return block;
}

INSN(lg, "lg %r5,0(%r2)");
INSN(stg, "stg %r5,0(%r2)");
INSN(laag, "laag %r5,%r6,0(%r2)");
INSN(csg, "csg %r5,%r6,0(%r2)");
INSN(ex, "ex %r0,0(%r2)");
INSN(mvc_src, "mvc 0(8,%r4),0(%r2)");
INSN(mvc_dst, "mvc 0(8,%r2),0(%r4)");
INSN(mvcl_src, "mvcl %r6,%r8");
INSN(mvpg_src, "mvpg %r4,%r2");
INSN(lura, "lurag %r5,%r2");
INSN(stura, "sturg %r5,%r2");
INSN(stsch, "stsch 0(%r2)");
INSN(tb, ".insn rre,0xb22c0000,%r0,%r2");
INSN(lra, "lra %r5,0(%r2)");
INSN(tprot, "tprot 0(%r2),0");
INSN(iske, "iske %r5,%r2");
INSN(sske, "sske %r5,%r2");
INSN(rrbe, "rrbe %r0,%r2");
INSN(pfd, "pfd 1,0(%r2)");

#define ACCESS 1        /* accesses the content */
#define IFETCH 2        /* executes the program in the block */

static const struct {
    const char *name;
    const char *insn;
    int ilen;
    int flags;
} kinds[] = {
    { " fetch", insn_lg, 6, ACCESS },
    { " store", insn_stg, 6, ACCESS },
    { " laa", insn_laag, 6, ACCESS },
    { " cs", insn_csg, 6, ACCESS },
    { " ifetch", NULL, 2, ACCESS | IFETCH },
    { " execute", insn_ex, 4, ACCESS | IFETCH },
    { " mvc source", insn_mvc_src, 6, ACCESS },
    { " mvc destination", insn_mvc_dst, 6, ACCESS },
    { " mvcl source", insn_mvcl_src, 2, ACCESS },
    { " mvpg source", insn_mvpg_src, 4, ACCESS },
    { " lura", insn_lura, 4, ACCESS },
    { " stura", insn_stura, 4, ACCESS },
    { " stsch", insn_stsch, 4, ACCESS },
    { " tb", insn_tb, 4, ACCESS },
    { " lra", insn_lra, 4, 0 },
    { " tprot", insn_tprot, 6, 0 },
    { " iske", insn_iske, 4, 0 },
    { " sske", insn_sske, 4, 0 },
    { " rrbe", insn_rrbe, 4, 0 },
    { " pfd", insn_pfd, 6, 0 },
};

static unsigned char other[2 * BLOCK] __attribute__((aligned(4096)));

static void run(unsigned int state, unsigned int kind)
{
    unsigned char *block = make(state);
    unsigned char *operand = block + 0x200;
    const char *insn = kinds[kind].insn;
    uint64_t regs[16] = {
        [1] = 0x10000,
        [2] = (unsigned long)operand,
        [4] = (unsigned long)other,
        [6] = (unsigned long)other,
        [7] = 8,
        [8] = (unsigned long)operand,
        [9] = 8,
    };
    unsigned int code, want, left, after;
    int ok;

    /* Zeros are no instruction: only look at the exception. */
    int zeros = (kinds[kind].flags & IFETCH) && state == SZ;

    want = 0;
    after = state;
    if (kinds[kind].flags & ACCESS) {
        if (state == VZ) {
            want = PGM_DISCARD;
        } else if (state == UZ || (state == UR && strict)) {
            want = PGM_ADDRESSING;
        } else if (state == SZ) {
            want = zeros ? PGM_OPERATION : 0;
            after = SR;
        }
    }

    code = execute(insn ? insn : (char *)operand, regs, 0, NULL);
    left = get_state(block);
    ok = code == want && left == after;
    if (want == PGM_DISCARD) {
        ok = ok && pgm.tec == (unsigned long)block &&
             pgm.psw_addr == (unsigned long)(insn ? insn : (char *)operand) &&
             pgm.ilen == kinds[kind].ilen &&
             same(lc()->out_regs, lc()->in_regs, sizeof(lc()->in_regs));
    } else if (want == PGM_ADDRESSING) {
        ok = ok && pgm.psw_addr == (unsigned long)
             (insn ? insn : (char *)operand) + kinds[kind].ilen &&
             same(lc()->out_regs, lc()->in_regs, sizeof(lc()->in_regs));
    }
    tap_ok(ok, state_name(state), kinds[kind].name, "");
    if (!ok) {
        ml_printf("# code %x (%x) state %s (%s) tec %lx psw %lx ilen %d\n",
                  code, want, state_name(left), state_name(after), pgm.tec,
                  pgm.psw_addr, pgm.ilen);
    }
    essa(block, SET_STABLE);
}

static void test_zeros(void)
{
    static const unsigned int states[] = { SZ, UZ, VZ };
    unsigned int i;

    for (i = 0; i < 3; i++) {
        unsigned char *block = make(states[i]);

        essa(block, SET_STABLE);
        tap_ok(is_zeros(block, BLOCK), state_name(states[i]),
               " reads zeros when it is stable", "");
    }
}

int main(void)
{
    static const unsigned int states[] = { SR, SZ, UR, UZ, VR, VZ, PR };
    uint64_t regs[16] = {};
    unsigned int i, kind;

    cmm_init();
    regs[2] = (unsigned long)make(UR);
    strict = execute(insn_lg, regs, 0, NULL) == PGM_ADDRESSING;
    ml_printf("# unused blocks are %s\n", strict ? "strict" : "lenient");

    for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        for (kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
            run(states[i], kind);
        }
    }
    test_zeros();
    return tap_done();
}
