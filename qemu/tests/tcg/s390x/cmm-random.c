/*
 * Print a trace of what a host with discard=random does. With a single CPU, it
 * is the same for the same discard-seed, and another one for another.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "cmm.h"

#define BLOCKS 256
#define STEPS 50000

static unsigned char pool[BLOCKS * BLOCK] __attribute__((aligned(4096)));

int main(void)
{
    uint64_t random = 88172645463325252UL, trace = 0;
    unsigned long taken = 0;
    unsigned int i;

    cmm_init();
    for (i = 0; i < STEPS; i++) {
        uint64_t r = next_random(&random);
        unsigned char *block = pool + r % BLOCKS * BLOCK;
        unsigned int state = essa(block, SET_STABLE);

        taken += state == VZ || state == UZ;
        trace = trace * 0x9e3779b97f4a7c15UL + state + 1;
        *(volatile unsigned char *)block = i;
        if (r >> 60 == 0) {
            set_key(block, 0);
        }
        essa(block, SET_UNUSED + (r >> 40) % 3);
    }
    ml_printf("# trace %lx, %ld of %d blocks were taken\n", trace, taken,
              STEPS);
    ok1(taken > STEPS / 100 && taken < STEPS - STEPS / 100,
        "some blocks are taken, and some are not");
    return tap_done();
}
