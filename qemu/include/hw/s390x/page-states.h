/*
 * s390 page states: what the guest told about a block of 4 KiB with ESSA, and
 * what the host made of it
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or (at
 * your option) any later version. See the COPYING file in the top-level
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_S390_PAGE_STATES_H
#define HW_S390_PAGE_STATES_H

/*
 * One byte per block, in the format in which ESSA reports it.
 *
 *                          resident   preserved   zero
 *   stable                    Sr         Sp        Sz
 *   unused                    Ur         -         Uz
 *   potentially volatile      Pr         -         -
 *   volatile                  Vr         -         Vz
 *
 * The combinations that are left out do not exist.
 */
#define S390_PS_CONTENT         0x03
#define S390_PS_RESIDENT        0x00    /* the content is in memory */
#define S390_PS_PRESERVED       0x02    /* the content is in a paging file */
#define S390_PS_ZERO            0x03    /* logically zero or, for V, lost */

#define S390_PS_USAGE           0x0c
#define S390_PS_STABLE          0x00    /* the guest needs the content */
#define S390_PS_UNUSED          0x04    /* the guest does not use the block */
#define S390_PS_PVOLATILE       0x08    /* volatile while unchanged */
#define S390_PS_VOLATILE        0x0c    /* the guest can do without */

#define S390_PS_NODAT           0x20    /* holds no DAT tables */

#define S390_PS_STATE           (S390_PS_USAGE | S390_PS_CONTENT)
#define S390_PS_GUEST           (S390_PS_STATE | S390_PS_NODAT)

/* Private to the host: the block was accessed since it was last looked at. */
#define S390_PS_REFERENCED      0x80

/* The commands (M3) of ESSA */
enum {
    S390_ESSA_GET_STATE,
    S390_ESSA_SET_STABLE,
    S390_ESSA_SET_UNUSED,
    S390_ESSA_SET_VOLATILE,
    S390_ESSA_SET_PVOLATILE,
    S390_ESSA_SET_STABLE_MAKE_RESIDENT,
    S390_ESSA_SET_STABLE_IF_NOT_DISCARDED,
    S390_ESSA_SET_STABLE_NODAT,
};

static inline bool s390_page_state_valid(uint8_t state)
{
    switch (state & S390_PS_STATE) {
    case S390_PS_STABLE | S390_PS_RESIDENT:
    case S390_PS_STABLE | S390_PS_PRESERVED:
    case S390_PS_STABLE | S390_PS_ZERO:
    case S390_PS_UNUSED | S390_PS_RESIDENT:
    case S390_PS_UNUSED | S390_PS_ZERO:
    case S390_PS_PVOLATILE | S390_PS_RESIDENT:
    case S390_PS_VOLATILE | S390_PS_RESIDENT:
    case S390_PS_VOLATILE | S390_PS_ZERO:
        return true;
    default:
        return false;
    }
}

/**
 * s390_essa_next_state: the state after an ESSA
 * @state: the state before
 * @command: the M3 field
 * @changed: the change bit of the block's storage key; only looked at where
 *           a preserved block is set potentially volatile
 */
static inline uint8_t s390_essa_next_state(uint8_t state, unsigned command,
                                           bool changed)
{
    uint8_t content = state & S390_PS_CONTENT;
    uint8_t rest = state & ~S390_PS_STATE;

    switch (command) {
    case S390_ESSA_SET_STABLE:
        return (rest & ~S390_PS_NODAT) | S390_PS_STABLE | content;
    case S390_ESSA_SET_STABLE_NODAT:
        return rest | S390_PS_NODAT | S390_PS_STABLE | content;
    case S390_ESSA_SET_STABLE_MAKE_RESIDENT:
        return rest | S390_PS_STABLE | S390_PS_RESIDENT;
    case S390_ESSA_SET_STABLE_IF_NOT_DISCARDED:
        if ((state & S390_PS_STATE) == (S390_PS_VOLATILE | S390_PS_ZERO)) {
            return state;
        }
        return rest | S390_PS_STABLE | content;
    case S390_ESSA_SET_UNUSED:
        /* A copy in the paging file is not worth keeping. */
        if (content == S390_PS_PRESERVED) {
            content = S390_PS_ZERO;
        }
        return rest | S390_PS_UNUSED | content;
    case S390_ESSA_SET_VOLATILE:
        /* Dropped at once: the guest would not be told by a page-in. */
        if (content != S390_PS_RESIDENT) {
            content = S390_PS_ZERO;
        }
        return rest | S390_PS_VOLATILE | content;
    case S390_ESSA_SET_PVOLATILE:
        if (content == S390_PS_RESIDENT) {
            return rest | S390_PS_PVOLATILE | content;
        }
        if (content == S390_PS_PRESERVED && changed) {
            return state;
        }
        return rest | S390_PS_VOLATILE | S390_PS_ZERO;
    default:
        return state;
    }
}

#endif /* HW_S390_PAGE_STATES_H */
