/*
 * Stress page states with several CPUs, and a host that takes blocks away.
 *
 * Each block has an owner at a time (a lock), who knows what is in it. Whatever
 * the host does, a block contains what its owner stored, or its state says that
 * it does not. At the same time other CPUs access it without asking.
 *
 * To be run with -smp 5, and discard=random or discard=eager, perhaps with a
 * paging file and a low limit, too; or with discard=demand and somebody who
 * calls x-s390-reclaim-pages all the time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#ifndef SECONDS
#define SECONDS 10
#endif

#define MAX_CPUS 8
#define BLOCKS 256
#define WORDS (BLOCK / 8)

static unsigned char pool[BLOCKS * BLOCK] __attribute__((aligned(4096)));
static unsigned char lowcores[MAX_CPUS][2 * BLOCK]
    __attribute__((aligned(8192)));
unsigned char smp_stacks[MAX_CPUS][16384] __attribute__((aligned(8)));

static struct {
    uint32_t lock;
    uint32_t valid;             /* the owner knows the content */
    uint64_t value;             /* what is in it */
} blocks[BLOCKS];

static struct counts {
    unsigned long rounds, discarded, faults, races, kept, keyed, errors;
    unsigned long pad[9];
} counts[MAX_CPUS] __attribute__((aligned(128)));

/* A block of which one CPU resets the storage key; odd while it does. */
static unsigned char keyed[BLOCK] __attribute__((aligned(4096)));
static volatile uint32_t resets;

static volatile unsigned int running, stop;
static unsigned int ncpus;

/* The CPU's own lowcore: where to go on after a fault, and its address */
#define FIXUP 0xf00
#define CPU_NR 0xf08

asm(
    "    .text\n"
    "smp_pgm:\n"
    "    stmg %r0,%r1,0xf10(%r0)\n"
    "    lg %r1,0xf00(%r0)\n"
    "    ltgr %r1,%r1\n"
    "    jz 1f\n"
    "    stg %r1,0x158(%r0)\n"
    "    lghi %r1,0\n"
    "    stg %r1,0xf00(%r0)\n"
    "    lmg %r0,%r1,0xf10(%r0)\n"
    "    lpswe 0x150(%r0)\n"
    "1:  larl %r1,smp_stop\n"
    "    lpswe 0(%r1)\n"
    "    .balign 8\n"
    "smp_stop:\n"
    "    .quad 0x0002000180000000,0xdead\n"
    "smp_entry:\n"
    "    lg %r1,0xf08(%r0)\n"
    "    larl %r15,smp_stacks\n"
    "    sllg %r1,%r1,14\n"
    "    la %r15,0(%r15,%r1)\n"
    "    aghi %r15,16384-160\n"
    "    lg %r2,0xf08(%r0)\n"
    "    brasl %r14,smp_main\n"
    "0:  j 0b\n");
extern char smp_pgm[], smp_entry[];

/* Returns the interruption code, or 0 and the value. */
static unsigned int try_load(const volatile void *p, uint64_t *value)
{
    uint64_t v = 0;
    long fault = 1;

    asm volatile("larl %%r1,1f; stg %%r1,0xf00(%%r0); lg %1,0(%2); lghi %0,0\n"
                 "1:  lghi %%r1,0; stg %%r1,0xf00(%%r0)"
                 : "+&d" (fault), "+&d" (v) : "a" (p) : "1", "cc", "memory");
    *value = v;
    return fault ? LOW(uint16_t, 0x8e) : 0;
}

static unsigned int try_store(volatile void *p, uint64_t value)
{
    long fault = 1;

    asm volatile("larl %%r1,1f; stg %%r1,0xf00(%%r0); stg %1,0(%2); "
                 "lghi %0,0\n"
                 "1:  lghi %%r1,0; stg %%r1,0xf00(%%r0)"
                 : "+&d" (fault) : "d" (value), "a" (p) : "1", "cc", "memory");
    return fault ? LOW(uint16_t, 0x8e) : 0;
}

/* Execute the block: it returns a value, and returns. */
static unsigned int try_code(const volatile void *p, uint64_t *value)
{
    long fault = 1;
    register uint64_t v asm("5") = 0;

    asm volatile("larl %%r1,1f; stg %%r1,0xf00(%%r0); basr %%r14,%2; "
                 "lghi %0,0\n"
                 "1:  lghi %%r1,0; stg %%r1,0xf00(%%r0)"
                 : "+&d" (fault), "+&d" (v) : "a" (p)
                 : "1", "14", "cc", "memory");
    *value = v;
    return fault ? LOW(uint16_t, 0x8e) : 0;
}

