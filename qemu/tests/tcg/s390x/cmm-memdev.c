/*
 * Test page states of memory devices: blocks have states, which ESSA sets, but
 * are never taken.
 *
 * To be run with discard=eager and a memory device of at least a MiB, which
 * starts at 1 GiB. Initial memory is smaller.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define DEVICE 0x40000000UL
#define HOLE (DEVICE - BLOCK)

INSN(essa_0, ".insn rrf,0xb9ab0000,%r1,%r2,0,0");
INSN(lg, "lg %r5,0(%r2)");

static const struct {
    const char *name;
    unsigned int command, after;
} commands[] = {
    { "set-unused", SET_UNUSED, UR },
    { "set-volatile", SET_VOLATILE, VR },
    { "set-potentially-volatile", SET_PVOLATILE, PR },
    { "set-stable-if-not-discarded", SET_STABLE_IF, SR },
    { "set-stable", SET_STABLE, SR },
};

int main(void)
{
    uint64_t regs[16] = { [2] = DEVICE };
    unsigned int i;

    cmm_init();
    ok1(policy_is_eager(fresh_block(SR)), "initial memory is taken at once");
    if (!ok1(execute(insn_lg, regs, 0, NULL) == 0, "there is a device")) {
        return tap_done();
    }
    for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        unsigned char *block = (unsigned char *)DEVICE + i * BLOCK;

        ok1(get_state(block) == SR, "a new block is stable and resident");
        memset(block, 0x5a, BLOCK);
        set_key(block, 0);
        essa(block, commands[i].command);
        tap_ok(get_state(block) == commands[i].after &&
               block[0] == 0x5a && block[BLOCK - 1] == 0x5a,
               commands[i].name, ": it is not taken", "");
    }
    regs[2] = HOLE;
    ok1(execute(insn_essa_0, regs, 0, NULL) == PGM_ADDRESSING,
        "addressing exception between initial memory and device");
    return tap_done();
}
