/*
 * A hostile guest: any command of ESSA on any block, its own program, lowcore
 * and DAT tables included, on all CPUs, until it has destroyed itself. There
 * is nothing to check but that QEMU survives.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define MAX_CPUS 8

static unsigned char lowcores[MAX_CPUS][2 * BLOCK]
    __attribute__((aligned(8192)));
unsigned char fuzz_stacks[MAX_CPUS][16384] __attribute__((aligned(8)));
static uint64_t tables[4096] __attribute__((aligned(4096)));

#define CPU_NR 0xf08

asm(
    "    .text\n"
    "fuzz_entry:\n"
    "    lg %r2,0xf08(%r0)\n"
    "    larl %r15,fuzz_stacks\n"
    "    sllg %r1,%r2,14\n"
    "    la %r15,0(%r15,%r1)\n"
    "    aghi %r15,16384-160\n"
    "    brasl %r14,fuzz_main\n"
    "    .balign 8\n");
extern char fuzz_entry[];

void fuzz_main(unsigned long cpu)
{
    uint64_t random = tod() * 2 + cpu * 0x9e3779b97f4a7c15UL + 1;

    while (1) {
        uint64_t r = next_random(&random);
        unsigned long addr = (r >> 8) % 0x8000 * BLOCK;

        /* Rarely what would end it: the program and the lowcore. */
        if (r % 262144 == 0) {
            addr = 0x1000000 + (r >> 8) % 128 * BLOCK;
        } else if (r % 262144 == 1) {
            addr = (r >> 8) % 2 * BLOCK;
        } else if (addr < 0x2000 || (addr >= 0x1000000 && addr < 0x1080000)) {
            continue;
        }
        switch ((r >> 40) % 16) {
        case 0:
            set_key((void *)addr, (r >> 50) & 0xfe);
            break;
        case 1:
            LOW(uint64_t, addr) = r;
            break;
        case 2:
            asm volatile("tprot 0(%0),0" : : "a" (addr) : "cc");
            break;
        case 3:
            asm volatile(".insn rre,0xb22c0000,%%r0,%0" : : "a" (addr)
                         : "0", "cc", "memory");
            break;
        case 4:
            if (r >> 48 == 0) {
                uint32_t prefix = addr & ~0x1fffUL;

                asm volatile("spx %0" : : "Q" (prefix) : "memory");
            }
            break;
        case 5:
            asm volatile("ptlb");
            break;
        case 6:
            if (r >> 60 == 0) {
                uint64_t asce = (unsigned long)tables | 3;

                tables[(r >> 30) % 4096] = r;
                asm volatile("lctlg %%c1,%%c1,%0" : : "Q" (asce));
                asm volatile("lra %%r1,0(%0)" : : "a" (addr) : "1", "cc");
            }
            break;
        case 7:
            asm volatile("stsch 0(%0)" : : "a" (addr & ~3UL), "d" (r)
                         : "1", "cc", "memory");
            break;
        default:
            essa((void *)addr, (r >> 44) % 8);
            break;
        }
    }
}

static void prepare_lowcore(unsigned char *lowcore, unsigned long cpu)
{
    /* Any exception: go on from the start. */
    *(uint64_t *)(lowcore + 0x1d0) = PSW_64;
    *(uint64_t *)(lowcore + 0x1d8) = (unsigned long)fuzz_entry;
    *(uint64_t *)(lowcore + 0x1a0) = PSW_64;
    *(uint64_t *)(lowcore + 0x1a8) = (unsigned long)fuzz_entry;
    *(uint64_t *)(lowcore + CPU_NR) = cpu;
}

int main(void)
{
    unsigned int cpu;

    ml_printf("# begin\n");
    for (cpu = 1; cpu < MAX_CPUS; cpu++) {
        prepare_lowcore(lowcores[cpu], cpu);
        if (!start_cpu(cpu, lowcores[cpu])) {
            break;
        }
    }
    prepare_lowcore(absolute(0), 0);
    fuzz_main(0);
    return 1;
}
