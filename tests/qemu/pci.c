/*
 * What is valid for the memory bus, but no memory: a BAR of a PCI device, far
 * behind the end of memory. ESSA reports an addressing exception; instructions
 * for storage keys, and accesses when there are keys, must not look for such a
 * block in QEMU's tables.
 *
 * To be run with 128 MiB and a virtio-rng-pci.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define CLP_LIST_PCI 0x0002
#define CLP_SET_PCI_FN 0x0005
#define CLP_RC_OK 0x0010
#define CONFIG_SPACE 15
#define PCI_COMMAND 0x04
#define PCI_BASE_ADDRESS_4 0x20

#define VENDOR_VIRTIO 0x1af4
#define BAR_BLOCKS 4            /* of a modern virtio device */
#define NUM_QUEUES 0x12         /* in its common configuration */

static unsigned char clp_block[BLOCK] __attribute__((aligned(4096)));
static uint32_t handle;

INSN(essa_0, ".insn rrf,0xb9ab0000,%r1,%r2,0,0");
INSN(essa_1, ".insn rrf,0xb9ab0000,%r1,%r2,1,0");
INSN(essa_2, ".insn rrf,0xb9ab0000,%r1,%r2,2,0");
INSN(essa_3, ".insn rrf,0xb9ab0000,%r1,%r2,3,0");
INSN(essa_4, ".insn rrf,0xb9ab0000,%r1,%r2,4,0");
INSN(essa_5, ".insn rrf,0xb9ab0000,%r1,%r2,5,0");
INSN(essa_6, ".insn rrf,0xb9ab0000,%r1,%r2,6,0");
INSN(essa_7, ".insn rrf,0xb9ab0000,%r1,%r2,7,0");
INSN(load, "lrvh %r5,0(%r3)");
INSN(store, "strvh %r5,0(%r3)");
INSN(iske, "iske %r5,%r2");
INSN(sske, "sske %r5,%r2");
INSN(rrbe, "rrbe %r0,%r2");

static const struct {
    const char *name, *insn;
} essas[] = {
    { "command 0", insn_essa_0 }, { "command 1", insn_essa_1 },
    { "command 2", insn_essa_2 }, { "command 3", insn_essa_3 },
    { "command 4", insn_essa_4 }, { "command 5", insn_essa_5 },
    { "command 6", insn_essa_6 }, { "command 7", insn_essa_7 },
};

static uint32_t get32(unsigned int offset)
{
    return *(uint32_t *)(clp_block + offset);
}

static void put32(unsigned int offset, uint32_t value)
{
    *(uint32_t *)(clp_block + offset) = value;
}

/* The response follows the request, which is 32 bytes. Returns its code. */
static unsigned int clp(unsigned int response)
{
    int cc;

    put32(32, response << 16);
    asm volatile(".insn rrf,0xb9a00000,0,%1,0,2\n ipm %0; srl %0,28"
                 : "=d" (cc) : "d" (clp_block) : "cc", "memory");
    return cc ? 0xffff : get32(32) & 0xffff;
}

static int config_write(unsigned int offset, uint32_t value)
{
    register uint64_t data asm("6") = __builtin_bswap32(value);
    register uint64_t where asm("8") = (uint64_t)handle << 32 |
                                       CONFIG_SPACE << 16 | 4;
    register uint64_t at asm("9") = offset;
    int cc;

    /* PCISTG */
    asm volatile(".insn rre,0xb9d00000,%1,%2\n ipm %0; srl %0,28"
                 : "=d" (cc), "+d" (data), "+d" (where), "+d" (at)
                 : : "cc", "memory");
    return cc == 0;
}

/* Enable the function, the first in the list. */
static int enable_function(void)
{
    memset(clp_block, 0, sizeof(clp_block));
    put32(0, 32 << 16 | CLP_LIST_PCI);
    if (clp(32 + 16) != CLP_RC_OK || (get32(64) & 0xffff) != VENDOR_VIRTIO) {
        return 0;
    }
    handle = get32(64 + 12);
    memset(clp_block, 0, sizeof(clp_block));
    put32(0, 32 << 16 | CLP_SET_PCI_FN);
    put32(16, handle);
    put32(20, 1);               /* enable it, one DMA address space */
    if (clp(32) != CLP_RC_OK) {
        return 0;
    }
    handle = get32(32 + 16);
    return 1;
}

static int map_bar(unsigned long addr)
{
    return config_write(PCI_COMMAND, 0) &&
           config_write(PCI_BASE_ADDRESS_4, addr) &&
           config_write(PCI_BASE_ADDRESS_4 + 4, addr >> 32) &&
           config_write(PCI_COMMAND, 2);
}