static void wrong(unsigned int cpu, const char *what, unsigned int i,
                  uint64_t value)
{
    static uint32_t lock;

    counts[cpu].errors++;
    if (__sync_bool_compare_and_swap(&lock, 0, 1)) {
        ml_printf("# cpu %d block %d (%s): %s, %lx instead of %lx\n", cpu, i,
                  state_name(get_state(pool + i * BLOCK)), what, value,
                  blocks[i].value);
        lock = 0;
    }
}

/* Words 1 to 511 are the value; the first makes it a function. */
static void refill(unsigned int i, uint64_t value)
{
    volatile uint64_t *p = (uint64_t *)(pool + i * BLOCK);
    unsigned int w;

    /* lghi %r5,value; br %r14 */
    value &= 0x7fff;
    p[0] = 0xa759000007fe0000UL | value << 32;
    for (w = 1; w < WORDS; w++) {
        p[w] = value;
    }
    blocks[i].value = value;
    blocks[i].valid = 1;
}

static void check(unsigned int cpu, unsigned int i)
{
    volatile uint64_t *p = (uint64_t *)(pool + i * BLOCK);
    unsigned int w;

    for (w = 1; w < WORDS; w += 17) {
        if (p[w] != blocks[i].value) {
            wrong(cpu, "stable block", i, p[w]);
            return;
        }
    }
}

/* A store either finds the block gone, or keeps all of it. */
static void store_potentially_volatile(unsigned int cpu, unsigned int i,
                                       unsigned int delay)
{
    volatile uint64_t *p = (uint64_t *)(pool + i * BLOCK);
    unsigned int n;
    uint64_t value;

    set_key((void *)p, 0);
    essa((void *)p, SET_PVOLATILE);
    while (delay--) {
        asm volatile("" : : : "memory");
    }
    if (!blocks[i].valid || try_store(p + 1, blocks[i].value)) {
        return;
    }
    counts[cpu].kept++;
    for (n = 0; n < 100; n++) {
        if (try_load(p + 2, &value) || value != blocks[i].value) {
            wrong(cpu, "stored to", i, value);
            return;
        }
    }
}

/* With the lock held: use the block, and say what it is worth. */
static void own(unsigned int cpu, unsigned int i, uint64_t random)
{
    unsigned char *block = pool + i * BLOCK;
    volatile uint64_t *p = (uint64_t *)block;
    unsigned int old, code;
    uint64_t value;

    /* As it is: a fault, or what is in it */
    code = try_load(p + 1 + random % (WORDS - 1), &value);
    if (code) {
        counts[cpu].faults++;
        old = get_state(block);
        if ((code == PGM_DISCARD && old != VZ) ||
            (code == PGM_ADDRESSING && old != UZ)) {
            wrong(cpu, "fault without reason", i, code);
        }
    } else if (blocks[i].valid && value != blocks[i].value &&
               (get_state(block) & 0xc) != UR) {
        wrong(cpu, "load", i, value);
    }

    if (blocks[i].valid && (random >> 20) % 4 == 0) {
        code = try_code(block, &value);
        if (!code && value != blocks[i].value) {
            wrong(cpu, "code", i, value);
        }
    }

    /* Make it stable, in one of the two ways */
    if ((random >> 24) & 1) {
        old = essa(block, SET_STABLE_IF);
        if (old == VZ) {
            essa(block, SET_STABLE);
        }
    } else {
        old = essa(block, SET_STABLE);
    }
    if (old == VZ || old == UZ || old == SZ) {
        counts[cpu].discarded++;
        blocks[i].valid = 0;
        value = p[1 + (random >> 32) % (WORDS - 1)];
        if (value) {
            wrong(cpu, "zeros", i, value);
        }
    }
    if (blocks[i].valid) {
        check(cpu, i);
    }
    if (!blocks[i].valid || ((random >> 25) & 3) == 0) {
        refill(i, random >> 40);
    }
    check(cpu, i);

    switch ((random >> 28) & 7) {
    case 0:
        break;
    case 1:
        essa(block, SET_UNUSED);
        blocks[i].valid = 0;
        break;
    case 2:
        essa(block, SET_PVOLATILE);
        break;
    case 3:
        store_potentially_volatile(cpu, i, (random >> 48) & 1023);
        break;
    default:
        essa(block, SET_VOLATILE);
        break;
    }
}

