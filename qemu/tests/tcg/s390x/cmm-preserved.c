/*
 * Test ESSA and accesses with blocks that the host has paged out (preserved).
 *
 * To be run with a paging file and a low limit of resident memory, so that
 * stable blocks are paged out when they are not used for a moment.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

static void fill(unsigned char *block, unsigned int seed)
{
    unsigned int i;

    for (i = 0; i < BLOCK; i++) {
        block[i] = i * 7 + i / 256 + seed;
    }
}

static int filled(const unsigned char *block, unsigned int seed)
{
    unsigned int i;

    for (i = 0; i < BLOCK; i++) {
        if (block[i] != (unsigned char)(i * 7 + i / 256 + seed)) {
            return 0;
        }
    }
    return 1;
}

/* A block that is preserved; wait up to 20 s for that. */
static unsigned char *make(int changed, unsigned int seed)
{
    unsigned char *block = fresh_block(SZ);
    uint64_t end = tod() + (20000000UL << 12);

    fill(block, seed);
    set_key(block, changed ? 6 : 0);
    while (get_state(block) != SP && tod() < end) {
        continue;
    }
    return block;
}

static const struct {
    const char *name;
    unsigned int command;
    int changed;
    unsigned int after;
} commands[] = {
    { "get-state", GET_STATE, 0, SP },
    { "set-stable", SET_STABLE, 0, SP },
    { "set-unused", SET_UNUSED, 0, UZ },
    { "set-volatile", SET_VOLATILE, 0, VZ },
    { "set-potentially-volatile, unchanged", SET_PVOLATILE, 0, VZ },
    { "set-potentially-volatile, changed", SET_PVOLATILE, 1, SP },
    { "set-stable-make-resident", SET_RESIDENT, 0, SR },
    { "set-stable-if-not-discarded", SET_STABLE_IF, 0, SP },
    { "set-stable-nodat", SET_STABLE_NODAT, 0, SP },
};

static void test_commands(void)
{
    unsigned int i, made, old, new;
    int ok;

    for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        unsigned char *block = make(commands[i].changed, i);

        made = get_state(block);
        old = essa(block, commands[i].command);
        new = get_state(block);
        ok = made == SP && old == SP && new == commands[i].after;
        tap_ok(ok, "Sp ", commands[i].name, "");
        if (!ok) {
            ml_printf("# made %s, returned %s, then %s, expected %s\n",
                      state_name(made), state_name(old), state_name(new),
                      state_name(commands[i].after));
        }
        essa(block, SET_STABLE);
        ok = commands[i].after == UZ || commands[i].after == VZ ?
             is_zeros(block, BLOCK) : filled(block, i);
        tap_ok(ok, "Sp ", commands[i].name, ": content");
    }
}

static unsigned char buffer[BLOCK] __attribute__((aligned(4096)));

static void test_accesses(void)
{
    unsigned char *block = make(1, 42);

    ok1(get_state(block) == SP && block[100] == (unsigned char)(100 * 7 + 42) &&
        get_state(block) == SR, "a fetch makes it resident");
    block = make(1, 43);
    block[0] = 1;
    block[0] = 43;
    ok1(get_state(block) == SR && filled(block, 43),
        "a store changes one byte, and no other");
    block = make(1, 44);
    asm volatile("lgr %%r2,%0; lgr %%r4,%1; lghi %%r0,0; mvpg %%r2,%%r4"
                 : : "d" (buffer), "d" (block) : "0", "2", "4", "cc", "memory");
    ok1(get_state(block) == SR && filled(buffer, 44), "MVPG from it");
    block = make(1, 45);
    asm volatile("llilh %%r1,1; stsch 0(%0)"
                 : : "a" (block) : "1", "cc", "memory");
    ok1(get_state(block) == SR, "an operand of an I/O instruction");
    ok1(block[BLOCK - 1] == (unsigned char)((BLOCK - 1) * 7 + 15 + 45),
        "the rest of that block is as it was");
}

int main(void)
{
    cmm_init();
    test_commands();
    test_accesses();
    return tap_done();
}
