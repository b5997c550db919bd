/*
 * What the tests of page states (collaborative memory management) share:
 * ESSA, a program interruption handler, the execution of single instructions
 * with all registers under control, and reporting in the TAP format.
 *
 * To be included once, by tests that are linked with head64.o.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef CMM_H
#define CMM_H

#include <minilib.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 4096UL

/* States as ESSA reports them */
#define SR 0x00
#define SP 0x02
#define SZ 0x03
#define UR 0x04
#define UZ 0x07
#define PR 0x08
#define VR 0x0c
#define VZ 0x0f
#define NODAT 0x20

#define GET_STATE 0
#define SET_STABLE 1
#define SET_UNUSED 2
#define SET_VOLATILE 3
#define SET_PVOLATILE 4
#define SET_RESIDENT 5
#define SET_STABLE_IF 6
#define SET_STABLE_NODAT 7

#define PGM_OPERATION 0x01
#define PGM_PRIVILEGED 0x02
#define PGM_PROTECTION 0x04
#define PGM_ADDRESSING 0x05
#define PGM_SPECIFICATION 0x06
#define PGM_DISCARD 0x1a

#define PSW_64 0x0000000180000000UL
#define PSW_31 0x0000000080000000UL
#define PSW_DAT 0x0400000000000000UL
#define PSW_PROBLEM 0x0001000000000000UL
#define PSW_SECONDARY 0x0000800000000000UL
#define PSW_HOME 0x0000c00000000000UL

/* This file's part of the lowcore, in what is free for programs */
struct cmm_lowcore {
    uint64_t pgm_regs[16];              /* 0xd00 */
    uint64_t out_regs[16];              /* 0xd80 */
    uint64_t in_regs[16];               /* 0xe00 */
    uint64_t psw[2];                    /* 0xe80 */
    uint64_t stack;                     /* 0xe90 */
    uint64_t cc;                        /* 0xe98 */
    uint64_t back_psw[2];               /* 0xea0 */
};

/* Keep the compiler from knowing that these are near NULL. */
static inline void *absolute(unsigned long addr)
{
    asm("" : "+d" (addr));
    return (void *)addr;
}

static inline struct cmm_lowcore *lc(void)
{
    return absolute(0xd00);
}

#define LOW(type, addr) (*(volatile type *)absolute(addr))

static inline int same(const void *a, const void *b, unsigned long n)
{
    const char *p = a, *q = b;

    while (n && *p == *q) {
        p++, q++, n--;
    }
    return !n;
}

/*
 * run_insn: load all registers, and the PSW, from the lowcore; the instruction
 * under test is followed by a branch to %r14, which is insn_done. The program
 * interruption handler either returns to the old PSW or gives up.
 */
asm(
    "    .text\n"
    "run_insn:\n"
    "    stmg %r6,%r15,48(%r15)\n"
    "    stg %r15,0xe90(%r0)\n"
    "    lmg %r0,%r15,0xe00(%r0)\n"
    "    lpswe 0xe80(%r0)\n"
    "insn_done:\n"
    "    stmg %r0,%r15,0xd80(%r0)\n"
    "    ipm %r1\n"
    "    srl %r1,28\n"
    "    llgfr %r1,%r1\n"
    "    stg %r1,0xe98(%r0)\n"
    "    lpswe 0xea0(%r0)\n"
    "insn_back:\n"
    "    lg %r15,0xe90(%r0)\n"
    "    lmg %r6,%r15,48(%r15)\n"
    "    br %r14\n"
    "pgm_entry:\n"
    "    stmg %r0,%r15,0xd00(%r0)\n"
    "    larl %r15,pgm_stack\n"
    "    aghi %r15,8192-160\n"
    "    brasl %r14,pgm_handler\n"
    "    ltgr %r2,%r2\n"
    "    jne 1f\n"
    "    lmg %r0,%r15,0xd00(%r0)\n"
    "    lpswe 0x150(%r0)\n"
    "1:\n"
    "    mvc 0xd80(128,%r0),0xd00(%r0)\n"
    "    j insn_back\n");
extern char insn_done[], insn_back[], pgm_entry[];
void run_insn(void);
char pgm_stack[8192] __attribute__((aligned(8)));

/* What the last instruction did */
static struct {
    unsigned int faults;        /* how many interruptions there were */
    unsigned int code;          /* of the last one: */
    unsigned int ilen;
    unsigned long tec;
    unsigned long psw_mask;
    unsigned long psw_addr;
    uint64_t regs[16];
    /* Called by the handler; returns whether to return to the old PSW */
    int (*hook)(void);
} pgm;

