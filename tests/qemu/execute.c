/*
 * EXECUTE, whose target QEMU executes in a second step: of instructions that
 * QEMU starts again in another way, of stores into EXECUTE itself, with PER, and
 * on a CPU that another one resets. What QEMU does wrong here often ends in an
 * endless loop. And TROO of no characters.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define PSW_PER 0x4000000000000000UL
#define PGM_PER 0x80
#define PER_IFETCH 0x40000000UL
#define SIGP_CPU_RESET 0x0c

static unsigned char data[256] __attribute__((aligned(256)));
static uint64_t regs[16];

INSN(lpdg, "exrl %r0,1f; br %r14;"
     "1: .insn ssf,0xc80500000000,0(%r2),8(%r2),%r6");
INSN(lpd, "exrl %r0,1f; br %r14;"
     "1: .insn ssf,0xc80400000000,0(%r2),8(%r2),%r6");
INSN(asi, "exrl %r0,1f; br %r14; 1: asi 2(%r2),1");
INSN(agsi, "ex %r0,0(%r3); br %r14; 1: agsi 3(%r2),1");
INSN(alsi, "exrl %r0,1f; br %r14; 1: alsi 61(%r2),1");
INSN(laal, "exrl %r0,1f; br %r14; 1: laal %r6,%r7,0(%r2)");
INSN(mvcl, "exrl %r0,1f; br %r14; 1: mvcl %r2,%r4");
/* Into the EX at %r2: the opcode that it has, and its address */
INSN(self, "ex %r0,6(%r2); br %r14; 1: mvi 0(%r2),0x44");
INSN(self4, "ex %r6,32(%r2); br %r14; .skip 26; 1: st %r6,0(%r2)");
INSN(load, "ex %r0,6(%r2); br %r14; 1: lghi %r6,77");
INSN(move, "ex %r0,6(%r2); br %r14; 1: mvc 0(8,%r3),8(%r3)");
INSN(branch, "ex %r0,6(%r2); br %r14; 1: bras %r6,.+4; br %r14");
INSN(troo, "troo %r2,%r4,1");

static uint64_t get(unsigned int offset)
{
    uint64_t value;

    memcpy(&value, data + offset, sizeof(value));
    return value;
}

/* What is to be added to is at 2, 3 or 61, and so in two blocks of 64 bytes. */
static void test_again(void)
{
    unsigned int i, j;
    int ok;
    static const struct {
        const char *name, *insn;
    } tests[] = {
        { "LPDG", insn_lpdg }, { "LPD", insn_lpd }, { "ASI", insn_asi },
        { "AGSI", insn_agsi }, { "ALSI", insn_alsi }, { "LAAL", insn_laal },
    };

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        memset(data, 0, sizeof(data));
        data[0] = 0x12;
        data[15] = 0x34;
        ok = 1;
        for (j = 0; j < 100; j++) {
            memset(regs, 0, sizeof(regs));
            regs[2] = (unsigned long)data;
            regs[3] = (unsigned long)insn_agsi + 6;
            regs[7] = 1;
            ok = ok && execute(tests[i].insn, regs, 0, NULL) == 0;
        }
        switch (i) {
        case 0:
            ok = ok && lc()->cc == 0 &&
                 lc()->out_regs[6] == 0x1200000000000000UL &&
                 lc()->out_regs[7] == 0x34;
            break;
        case 1:
            ok = ok && lc()->cc == 0 && lc()->out_regs[6] == 0x12000000 &&
                 lc()->out_regs[7] == 0;
            break;
        case 2:
            ok = ok && get(0) == 0x1200000000640000UL;
            break;
        case 3:
            ok = ok && get(3) == 100;
            break;
        case 4:
            ok = ok && get(57) == 100;
            break;
        default:
            ok = ok && get(0) == 0x1200006400000000UL;
            break;
        }
        tap_ok(ok, "EXECUTE of ", tests[i].name, "");
    }
}

static void test_self(void)
{
    unsigned int i;
    int ok = 1;

    for (i = 0; i < 100; i++) {
        memset(regs, 0, sizeof(regs));
        regs[2] = (unsigned long)insn_self;
        ok = ok && execute(insn_self, regs, 0, NULL) == 0;
    }
    ok1(ok, "EXECUTE of a store into it, of one byte");
    for (i = 0; i < 100; i++) {
        memset(regs, 0, sizeof(regs));
        regs[2] = (unsigned long)insn_self4;
        memcpy((char *)&regs[6] + 4, insn_self4, 4);
        /* The last byte, 0x20, does no harm to the store. */
        ok = ok && execute(insn_self4, regs, 0, NULL) == 0;
    }
    ok1(ok, "EXECUTE of a store into it, of all of it");
}