/* The change bit is on before. */
static void reset_key(void)
{
    *(volatile uint64_t *)keyed = 0;
    __sync_fetch_and_add(&resets, 1);
    set_key(keyed, 0);
    __sync_fetch_and_add(&resets, 1);
}

/* Who sees the key reset, and stores, sets the change bit again. */
static void store_after_reset(unsigned int cpu)
{
    uint32_t reset = resets;

    if (!(reset & 1) || (get_key(keyed) & KEY_C)) {
        return;
    }
    *(volatile uint64_t *)keyed = cpu;
    if (get_key(keyed) & KEY_C) {
        counts[cpu].keyed++;
    } else if (resets == reset) {
        counts[cpu].errors++;
        ml_printf("# cpu %d: a store after SSKE left no change bit\n", cpu);
    }
}

void smp_main(unsigned long cpu)
{
    uint64_t random = cpu * 0x9e3779b97f4a7c15UL + 88172645463325252UL;
    uint64_t value;

    __sync_fetch_and_add(&running, 1);
    while (!stop) {
        unsigned int i = next_random(&random) % BLOCKS;

        if (__sync_bool_compare_and_swap(&blocks[i].lock, 0, 1)) {
            own(cpu, i, next_random(&random));
            __sync_synchronize();
            blocks[i].lock = 0;
            counts[cpu].rounds++;
        }
        /* Somebody else's block, which fills the TLB */
        i = next_random(&random) % BLOCKS;
        if (try_load(pool + i * BLOCK, &value)) {
            counts[cpu].races++;
        }
        if (cpu > 1) {
            store_after_reset(cpu);
        } else if (i % 16 == 0) {
            reset_key();
        }
    }
    __sync_fetch_and_sub(&running, 1);
}

static void prepare_lowcore(unsigned char *lowcore, unsigned long cpu)
{
    *(uint64_t *)(lowcore + 0x1d0) = PSW_64;
    *(uint64_t *)(lowcore + 0x1d8) = (unsigned long)smp_pgm;
    *(uint64_t *)(lowcore + 0x1a0) = PSW_64;
    *(uint64_t *)(lowcore + 0x1a8) = (unsigned long)smp_entry;
    *(uint64_t *)(lowcore + FIXUP) = 0;
    *(uint64_t *)(lowcore + CPU_NR) = cpu;
}

int main(void)
{
    struct counts sum = {};
    uint64_t end;
    unsigned int cpu;

    cmm_init();
    ncpus = 1;
    for (cpu = 1; cpu < MAX_CPUS; cpu++) {
        /* SET PREFIX is refused if there is no such CPU. */
        prepare_lowcore(lowcores[cpu], cpu);
        if (!start_cpu(cpu, lowcores[cpu])) {
            break;
        }
        ncpus++;
    }
    ml_printf("# %d CPUs\n", ncpus);
    ok1(ncpus > 1, "there are several CPUs");

    end = tod() + ((uint64_t)SECONDS * 1000000 << 12);
    while (running < ncpus - 1) {
        continue;
    }
    while (tod() < end) {
        continue;
    }
    stop = 1;
    while (running) {
        continue;
    }
    /* The last CPU's wait PSW ends the machine: that has to be this one's. */
    for (cpu = 1; cpu < ncpus; cpu++) {
        stop_cpu(cpu);
    }
    for (cpu = 1; cpu < ncpus; cpu++) {
        sum.rounds += counts[cpu].rounds;
        sum.discarded += counts[cpu].discarded;
        sum.faults += counts[cpu].faults;
        sum.races += counts[cpu].races;
        sum.kept += counts[cpu].kept;
        sum.keyed += counts[cpu].keyed;
        sum.errors += counts[cpu].errors;
    }
    ml_printf("# %ld rounds, %ld found discarded, %ld faults, %ld in races, "
              "%ld kept by a store, %ld set the change bit again, %ld errors\n",
              sum.rounds, sum.discarded, sum.faults, sum.races, sum.kept,
              sum.keyed, sum.errors);
    ok1(sum.rounds > 1000, "the CPUs worked");
    ok1(sum.discarded > 0 && sum.faults > 0, "the host took blocks away");
    ok1(sum.errors == 0, "no content was lost or made up");
    return tap_done();
}
