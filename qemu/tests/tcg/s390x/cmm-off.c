/*
 * Test that without the feature cmm there is no ESSA, and without cmmnt no
 * command 7. To be run with cmm=off, or with cmm=on,cmmnt=off.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

INSN(essa_0, ".insn rrf,0xb9ab0000,%r1,%r2,0,0");
INSN(essa_7, ".insn rrf,0xb9ab0000,%r1,%r2,7,0");

int main(void)
{
    uint64_t regs[16] = { [2] = 0x4000000 };
    unsigned int code;

    cmm_init();
    code = execute(insn_essa_0, regs, 0, NULL);
    if (code) {
        ok1(code == PGM_OPERATION, "cmm=off: operation exception");
        ok1(execute(insn_essa_0, regs, PSW_PROBLEM, NULL) == PGM_OPERATION,
            "cmm=off: operation exception in the problem state, too");
    } else {
        ok1(execute(insn_essa_7, regs, 0, NULL) == PGM_SPECIFICATION,
            "cmmnt=off: specification exception for command 7");
    }
    return tap_done();
}