long pgm_handler(void)
{
    pgm.faults++;
    pgm.code = LOW(uint16_t, 0x8e);
    pgm.ilen = LOW(uint8_t, 0x8d);
    pgm.tec = LOW(uint64_t, 0xa8);
    pgm.psw_mask = LOW(uint64_t, 0x150);
    pgm.psw_addr = LOW(uint64_t, 0x158);
    memcpy(pgm.regs, lc()->pgm_regs, sizeof(pgm.regs));
    if (!lc()->stack) {
        ml_printf("Bail out! program interruption %x at %lx, tec %lx\n",
                  pgm.code, pgm.psw_addr, pgm.tec);
        asm volatile("lpswe %0" : : "Q" ((uint64_t[2]) { 0x0002000180000000UL,
                                                        0 }));
    }
    return !(pgm.hook && pgm.hook());
}

static void cmm_init(void)
{
    lc()->stack = 0;
    lc()->back_psw[0] = PSW_64;
    lc()->back_psw[1] = (unsigned long)insn_back;
    LOW(uint64_t, 0x1d0) = PSW_64;
    LOW(uint64_t, 0x1d8) = (unsigned long)pgm_entry;
}

/*
 * Execute the instruction at @insn with @regs (%r14 is set by this function),
 * and with @mask in addition to 64-bit mode. Results: pgm, lc()->out_regs and
 * lc()->cc. Returns the code of the last interruption, or 0.
 */
static unsigned int execute_psw(const void *insn, const uint64_t *regs,
                                unsigned long mask, int (*hook)(void))
{
    memset(&pgm, 0, sizeof(pgm));
    pgm.hook = hook;
    memcpy(lc()->in_regs, regs, sizeof(lc()->in_regs));
    lc()->in_regs[14] = (unsigned long)insn_done;
    lc()->psw[0] = mask;
    lc()->psw[1] = (unsigned long)insn;
    LOW(uint64_t, 0xa8) = 0xdeadUL;
    run_insn();
    lc()->stack = 0;
    return pgm.code;
}

static inline unsigned int execute(const void *insn, const uint64_t *regs,
                                   unsigned long mask, int (*hook)(void))
{
    return execute_psw(insn, regs, mask | PSW_64, hook);
}

