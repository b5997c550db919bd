/*
 * Test channel I/O into and from blocks in each page state.
 *
 * SENSE ID makes any channel device write some bytes; the default network card
 * will do. Blocks that were never touched are zero. To be run with
 * discard=demand, and a memory device of at least a MiB, which starts at 1 GiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

struct schib {
    uint32_t intparm;
    uint32_t flags;
    uint32_t rest[11];
} __attribute__((packed, aligned(4)));

struct orb {
    uint32_t intparm;
    uint32_t flags;
    uint32_t cpa;
    uint32_t rest[13];
} __attribute__((packed, aligned(4)));

struct ccw1 {
    uint8_t cmd;
    uint8_t flags;
    uint16_t count;
    uint32_t addr;
} __attribute__((packed, aligned(8)));

struct irb {
    uint32_t flags;
    uint32_t ccw_addr;
    uint8_t dev_status;
    uint8_t sub_status;
    uint16_t count;
    uint32_t rest[21];
} __attribute__((packed, aligned(4)));

#define DEVICE 0x40000000UL

#define SENSE_ID 0xe4
#define SLI 0x20

static unsigned long schid;
static int io(const char *op, void *operand)
{
    register unsigned long sch asm("1") = schid;
    register unsigned long addr asm("2") = (unsigned long)operand;
    int cc;

    switch (*op) {
    case 's':
        asm volatile("stsch 0(%2); ipm %0; srl %0,28"
                     : "=d" (cc) : "d" (sch), "d" (addr) : "cc", "memory");
        return cc;
    case 'm':
        asm volatile("msch 0(%2); ipm %0; srl %0,28"
                     : "=d" (cc) : "d" (sch), "d" (addr) : "cc", "memory");
        return cc;
    case 'S':
        asm volatile("ssch 0(%2); ipm %0; srl %0,28"
                     : "=d" (cc) : "d" (sch), "d" (addr) : "cc", "memory");
        return cc;
    default:
        asm volatile("tsch 0(%2); ipm %0; srl %0,28"
                     : "=d" (cc) : "d" (sch), "d" (addr) : "cc", "memory");
        return cc;
    }
}

/* Enable the first device. */
static int find_device(void)
{
    struct schib schib;
    int i;

    for (i = 0; i < 16; i++) {
        schid = 0x10000 + i;
        if (io("stsch", &schib) == 0 && (schib.flags & 0x00010000)) {
            schib.flags |= 0x00800000;
            return io("msch", &schib) == 0;
        }
    }
    return 0;
}

/* Returns the subchannel status, or -1. */
static int run_ccw(struct ccw1 *ccw)
{
    struct orb orb = { .flags = 0x0080ff00, .cpa = (unsigned long)ccw };
    struct irb irb = {};
    int i;

    if (io("Ssch", &orb)) {
        return -1;
    }
    for (i = 0; i < 1000000; i++) {
        if (io("tsch", &irb) == 0) {
            return irb.sub_status;
        }
    }
    return -1;
}

static void test_into(void)
{
    static const unsigned int states[] = { SR, SZ, UR, UZ, VR, VZ, PR };
    static const unsigned int after[] = { SR, SR, UR, UR, VR, VZ, PR };
    unsigned int i, left, key;
    struct ccw1 ccw;
    int status;

    for (i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        unsigned char *block = make_block(states[i]);

        set_key(block, 0);
        ccw = (struct ccw1) { SENSE_ID, SLI, 7, (unsigned long)block + 0x100 };
        status = run_ccw(&ccw);
        left = get_state(block);
        key = get_key(block);
        tap_ok(status == 0 && left == after[i], "device writes to ",
               state_name(states[i]), "");
        if (status || left != after[i]) {
            ml_printf("# status %x state %s\n", status, state_name(left));
        }
        tap_ok(key == (KEY_R | KEY_C), "device writes to ",
               state_name(states[i]), ": referenced and changed");
        essa(block, SET_STABLE);
        /* The first byte of a sense-ID is 0xff */
        tap_ok(block[0x100] == (after[i] == VZ ? 0 : 0xff) &&
               block[0x107] == (states[i] & 3 ? 0 : 0x5a), "device writes to ",
               state_name(states[i]),
               after[i] == VZ ? ": discarded" : ": is there");
    }
}