/* Addresses in the BAR: %r2 for what has none, %r3 for loads */
static uint64_t regs[16];

static void set_regs(unsigned long bar, unsigned int block)
{
    memset(regs, 0, sizeof(regs));
    regs[1] = -1UL;
    regs[2] = bar + block * BLOCK;
    regs[3] = bar + NUM_QUEUES;
}

static int is_mapped(unsigned long bar)
{
    set_regs(bar, 0);
    return execute(insn_load, regs, 0, NULL) == 0 &&
           lc()->out_regs[5] == 1;      /* virtio-rng has one queue */
}

static void test_essa(unsigned long bar, const char *when)
{
    unsigned int i, block, code;
    int ok;

    for (i = 0; i < 8; i++) {
        ok = 1;
        for (block = 0; block < BAR_BLOCKS; block++) {
            set_regs(bar, block);
            code = execute(essas[i].insn, regs, 0, NULL);
            if (code != PGM_ADDRESSING ||
                pgm.psw_addr != (unsigned long)essas[i].insn + 4 ||
                !same(lc()->out_regs, lc()->in_regs, sizeof(lc()->in_regs))) {
                ml_printf("# block %d: code %x, result %lx\n", block, code,
                          lc()->out_regs[1]);
                ok = 0;
            }
        }
        tap_ok(ok, "ESSA is refused, ", essas[i].name, when);
    }
}

/*
 * The architecture has an addressing exception here. QEMU may also do without a
 * key: what matters is that it goes on.
 */
static int harmless(unsigned int code)
{
    return code == 0 || code == PGM_ADDRESSING;
}

static void test_keys(unsigned long bar, const char *when)
{
    static unsigned char block[BLOCK] __attribute__((aligned(4096)));
    unsigned int i, key;
    int ok[3] = { 1, 1, 1 };

    set_key(block, 0x30);
    for (i = 0; i < BAR_BLOCKS; i++) {
        set_regs(bar, i);
        ok[0] &= harmless(execute(insn_iske, regs, 0, NULL));
        ok[1] &= harmless(execute(insn_rrbe, regs, 0, NULL));
        for (key = 0; key < 256; key += 50) {
            regs[5] = key;
            ok[2] &= harmless(execute(insn_sske, regs, 0, NULL));
        }
    }
    tap_ok(ok[0], "ISKE does no harm", when, "");
    tap_ok(ok[1], "RRBE does no harm", when, "");
    tap_ok(ok[2], "SSKE does no harm", when, "");
    tap_ok(is_mapped(bar), "a load", when, "");
    set_regs(bar, 0);
    ok[0] = execute(insn_store, regs, 0, NULL) == 0;
    tap_ok(ok[0] && is_mapped(bar), "a store", when, "");
    tap_ok(get_key(block) == 0x30, "the key of a block is what it was", when,
           "");
}

int main(void)
{
    /* Right behind the tables, and far behind anything that QEMU has mapped */
    static const struct {
        unsigned long addr;
        const char *name, *with_keys;
    } bars[] = {
        { 0x8000000UL, ", BAR at the end of memory",
          ", BAR at the end of memory, with keys" },
        { 0x80000000UL, ", BAR at 2 GiB", ", BAR at 2 GiB, with keys" },
        { 0x10000000000UL, ", BAR at 1 TiB", ", BAR at 1 TiB, with keys" },
    };
    uint64_t c0 = 0x0000000004860000UL;
    unsigned int i;

    asm volatile("lctlg %%c0,%%c0,%0" : : "Q" (c0));
    cmm_init();
    if (!enable_function()) {
        ml_printf("Bail out! no PCI function: %x\n", get32(32));
        return 1;
    }
    for (i = 0; i < 3; i++) {
        unsigned long bar = bars[i].addr;
        int ok = map_bar(bar) && is_mapped(bar);

        tap_ok(ok, "mapped, and can be loaded from", bars[i].name, "");
        if (ok) {
            test_essa(bar, bars[i].name);
        }
    }
    /* From here on there are storage keys. */
    for (i = 0; i < 3; i++) {
        unsigned long bar = bars[i].addr;
        int ok = map_bar(bar);

        tap_ok(ok, "mapped again", bars[i].with_keys, "");
        if (ok) {
            test_keys(bar, bars[i].with_keys);
            test_essa(bar, bars[i].with_keys);
        }
    }
    map_bar(0x8000000UL);
    config_write(PCI_COMMAND, 0);
    set_regs(0x8000000UL, 0);
    ok1(execute(insn_load, regs, 0, NULL) == PGM_ADDRESSING &&
        execute(insn_essa_0, regs, 0, NULL) == PGM_ADDRESSING,
        "the BAR is gone: addressing exceptions");
    return tap_done();
}
