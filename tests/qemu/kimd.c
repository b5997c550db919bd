/*
 * KIMD and KLMD do nothing before an access exception: if one of the two blocks
 * that the parameter block is in cannot be stored into, or was discarded, the
 * chaining value in the other one is what it was.
 *
 * To be run with discard=eager.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define ENTRY_INVALID 0x20
#define PAGE_INVALID 0x400UL
#define PAGE_PROTECTED 0x200UL
#define PGM_PAGE_TRANSLATION 0x11
#define SHA_512 3

#define OCV 64                  /* the chaining value; all that is stored */
#define PARAM (OCV + 16)        /* with the length of the message in bits */

static uint64_t segment[2048] __attribute__((aligned(4096)));
static uint64_t identity[32 * 256] __attribute__((aligned(4096)));

/* The parameter block crosses from the first into the second. */
static unsigned char arena[2 * BLOCK] __attribute__((aligned(4096)));
static unsigned char snapshot[2 * BLOCK] __attribute__((aligned(4096)));

static const uint64_t initial[8] = {
    0x6a09e667f3bcc908UL, 0xbb67ae8584caa73bUL, 0x3c6ef372fe94f82bUL,
    0xa54ff53a5f1d36f1UL, 0x510e527fade682d1UL, 0x9b05688c2b3e6c1fUL,
    0x1f83d9abfb41bd6bUL, 0x5be0cd19137e2179UL,
};

/* The digest of "abc" that FIPS 180 has as its example */
static const uint64_t abc[8] = {
    0xddaf35a193617abaUL, 0xcc417349ae204131UL, 0x12e6fa4e89a97ea2UL,
    0x0a9eeee64b55d39aUL, 0x2192992a274fc1a8UL, 0x36ba3c23a3feebbdUL,
    0x454d4423643ce80eUL, 0x2a9ac94fa54ca49fUL,
};

static unsigned char message[256] __attribute__((aligned(256))) = "abc";

INSN(kimd, ".insn rre,0xb93e0000,%r0,%r8");
INSN(klmd, ".insn rre,0xb93f0000,%r0,%r8");

static const struct test {
    const char *name;
    const char *insn;
    unsigned long len;          /* of the message */
} tests[] = {
    { "KIMD", insn_kimd, 256 },
    { "KLMD, nothing but the end", insn_klmd, 3 },
    { "KLMD, a block and the end", insn_klmd, 131 },
};

static void ptlb(void)
{
    asm volatile("ptlb" : : : "memory");
}

static void make_tables(void)
{
    unsigned long asce = (unsigned long)segment | 3;
    unsigned long i;

    for (i = 0; i < 2048; i++) {
        segment[i] = i < 32 ? (unsigned long)&identity[i * 256] : ENTRY_INVALID;
    }
    for (i = 0; i < 32 * 256; i++) {
        identity[i] = i * BLOCK;
    }
    asm volatile("lctlg %%c1,%%c1,%0" : : "Q" (asce) : "memory");
}

static void set_page(const void *block, unsigned long bits)
{
    identity[(unsigned long)block / BLOCK] = (unsigned long)block | bits;
    ptlb();
}

static unsigned int start(const struct test *test, unsigned char *param)
{
    uint64_t length = test->len * 8;
    uint64_t regs[16] = { [0] = SHA_512, [1] = (unsigned long)param,
                          [8] = (unsigned long)message, [9] = test->len };

    memset(arena, 0x5a, sizeof(arena));
    memcpy(param, initial, OCV);
    memset(param + OCV, 0, 8);
    memcpy(param + OCV + 8, &length, 8);
    memcpy(snapshot, arena, sizeof(arena));
    return execute(test->insn, regs, PSW_DAT, NULL);
}

/* What to discard when the parameters are there */
static unsigned char *to_discard;

static unsigned int start_discarded(const struct test *test,
                                    unsigned char *param)
{
    uint64_t regs[16] = { [0] = SHA_512, [1] = (unsigned long)param,
                          [8] = (unsigned long)message, [9] = test->len };

    start(test, param);
    memcpy(arena, snapshot, sizeof(arena));
    essa(to_discard, SET_VOLATILE);
    return execute(test->insn, regs, PSW_DAT, NULL);
}

