/*
 * After IPTE no CPU uses what was there, whatever it executes: one of them
 * changes a page table entry all the time, and then says so; the other one loads
 * what was said, and from the page, with LPDG.
 *
 * To be run with -smp 2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#ifndef ROUNDS
#define ROUNDS 300
#endif

#define ENTRY_INVALID 0x20

static uint64_t segment[2048] __attribute__((aligned(4096)));
static uint64_t identity[32 * 256] __attribute__((aligned(4096)));

/* The address, and what it is in turn */
static unsigned char address[BLOCK] __attribute__((aligned(4096)));
static unsigned char pages[2][BLOCK] __attribute__((aligned(4096)));
static unsigned char lowcore[2 * BLOCK] __attribute__((aligned(8192)));

/* What the other CPU finds at 0xf00 of its lowcore */
static volatile struct {
    uint64_t asce;                      /* 0xf00 */
    uint64_t address;                   /* 0xf08 */
    uint64_t said;                      /* 0xf10 */
    uint64_t begun;                     /* 0xf18 */
    uint64_t done;                      /* 0xf20 */
    uint64_t faults;                    /* 0xf28 */
    uint64_t wrong[3];                  /* 0xf30: how often, and the last */
    uint64_t pad;
    uint64_t psw[2];                    /* 0xf50 */
} *shared = (void *)(lowcore + 0xf00);

/*
 * When a round has begun, LPDG of what was said and of the page, some times;
 * when it has been said, a load from the page, whose translation is kept.
 */
asm(
    "    .text\n"
    "other_entry:\n"
    "    lctlg %c1,%c1,0xf00\n"
    "    lghi %r4,0xf10\n"
    "    lg %r5,0xf08\n"
    "    lghi %r6,0\n"
    "    lpswe 0xf50\n"
    "other_loop:\n"
    "    aghi %r6,1\n"
    "0:  clg %r6,0xf18\n"
    "    jne 0b\n"
    "    lghi %r7,3\n"
    "1:  lpdg %r2,0(%r4),0(%r5)\n"
    "    clgr %r3,%r2\n"
    "    jl 3f\n"
    "2:  brctg %r7,1b\n"
    "4:  clg %r6,0xf10\n"
    "    jne 4b\n"
    "    lg %r3,0(%r5)\n"
    "    stg %r6,0xf20\n"
    "    j other_loop\n"
    "3:  stmg %r2,%r3,0xf38\n"
    "    agsi 0xf30,1\n"
    "    j 2b\n"
    "other_pgm:\n"
    "    agsi 0xf28,1\n"
    "    j 2b\n");
extern char other_entry[], other_pgm[], other_loop[];

static void make_tables(void)
{
    unsigned long i;

    for (i = 0; i < 2048; i++) {
        segment[i] = i < 32 ? (unsigned long)&identity[i * 256] : ENTRY_INVALID;
    }
    for (i = 0; i < 32 * 256; i++) {
        identity[i] = i * BLOCK;
    }
}

/* The other CPU's lowcore is at 0 for it: the first page is the identity's. */
static void start_other(void)
{
    uint64_t psw[2] = { PSW_64, (unsigned long)other_entry };

    shared->asce = (unsigned long)segment | 3;
    shared->address = (unsigned long)address;
    shared->psw[0] = PSW_64 | PSW_DAT;
    shared->psw[1] = (unsigned long)other_loop;
    memcpy(lowcore + 0x1a0, psw, 16);
    psw[0] = PSW_64 | PSW_DAT;
    psw[1] = (unsigned long)other_pgm;
    memcpy(lowcore + 0x1d0, psw, 16);
    start_cpu(1, lowcore);
}

int main(void)
{
    volatile uint64_t *entry = &identity[(unsigned long)address / BLOCK];
    uint64_t table = (unsigned long)entry & -2048UL;
    uint64_t c0 = 0x0000000004860000UL;
    uint64_t begin = tod();
    uint64_t i, delay;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    cmm_init();
    make_tables();
    *entry = (unsigned long)pages[0];
    start_other();
    for (i = 1; i <= ROUNDS; i++) {
        *(volatile uint64_t *)pages[i & 1] = i;
        shared->begun = i;
        for (delay = 1 << i % 14; delay; delay--) {
            asm volatile("" : : : "memory");
        }
        asm volatile("ipte %0,%1" : : "a" (table), "a" (address) : "memory");
        *entry = (unsigned long)pages[i & 1];
        shared->said = i;
        while (shared->done != i) {
            continue;
        }
    }
    stop_cpu(1);
    ml_printf("# %d rounds, %d faults, %d loads from the wrong page, %d ms\n",
              ROUNDS, (int)shared->faults, (int)shared->wrong[0],
              (int)((tod() - begin) >> 22));
    if (shared->wrong[0]) {
        ml_printf("# the last: %d, when %d was said\n", (int)shared->wrong[2],
                  (int)shared->wrong[1]);
    }
    ok1(shared->wrong[0] == 0, "nothing is loaded from where the page was");
    return tap_done();
}
