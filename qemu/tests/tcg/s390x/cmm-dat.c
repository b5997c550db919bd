/*
 * Test discarded blocks and address translation: DAT tables that were
 * discarded, address spaces, prefixing, and translations that the TLB knew.
 *
 * To be run with discard=eager.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define ASCE_REGION3 0x4
#define ENTRY_INVALID 0x20
#define VIRT 0x80000000UL       /* 2 GiB: the second region-third entry */

static uint64_t region3[512] __attribute__((aligned(4096)));
static uint64_t segment0[2048] __attribute__((aligned(4096)));
static uint64_t segment1[2048] __attribute__((aligned(4096)));
static uint64_t identity[32 * 256] __attribute__((aligned(4096)));
/* A block of its own, with 256 entries in the first half */
static uint64_t page_table[512] __attribute__((aligned(4096)));
static unsigned char data[2 * BLOCK] __attribute__((aligned(4096)));

static void make_tables(void)
{
    unsigned long i;

    for (i = 0; i < 512; i++) {
        region3[i] = ENTRY_INVALID | 0x4 | 3;
    }
    region3[0] = (unsigned long)segment0 | 0x4 | 3;
    region3[1] = (unsigned long)segment1 | 0x4 | 3;
    for (i = 0; i < 2048; i++) {
        segment0[i] = ENTRY_INVALID;
        segment1[i] = ENTRY_INVALID;
    }
    for (i = 0; i < 32; i++) {
        segment0[i] = (unsigned long)&identity[i * 256];
    }
    for (i = 0; i < 32 * 256; i++) {
        identity[i] = i * BLOCK;
    }
    segment1[0] = (unsigned long)page_table;
    for (i = 0; i < 512; i++) {
        page_table[i] = 0x400;                  /* invalid */
    }
    page_table[0] = (unsigned long)data;
    page_table[1] = (unsigned long)data + BLOCK;
}

static void set_asce(unsigned long asce, unsigned long other)
{
    asm volatile("lctlg %%c1,%%c1,%0" : : "Q" (asce));
    asm volatile("lctlg %%c7,%%c7,%0" : : "Q" (other));
    asm volatile("lctlg %%c13,%%c13,%0" : : "Q" (other));
}

INSN(lg, "lg %r5,0(%r2)");
INSN(lg_twice, "lg %r5,0(%r2); lgr %r6,%r5; lg %r5,0(%r2)");
INSN(essa_lg, "lg %r5,0(%r2); .insn rrf,0xb9ab0000,%r7,%r3,3,0\n"
              "lg %r6,0(%r2)");
INSN(essa_stg, "stg %r5,0(%r2); .insn rrf,0xb9ab0000,%r7,%r3,3,0\n"
               "stg %r5,0(%r2)");
INSN(lra, "lra %r5,0(%r2)");
INSN(tprot, "tprot 0(%r2),0");
INSN(mvcp, "mvcp 0(%r5,%r4),0(%r2),%r0");
INSN(mvcs, "mvcs 0(%r5,%r2),0(%r4),%r0");

static int faulted(const void *block)
{
    return pgm.faults == 1 && pgm.code == PGM_DISCARD &&
           pgm.tec == (unsigned long)block && get_state(block) == VZ &&
           same(lc()->out_regs, lc()->in_regs, sizeof(lc()->in_regs));
}

static void ptlb(void)
{
    asm volatile("ptlb" : : : "memory");
}

static void test_tables(void)
{
    uint64_t regs[16] = { [2] = VIRT + 8 };
    static const struct {
        const char *name;
        void *table;
    } tables[] = {
        { "page table", page_table },
        { "segment table", segment1 },
        { "region table", region3 },
    };
    unsigned int i;

    data[15] = 42;
    for (i = 0; i < 3; i++) {
        make_tables();
        ptlb();
        execute(insn_lg, regs, PSW_DAT, NULL);
        tap_ok(pgm.faults == 0 && lc()->out_regs[5] == 42, tables[i].name,
               ": translation works", "");
        essa(tables[i].table, SET_VOLATILE);
        ptlb();
        execute(insn_lg, regs, PSW_DAT, NULL);
        /* The program itself is translated by the region table, too. */
        tap_ok(faulted(tables[i].table), tables[i].name,
               ": discard fault with the address of the table", "");
        if (i < 2) {
            execute(insn_lra, regs, PSW_DAT, NULL);
            tap_ok(faulted(tables[i].table), tables[i].name,
                   ": LRA accesses the table", "");
            execute(insn_tprot, regs, PSW_DAT, NULL);
            tap_ok(faulted(tables[i].table), tables[i].name,
                   ": TPROT accesses the table", "");
        }
        essa(tables[i].table, SET_STABLE);
        make_tables();
        ptlb();
        execute(insn_lg, regs, PSW_DAT, NULL);
        tap_ok(pgm.faults == 0 && lc()->out_regs[5] == 42, tables[i].name,
               ": works again", "");

        essa(tables[i].table, SET_UNUSED);
        ptlb();
        execute(insn_lg, regs, PSW_DAT, NULL);
        tap_ok(pgm.code == PGM_ADDRESSING, tables[i].name,
               ": addressing exception if unused", "");
        essa(tables[i].table, SET_STABLE);
    }
    make_tables();
    ptlb();
}

