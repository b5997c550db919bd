/*
 * Test prefix areas that were discarded: instructions that access them, and
 * interruptions, which cannot be delivered: the CPU enters the check-stop
 * state, nothing is stored, and a reset gets it out of there.
 *
 * To be run with discard=eager and two CPUs. The first one watches.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define SIGP_CHECK_STOP 0x10
#define SIGP_INVALID_PARAMETER 0x100
#define CC_STATUS_STORED 1

/* The prefix area of the other CPU, and one that nobody uses */
static unsigned char prefix_area[2 * BLOCK] __attribute__((aligned(8192)));
static unsigned char spare_area[2 * BLOCK] __attribute__((aligned(8192)));

static volatile unsigned int step;

/*
 * What the other CPU does after a restart: make its own lowcore volatile, and
 * thereby lose it; then what is under test. %r2 is the address of its lowcore.
 */
#define VICTIM(name, text)                                              \
    asm("    .text\n"                                                   \
        "victim_" #name ":\n"                                           \
        "    larl %r3,step\n"                                           \
        "    mvhi 0(%r3),1\n"                                           \
        "    larl %r2,prefix_area\n"                                    \
        "    .insn rrf,0xb9ab0000,%r1,%r2,3,0\n"                        \
        "    " text "\n"                                                \
        "    larl %r3,step\n"                                           \
        "    mvhi 0(%r3),2\n"                                           \
        "    j .\n");                                                   \
    extern char victim_##name[]

asm(".globl step, prefix_area");
VICTIM(none, "nopr %r7");
VICTIM(svc, "svc 1");
VICTIM(program, ".long 0");
VICTIM(fetch, "lg %r4,0(%r0)");
VICTIM(stfl, "stfl 0");
VICTIM(external, "larl %r3,external_mask; lctlg %c0,%c0,8(%r3);"
       "stosm 0(%r3),1; j .");
/* SIGP restart while it waits with all of its lowcore gone */
VICTIM(restart, "larl %r3,step; mvhi 0(%r3),3; j .");

static const struct {
    const char *name;
    const char *entry;
    int restart;
} victims[] = {
    { "supervisor call", victim_svc },
    { "program interruption", victim_program },
    { "discard fault", victim_fetch },
    { "STFL", victim_stfl },
    { "external interruption", victim_external },
    { "restart", victim_restart, 1 },
};

/* Scratch for STOSM, and CR0 with the emergency signal enabled */
uint64_t external_mask[2] = { 0, 0x4000 };

/* Wait up to a second, or for a tenth if it is not to happen. */
static int sense(unsigned long wanted)
{
    uint64_t end = tod() + ((wanted ? 1000000UL : 100000UL) << 12);
    unsigned long status = 0;

    do {
        if (!sigp(1, SIGP_SENSE, 0, &status)) {
            status = 0;
        }
    } while ((!wanted || status != wanted) && tod() < end);
    return status == wanted;
}

/* Start the other CPU from scratch. */
static int start(const char *entry)
{
    essa(prefix_area, SET_STABLE);
    essa(prefix_area + BLOCK, SET_STABLE);
    memset(prefix_area, 0, sizeof(prefix_area));
    *(uint64_t *)(prefix_area + 0x1a0) = PSW_64;
    *(uint64_t *)(prefix_area + 0x1a8) = (unsigned long)entry;
    step = 0;
    return !sigp(1, SIGP_INITIAL_CPU_RESET, 0, NULL) &&
           sense(SIGP_STOPPED) &&
           start_cpu(1, prefix_area);
}

static void test_interruptions(void)
{
    unsigned int i;

    for (i = 0; i < sizeof(victims) / sizeof(victims[0]); i++) {
        int started = start(victims[i].entry);
        int stopped;

        if (victims[i].restart) {
            while (step != 3) {
                continue;
            }
            sigp(1, SIGP_RESTART, 0, NULL);
        } else if (victims[i].entry == victim_external) {
            sigp(1, SIGP_EMERGENCY, 0, NULL);
        }
        stopped = sense(SIGP_CHECK_STOP);
        tap_ok(started && stopped && step != 2 && step != 0, victims[i].name,
               ": check-stop", "");
        tap_ok(get_state(prefix_area) == VZ, victims[i].name,
               ": the block is still discarded", "");
        essa(prefix_area, SET_STABLE);
        tap_ok(is_zeros(prefix_area, BLOCK), victims[i].name,
               ": nothing was stored", "");
    }

    /* Negative control: it does not stop without an interruption. */
    ok1(start(victim_none) && sense(0) && step == 2,
        "no interruption: the CPU goes on");
    sigp(1, SIGP_INITIAL_CPU_RESET, 0, NULL);
}

INSN(spx, "spx 0(%r2)");

static void make(unsigned char *block, unsigned int command)
{
    essa(block, SET_STABLE);
    memset(block, 0x5a, BLOCK);
    essa(block, command);
}

static void test_instructions(void)
{
    uint32_t prefix = (unsigned long)spare_area;
    uint64_t regs[16] = { [2] = (unsigned long)&prefix };
    unsigned long status;
    unsigned int i;

    for (i = 0; i < 2; i++) {
        unsigned char *block = spare_area + i * BLOCK;
        const char *which = i ? "second block" : "first block";

        make(block, SET_VOLATILE);
        tap_ok(execute(insn_spx, regs, 0, NULL) == PGM_DISCARD &&
               pgm.tec == (unsigned long)block &&
               pgm.psw_addr == (unsigned long)insn_spx,
               "SET PREFIX, volatile: discard fault, ", which, "");
        sigp(1, SIGP_INITIAL_CPU_RESET, 0, NULL);
        sense(SIGP_STOPPED);
        tap_ok(sigp(1, SIGP_SET_PREFIX, prefix, &status) == CC_STATUS_STORED &&
               status == SIGP_INVALID_PARAMETER,
               "SIGP, volatile: invalid parameter, ", which, "");
        make(block, SET_UNUSED);
        tap_ok(execute(insn_spx, regs, 0, NULL) == PGM_ADDRESSING &&
               pgm.psw_addr == (unsigned long)insn_spx + 4,
               "SET PREFIX, unused: addressing exception, ", which, "");
        tap_ok(sigp(1, SIGP_SET_PREFIX, prefix, &status) == CC_STATUS_STORED &&
               status == SIGP_INVALID_PARAMETER,
               "SIGP, unused: invalid parameter, ", which, "");
        essa(block, SET_STABLE);
        tap_ok(get_state(block) == SZ && sigp(1, SIGP_SET_PREFIX, prefix,
                                              &status) == 0 &&
               get_state(block) == SR,
               "SIGP, zero: makes it resident, ", which, "");
    }
}

int main(void)
{
    cmm_init();
    test_instructions();
    test_interruptions();
    return tap_done();
}