static int done(const struct test *test)
{
    return pgm.faults == 0 && lc()->cc == 0 && lc()->out_regs[9] == 0 &&
           lc()->out_regs[8] == (unsigned long)message + test->len;
}

static int unchanged(void)
{
    return pgm.faults == 1 &&
           same(pgm.regs, lc()->in_regs, sizeof(pgm.regs)) &&
           same(arena, snapshot, sizeof(arena));
}

static void explain(int ok)
{
    if (!ok) {
        ml_printf("# %d faults, code %x, arena %s, registers %s\n",
                  pgm.faults, pgm.code,
                  same(arena, snapshot, sizeof(arena)) ? "same" : "different",
                  same(pgm.regs, lc()->in_regs, sizeof(pgm.regs)) ?
                  "same" : "different");
    }
}

static void run_test(const struct test *test)
{
    static const struct {
        unsigned int before;
        const char *name;
    } splits[] = {
        { 8, ", 8 bytes in the first" },
        { 32, ", 32 bytes in the first" },
        { 56, ", 56 bytes in the first" },
    };
    unsigned char *const second = arena + BLOCK;
    uint64_t digest[8];
    unsigned char *param;
    unsigned int i, before;
    const char *where;
    int ok, twice;

    start(test, arena);
    memcpy(digest, arena, OCV);
    tap_ok(done(test) && !same(digest, initial, OCV) &&
           (test->len != 3 || same(digest, abc, OCV)),
           test->name, ": parameters in one block", "");

    for (i = 0; i < 3; i++) {
        before = splits[i].before;
        where = splits[i].name;
        param = second - before;

        start(test, param);
        tap_ok(done(test) && same(param, digest, OCV) &&
               same(arena, snapshot, BLOCK - before) &&
               same(param + OCV, snapshot + BLOCK - before + OCV, 16),
               test->name, ": in two blocks", where);

        set_page(second, PAGE_PROTECTED);
        ok = start(test, param) == PGM_PROTECTION && unchanged();
        twice = ok;
        set_page(second, 0);
        tap_ok(ok, test->name, ": the second is protected", where);
        explain(ok);

        set_page(arena, PAGE_PROTECTED);
        ok = start(test, param) == PGM_PROTECTION && unchanged();
        set_page(arena, 0);
        tap_ok(ok, test->name, ": the first is protected", where);
        explain(ok);

        set_page(second, PAGE_INVALID);
        ok = start(test, param) == PGM_PAGE_TRANSLATION && unchanged();
        set_page(second, 0);
        tap_ok(ok, test->name, ": the second is invalid", where);
        explain(ok);

        to_discard = second;
        ok = start_discarded(test, param) == PGM_DISCARD &&
             pgm.tec == (unsigned long)second && get_state(second) == VZ;
        essa(second, SET_STABLE);
        memcpy(second, snapshot + BLOCK, BLOCK);
        ok = ok && unchanged();
        tap_ok(ok, test->name, ": the second is discarded", where);
        explain(ok);

        /* When it is tried again, the result is right. */
        set_page(second, PAGE_PROTECTED);
        start(test, param);
        set_page(second, 0);
        execute(test->insn, lc()->in_regs, PSW_DAT, NULL);
        tap_ok(twice && done(test) && same(param, digest, OCV),
               test->name, ": executed again after the exception", where);
    }

    /* Nothing is stored behind the chaining value. */
    set_page(second, PAGE_PROTECTED);
    start(test, second - OCV);
    set_page(second, 0);
    tap_ok(done(test) && same(second - OCV, digest, OCV),
           test->name, ": only the length is protected", "");
}

int main(void)
{
    uint64_t c0 = 0x0000000004860000UL;
    unsigned int i;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    cmm_init();
    make_tables();
    for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        run_test(&tests[i]);
    }
    return tap_done();
}
