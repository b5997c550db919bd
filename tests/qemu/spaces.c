/*
 * A store through one address space says nothing about the page that the same
 * address is in another one: there, translated code is still watched.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define ENTRY_INVALID 0x20

static uint64_t primary[2048] __attribute__((aligned(4096)));
static uint64_t secondary[2048] __attribute__((aligned(4096)));
static uint64_t identity[32 * 256] __attribute__((aligned(4096)));
static uint64_t other[256] __attribute__((aligned(4096)));

/* The address, and what it is in the primary and in the secondary space */
static unsigned char address[BLOCK] __attribute__((aligned(4096)));
static unsigned char first[BLOCK] __attribute__((aligned(4096)));
static unsigned char second[BLOCK] __attribute__((aligned(4096)));

INSN(stg, "stg %r1,0(%r2)");
INSN(mvcs, "mvcs 0(%r1,%r2),0(%r3),%r4");

static void make_tables(void)
{
    unsigned long page = (unsigned long)address / BLOCK;
    unsigned long asce[2] = { (unsigned long)primary | 3,
                              (unsigned long)secondary | 3 };
    unsigned long i;

    for (i = 0; i < 2048; i++) {
        primary[i] = i < 32 ? (unsigned long)&identity[i * 256] : ENTRY_INVALID;
        secondary[i] = ENTRY_INVALID;
    }
    for (i = 0; i < 32 * 256; i++) {
        identity[i] = i * BLOCK;
    }
    identity[page] = (unsigned long)first;
    secondary[page / 256] = (unsigned long)other;
    other[page % 256] = (unsigned long)second;
    asm volatile("lctlg %%c1,%%c1,%0" : : "Q" (asce[0]) : "memory");
    asm volatile("lctlg %%c7,%%c7,%0" : : "Q" (asce[1]) : "memory");
}

/* lghi %r2,value; br %r14 */
static uint64_t function(unsigned int value)
{
    return 0xa729000007fe0000UL | (uint64_t)value << 32;
}

static long call(const void *code)
{
    return ((long (*)(void))code)();
}

static int store_primary(uint64_t value)
{
    uint64_t regs[16] = { [1] = value, [2] = (unsigned long)address };

    return execute(insn_stg, regs, PSW_DAT, NULL) == 0;
}

static int store_secondary(unsigned int offset, uint64_t value)
{
    uint64_t regs[16] = { [1] = sizeof(value),
                          [2] = (unsigned long)address + offset,
                          [3] = (unsigned long)&value };

    return execute(insn_mvcs, regs, PSW_DAT, NULL) == 0;
}

int main(void)
{
    uint64_t c0 = 0x0000000004860000UL;
    int beside, over_first, over_second;
    long result_first, result_second;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    cmm_init();
    make_tables();
    *(volatile uint64_t *)first = function(1);
    *(volatile uint64_t *)second = function(2);

    /* Nothing is said before the end: that would take TLB entries away */
    beside = call(second) == 2 && store_secondary(BLOCK / 2, 1) &&
             *(volatile uint64_t *)(second + BLOCK / 2) == 1;
    /* This ends the watch over the first */
    over_first = call(first) == 1 && store_primary(function(3));
    over_second = store_secondary(0, function(4)) &&
                  *(volatile uint64_t *)second == function(4);
    result_first = call(first);
    result_second = call(second);

    ok1(beside, "a store beside code, by way of the secondary space");
    ok1(over_first, "a store over code, by way of the primary space");
    ok1(over_second, "a store over code, by way of the secondary space");
    ok1(result_first == 3, "the new code of the one page runs");
    ok1(result_second == 4, "the new code of the other page runs");
    return tap_done();
}