/* It is interruptible, and has to end all the same. */
static void test_mvcl(void)
{
    memset(regs, 0, sizeof(regs));
    regs[2] = 0x4000000;
    regs[3] = 0xffffff;
    regs[5] = 0x5a000000;
    ok1(execute(insn_mvcl, regs, 0, NULL) == 0 && lc()->out_regs[3] == 0 &&
        *(unsigned char *)absolute(0x4fffffe) == 0x5a, "EXECUTE of MVCL");
}

static int go_on(void)
{
    return pgm.faults < 3;
}

/* An event is reported once, and then EXECUTE is over. */
static void test_per(void)
{
    static const struct {
        const char *name, *insn;
    } tests[] = {
        { "a load", insn_load }, { "MVC", insn_move }, { "a branch", insn_branch },
    };
    static const uint64_t none[3];
    unsigned long end, at;
    unsigned int i;
    int ok;

    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        at = (unsigned long)tests[i].insn;
        end = i == 2 ? at + 10 : at + 4;
        uint64_t per[3] = { PER_IFETCH, at, at };

        memset(data, 0, sizeof(data));
        data[8] = 99;
        memset(regs, 0, sizeof(regs));
        regs[2] = at;
        regs[3] = (unsigned long)data;
        asm volatile("lctlg %%c9,%%c11,%0" : : "Q" (per));
        execute(tests[i].insn, regs, PSW_PER, go_on);
        asm volatile("lctlg %%c9,%%c11,%0" : : "Q" (none));
        ok = pgm.faults == 1 && pgm.code == PGM_PER && pgm.psw_addr == end;
        switch (i) {
        case 0:
            ok = ok && pgm.regs[6] == 77;
            break;
        case 1:
            ok = ok && data[0] == 99;
            break;
        default:
            ok = ok && pgm.regs[6] == at + 4;
            break;
        }
        if (!tap_ok(ok, "PER, EXECUTE of ", tests[i].name, "")) {
            ml_printf("# %d events, code %x at %lx, EXECUTE at %lx\n",
                      pgm.faults, pgm.code, pgm.psw_addr, at);
        }
    }
}

/*
 * A CPU that does EXECUTE all the time: its first instruction says that it has
 * been restarted.
 */
asm(
    "    .text\n"
    "restarted:\n"
    "    lghi %r9,1\n"
    "    la %r8,2(%r9)\n"
    "    lghi %r9,0\n"
    "    st %r8,0xf10(%r0)\n"
    "    larl %r7,1f\n"
    "0:  ex %r0,0(%r7)\n"
    "    ex %r0,0(%r7)\n"
    "    ex %r0,0(%r7)\n"
    "    j 0b\n"
    "1:  tm 0xf11(%r0),1\n");
extern char restarted[];

static void test_reset(void)
{
    static unsigned char lowcore[2 * BLOCK] __attribute__((aligned(8192)));
    volatile uint32_t *said = (uint32_t *)(lowcore + 0xf10);
    unsigned int i, wrong = 0;
    uint64_t until, random = tod(), end = random + (3000000UL << 12);

    *(uint64_t *)(lowcore + 0x1a0) = PSW_64;
    *(uint64_t *)(lowcore + 0x1a8) = (unsigned long)restarted;
    if (!start_cpu(1, lowcore)) {
        return;
    }
    for (i = 0; i < 1000 && (i < 10 || tod() < end); i++) {
        while (!*said) {
            continue;
        }
        wrong += *said != 3;
        /* Up to 30 us */
        until = tod() + next_random(&random) % (30 * 4096);
        while (tod() < until) {
            continue;
        }
        while (sigp(1, SIGP_CPU_RESET, 0, NULL) == 2) {
            continue;
        }
        *said = 0;
        while (sigp(1, SIGP_RESTART, 0, NULL) == 2) {
            continue;
        }
    }
    stop_cpu(1);
    if (!ok1(!wrong, "a CPU that is reset and restarted forgets the target")) {
        ml_printf("# %d of %d times its first instruction was not executed\n",
                  wrong, i);
    }
}

/* Nothing is translated if there is nothing to be translated. */
static void test_troo(void)
{
    int ok;

    memset(data, 0x5a, sizeof(data));
    memset(regs, 0, sizeof(regs));
    regs[1] = (unsigned long)data + 64;
    regs[2] = (unsigned long)data;
    regs[4] = (unsigned long)data + 16;
    ok = execute(insn_troo, regs, 0, NULL) == 0 && lc()->cc == 0 &&
         same(lc()->out_regs, lc()->in_regs, sizeof(lc()->in_regs));
    ok1(ok, "TROO of no characters");
}

int main(void)
{
    uint64_t c0 = 0x0000000004860000UL;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    cmm_init();
    test_troo();
    test_mvcl();
    test_reset();
    test_per();
    test_self();
    test_again();
    return tap_done();
}