/* A write that covers two blocks */
static void test_two_blocks(void)
{
    unsigned char *zero = make_block(SZ);
    unsigned char *lost = make_block(VZ);
    struct ccw1 ccw = { SENSE_ID, SLI, 7, (unsigned long)lost - 3 };
    int status = run_ccw(&ccw);

    ok1(status == 0 && get_state(zero) == SR && get_state(lost) == VZ,
        "device writes to Sz and Vz");
    essa(lost, SET_STABLE);
    ok1(zero[BLOCK - 3] == 0xff && lost[0] == 0 && lost[3] == 0,
        "only the former gets the data");
}

/* Memory devices have storage keys, too. */
INSN(lg, "lg %r3,0(%r2)");

static void test_memory_device(void)
{
    unsigned char *block = (unsigned char *)DEVICE + 5 * BLOCK;
    uint64_t regs[16] = { [2] = DEVICE };
    struct ccw1 ccw = { SENSE_ID, SLI, 7, (unsigned long)block - 3 };
    int status;

    if (!ok1(execute(insn_lg, regs, 0, NULL) == 0,
             "there is a memory device")) {
        return;
    }
    memset(block - 2 * BLOCK, 0x5a, 4 * BLOCK);
    set_key(block - 2 * BLOCK, 0);
    set_key(block - BLOCK, 0);
    set_key(block, 0);
    set_key(block + BLOCK, 0);
    status = run_ccw(&ccw);
    ok1(status == 0 && get_key(block - BLOCK) == (KEY_R | KEY_C) &&
        get_key(block) == (KEY_R | KEY_C),
        "device writes to a memory device: referenced and changed");
    ok1(get_key(block - 2 * BLOCK) == 0 && get_key(block + BLOCK) == 0,
        "other blocks of it are not");
    ok1(block[-3] == 0xff && block[-4] == 0x5a && block[4] == 0x5a &&
        get_state(block) == SR, "device writes to a memory device: is there");
}

/* The channel program itself was discarded: it is zeros for the device. */
static void test_ccw(void)
{
    unsigned char *block = make_block(VZ);
    int status = run_ccw((struct ccw1 *)block);

    ok1(status == 0x20 && get_state(block) == VZ,
        "channel program in Vz: program check");
    essa(block, SET_STABLE);
    block = make_block(UZ);
    status = run_ccw((struct ccw1 *)block);
    ok1(status == 0x20 && get_state(block) == UZ,
        "channel program in Uz: program check");
    essa(block, SET_STABLE);
}

/* The CPU accesses the operands of I/O instructions. */
INSN(stsch, "stsch 0(%r2)");
INSN(msch, "msch 0(%r2)");
INSN(ssch, "ssch 0(%r2)");
INSN(tsch, "tsch 0(%r2)");

static void test_operands(void)
{
    static const struct {
        const char *name;
        const char *insn;
    } insns[] = {
        { "STSCH", insn_stsch },
        { "MSCH", insn_msch },
        { "SSCH", insn_ssch },
        { "TSCH", insn_tsch },
    };
    uint64_t regs[16] = { [1] = schid };
    unsigned char *block = make_block(VZ);
    unsigned int i;

    regs[2] = (unsigned long)block;
    for (i = 0; i < 4; i++) {
        execute(insns[i].insn, regs, 0, NULL);
        tap_ok(pgm.code == PGM_DISCARD && pgm.tec == (unsigned long)block &&
               pgm.psw_addr == (unsigned long)insns[i].insn &&
               pgm.ilen == 4, insns[i].name, ": operand in Vz", "");
    }
    essa(block, SET_STABLE);
}

int main(void)
{
    cmm_init();
    if (!ok1(find_device(), "find and enable a device")) {
        return tap_done();
    }
    test_into();
    test_two_blocks();
    test_memory_device();
    test_ccw();
    test_operands();
    return tap_done();
}
