/*
 * Test what resets do to page states: all blocks are stable afterwards, and
 * nothing of what was lost comes back.
 *
 * The test restarts itself with DIAGNOSE 308. To be run with discard=demand.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define FRESH 0x4000000UL

void restart(void);
void sclp_setup(void);
int main(void);

/* Where the short PSW at absolute 0 points to */
asm(
    "    .text\n"
    "restart_entry:\n"
    "    sam64\n"
    "    larl %r15,restart_stack\n"
    "    aghi %r15,16384-160\n"
    "    brasl %r14,restart\n");
extern char restart_entry[];
char restart_stack[16384] __attribute__((aligned(8)));

static const struct {
    unsigned int state, command, after;
} blocks[] = {
    { SR, GET_STATE, SR },
    { SZ, GET_STATE, SZ },
    { UR, SET_UNUSED, SR },
    { UZ, SET_UNUSED, SZ },
    { VR, SET_VOLATILE, SR },
    { VZ, SET_VOLATILE, SZ },
    { PR, SET_PVOLATILE, SR },
    { SR | NODAT, SET_STABLE_NODAT, SR },
};

static unsigned int phase, tests, failures;
static const char *const names[] = {
    "load clear", "load normal", "load clear again",
};
static const unsigned int subcodes[] = { 0, 1, 0 };

static unsigned char *block(unsigned int i)
{
    return (unsigned char *)FRESH + (phase * 16 + i) * BLOCK;
}

static void reset(void)
{
    unsigned int i;

    for (i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        if ((blocks[i].state & 3) == 0) {
            memset(block(i), 0x5a, BLOCK);
        }
        essa(block(i), blocks[i].command);
        tap_ok(get_state(block(i)) == (blocks[i].state & ~NODAT), names[phase],
               ", before: ", state_name(blocks[i].state & ~NODAT));
    }
    tests = tap_tests;
    failures = tap_failures;
    LOW(uint32_t, 0) = 0x00080000;
    LOW(uint32_t, 4) = 0x80000000 | (unsigned long)restart_entry;
    asm volatile("diag %%r2,%0,0x308" : : "d" (subcodes[phase]) : "memory");
    ok1(0, "DIAGNOSE 308 does not return");
}

void restart(void)
{
    unsigned int i, j;
    int r;

    sclp_setup();
    cmm_init();
    tap_tests = tests;
    tap_failures = failures;
    for (i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        unsigned long addr_ = (unsigned long)block(i);
        unsigned int state = ESSA(0);
        unsigned char want = blocks[i].after == SZ ? 0 : 0x5a;

        tap_ok(state == blocks[i].after, names[phase], ", after: ",
               state_name(blocks[i].state & ~NODAT));
        for (j = 0; j < BLOCK && block(i)[j] == want; j++) {
            continue;
        }
        tap_ok(j == BLOCK, names[phase], ", content: ",
               state_name(blocks[i].state & ~NODAT));
    }
    if (++phase < sizeof(subcodes) / sizeof(subcodes[0])) {
        reset();
    }
    r = tap_done();
    asm volatile("lpswe %0" : :
                 "Q" ((uint64_t[2]) { 0x0002000180000000UL, r ? 0 : 0xfff }));
}

int main(void)
{
    cmm_init();
    reset();
    return 1;
}