static void test_spaces(void)
{
    uint64_t regs[16] = { [2] = VIRT, [4] = (unsigned long)data + BLOCK,
                          [5] = 8 };
    unsigned long asce = (unsigned long)region3 | ASCE_REGION3 | 3;

    essa(data, SET_VOLATILE);
    execute(insn_lg, regs, PSW_DAT, NULL);
    ok1(faulted(data), "primary space");
    execute(insn_lg, regs, PSW_DAT | PSW_HOME, NULL);
    ok1(faulted(data), "home space");
    execute(insn_lg, regs, PSW_DAT | PSW_SECONDARY, NULL);
    ok1(faulted(data), "secondary space");
    execute(insn_lg, regs, PSW_DAT | PSW_PROBLEM, NULL);
    ok1(faulted(data), "problem state");
    execute(insn_mvcp, regs, PSW_DAT, NULL);
    ok1(faulted(data), "MVCP from the secondary space");
    execute(insn_mvcs, regs, PSW_DAT, NULL);
    ok1(faulted(data), "MVCS to the secondary space");
    regs[2] = (unsigned long)data;
    execute(insn_lg, regs, 0, NULL);
    ok1(faulted(data), "DAT off");
    set_asce(0x20, asce);
    execute(insn_lg, regs, PSW_DAT, NULL);
    ok1(faulted(data), "real-space designation");
    set_asce(asce, asce);
    regs[2] = (unsigned long)data | 0x80000000UL;
    execute_psw(insn_lg, regs, PSW_31, NULL);
    ok1(faulted(data), "31-bit addressing mode");
    essa(data, SET_STABLE);
}

/* What the TLB and the translation block knew does not help. */
static void test_tlb(void)
{
    uint64_t regs[16] = { [2] = VIRT, [3] = (unsigned long)data };

    execute(insn_essa_lg, regs, PSW_DAT, NULL);
    ok1(pgm.code == PGM_DISCARD && pgm.tec == (unsigned long)data,
        "TLB entry for fetches is gone at the next instruction");
    essa(data, SET_STABLE);
    execute(insn_essa_stg, regs, PSW_DAT, NULL);
    ok1(pgm.code == PGM_DISCARD && pgm.tec == (unsigned long)data,
        "TLB entry for stores is gone at the next instruction");
    essa(data, SET_STABLE);
    execute(insn_lg_twice, regs, PSW_DAT, NULL);
    ok1(pgm.faults == 0 && lc()->out_regs[5] == 0 && lc()->out_regs[6] == 0,
        "made stable after a discard: zeros");
}

/* Code that was translated and discarded is not executed any more. */
static void test_code(void)
{
    static const unsigned char code[] = {
        0xa7, 0x59, 0x00, 0x4d,         /* lghi %r5,77 */
        0x07, 0xfe,                     /* br %r14 */
    };
    uint64_t regs[16] = {};
    int i;

    memcpy(data, code, sizeof(code));
    for (i = 0; i < 3; i++) {
        execute(data, regs, 0, NULL);
    }
    ok1(lc()->out_regs[5] == 77, "code in a block");
    essa(data, SET_VOLATILE);
    execute(data, regs, 0, NULL);
    ok1(faulted(data) && pgm.psw_addr == (unsigned long)data,
        "discard fault for translated code");
    essa(data, SET_STABLE);
    execute(data, regs, 0, NULL);
    ok1(pgm.code == PGM_OPERATION && lc()->out_regs[5] == 0,
        "zeros are executed when it is stable again");
}

static void test_prefix(void)
{
    static unsigned char area[4 * BLOCK] __attribute__((aligned(8192)));
    uint32_t prefix = (unsigned long)area, zero = 0;
    uint64_t regs[16] = {};
    unsigned int code[2];
    unsigned long tec[2];

    /* Absolute 4096, seen through the prefix, and the second prefix page */
    memcpy(area, absolute(0), 2 * BLOCK);
    asm volatile("spx %0" : : "Q" (prefix) : "memory");
    essa((void *)(area + BLOCK), SET_VOLATILE);
    regs[2] = 0x1100;
    execute(insn_lg, regs, 0, NULL);
    code[0] = pgm.code;
    tec[0] = pgm.tec;
    essa((void *)(area + BLOCK), SET_STABLE);
    essa((void *)0x1000, SET_VOLATILE);
    regs[2] = (unsigned long)area + BLOCK;
    execute(insn_lg, regs, 0, NULL);
    code[1] = pgm.code;
    tec[1] = pgm.tec;
    essa((void *)0x1000, SET_STABLE);
    asm volatile("spx %0" : : "Q" (zero) : "memory");
    ok1(code[0] == PGM_DISCARD && tec[0] == (unsigned long)area + BLOCK,
        "real 0x1000 is prefixed: absolute address reported");
    ok1(code[1] == PGM_DISCARD && tec[1] == 0x1000,
        "real address of the prefix area is absolute 0x1000");
}

int main(void)
{
    uint64_t c0 = 0x0000000004860000UL;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    cmm_init();
    make_tables();
    set_asce((unsigned long)region3 | ASCE_REGION3 | 3,
             (unsigned long)region3 | ASCE_REGION3 | 3);
    test_tables();
    test_spaces();
    test_tlb();
    test_code();
    test_prefix();
    return tap_done();
}