/* An instruction (or what is given) that execute() can execute */
#define INSN(name, text)                                                \
    asm("    .text\n"                                                   \
        "    .balign 8\n"                                               \
        "insn_" #name ":\n"                                             \
        "    " text "\n"                                                \
        "    br %r14\n"                                                 \
        "insn_" #name "_end:\n");                                       \
    extern char insn_##name[], insn_##name##_end[]

#define ESSA(cmd)                                                       \
    ({                                                                  \
        unsigned long state_;                                           \
        asm volatile(".insn rrf,0xb9ab0000,%0,%1,%2,0"                  \
                     : "=d" (state_) : "d" (addr_), "i" (cmd)           \
                     : "memory");                                       \
        state_;                                                         \
    })

/* Returns the old state, without the no-DAT attribute. */
static unsigned int essa(const void *block, unsigned int command)
{
    unsigned long addr_ = (unsigned long)block;

    switch (command) {
    case GET_STATE:
        return ESSA(0) & ~NODAT;
    case SET_STABLE:
        return ESSA(1) & ~NODAT;
    case SET_UNUSED:
        return ESSA(2) & ~NODAT;
    case SET_VOLATILE:
        return ESSA(3) & ~NODAT;
    case SET_PVOLATILE:
        return ESSA(4) & ~NODAT;
    case SET_RESIDENT:
        return ESSA(5) & ~NODAT;
    case SET_STABLE_IF:
        return ESSA(6) & ~NODAT;
    case SET_STABLE_NODAT:
        return ESSA(7) & ~NODAT;
    default:
        return -1;
    }
}

static inline unsigned int get_state(const void *block)
{
    return essa(block, GET_STATE);
}

/* The reference and the change bit of a storage key */
#define KEY_R 4
#define KEY_C 2

static inline void set_key(const void *block, unsigned int key)
{
    asm volatile("sske %0,%1" : : "d" (key), "d" (block) : "memory");
}

static inline unsigned int get_key(const void *block)
{
    unsigned long key = 0;

    asm volatile("iske %0,%1" : "+d" (key) : "d" (block) : "memory");
    return key & 0xff;
}

/* Blocks that nothing has touched, far behind the program */
static unsigned char *next_fresh = (unsigned char *)0x4000000;

/* The next one, filled with 0x5a if @state is a resident one */
static inline unsigned char *fresh_block(unsigned int state)
{
    unsigned char *block = next_fresh;

    next_fresh += BLOCK;
    if ((state & 3) == 0) {
        memset(block, 0x5a, BLOCK);
    }
    return block;
}

/* Say what a stable block is worth, so that it gets into @state. */
static inline void set_usage(const void *block, unsigned int state)
{
    switch (state) {
    case UR:
    case UZ:
        essa(block, SET_UNUSED);
        break;
    case VR:
    case VZ:
        essa(block, SET_VOLATILE);
        break;
    case PR:
        essa(block, SET_PVOLATILE);
        break;
    }
}

/* A block of the given state, without a policy of the host to change that */
static inline unsigned char *make_block(unsigned int state)
{
    unsigned char *block = fresh_block(state);

    set_usage(block, state);
    return block;
}

static inline int is_zeros(const unsigned char *p, unsigned long n)
{
    while (n && !*p) {
        p++, n--;
    }
    return !n;
}

static inline uint64_t tod(void)
{
    uint64_t now;

    asm volatile("stckf %0" : "=Q" (now) : : "cc", "memory");
    return now;
}

static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#define SIGP_SENSE 0x01
#define SIGP_EMERGENCY 0x03
#define SIGP_STOP 0x05
#define SIGP_RESTART 0x06
#define SIGP_INITIAL_CPU_RESET 0x0b
#define SIGP_SET_PREFIX 0x0d

/* Status */
#define SIGP_STOPPED 0x40

/* Returns the condition code, and the status if that is 1. */
static inline int sigp(unsigned int cpu, unsigned int order,
                       unsigned long parameter, unsigned long *status)
{
    register unsigned long p asm("1") = parameter;
    unsigned long addr = cpu;
    int cc;

    asm volatile("sigp %1,%2,0(%3); ipm %0; srl %0,28"
                 : "=d" (cc), "+d" (p) : "d" (addr), "a" ((long)order)
                 : "cc", "memory");
    if (status) {
        *status = p & 0xffffffff;
    }
    return cc;
}

/* Start a CPU at what its lowcore says. Returns 0 if there is no such CPU. */
static inline int start_cpu(unsigned int cpu, void *lowcore)
{
    return !sigp(cpu, SIGP_SET_PREFIX, (unsigned long)lowcore, NULL) &&
           !sigp(cpu, SIGP_RESTART, 0, NULL);
}

/* Stop a CPU, and wait until it is. */
static inline void stop_cpu(unsigned int cpu)
{
    unsigned long status;

    while (sigp(cpu, SIGP_STOP, 0, NULL) == 2) {
        continue;
    }
    do {
        status = 0;
    } while (sigp(cpu, SIGP_SENSE, 0, &status) != 1 ||
             !(status & SIGP_STOPPED));
}

static inline const char *state_name(unsigned int state)
{
    static const char *const names[] = {
        [SR] = "Sr", [SP] = "Sp", [SZ] = "Sz", [UR] = "Ur", [UZ] = "Uz",
        [PR] = "Pr", [VR] = "Vr", [VZ] = "Vz",
    };

    return state < sizeof(names) / sizeof(names[0]) && names[state] ?
           names[state] : "??";
}

/* The Test Anything Protocol */
static unsigned int tap_tests, tap_failures;

static int tap_ok(int ok, const char *a, const char *b, const char *c)
{
    tap_tests++;
    if (!ok) {
        tap_failures++;
    }
    ml_printf("%sok %d - %s%s%s\n", ok ? "" : "not ", tap_tests, a, b, c);
    return ok;
}

static inline int ok1(int ok, const char *name)
{
    return tap_ok(ok, name, "", "");
}

/* Returns what main() has to return. */
static int tap_done(void)
{
    ml_printf("1..%d\n", tap_tests);
    return tap_failures != 0;
}

/*
 * Is the host's policy to drop a block as soon as it may (discard=eager)?
 * Without that, only blocks that were never touched are zero.
 */
static inline int policy_is_eager(void *block)
{
    int eager;

    *(volatile char *)block = 1;
    essa(block, SET_VOLATILE);
    eager = get_state(block) == VZ;
    essa(block, SET_STABLE);
    return eager;
}

#endif /* CMM_H */
