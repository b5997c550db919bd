/*
 * s390 storage attributes device -- TCG object: the page states
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or (at
 * your option) any later version. See the COPYING file in the top-level
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * The state of each block of 4 KiB of the guest's memory is one byte, which is
 * read without a lock and changed by compare and swap only.
 *
 * Who changes what, and when:
 *
 * - ESSA, on any CPU, at any time: the guest's side of the state. It never
 *   turns resident into zero, so it never invalidates a translation.
 *   (Preserved may become zero. A preserved block has no translation either.)
 *
 * - An access, on any CPU, when a translation is entered into its TLB: Sz and
 *   Sp become Sr; or the access is refused.
 *
 * - A device, from any thread: Sz and Uz become resident. What is written into
 *   a discarded block (Vz) is lost.
 *
 * - The reclaimer (s390-reclaim.c): resident becomes zero or preserved. This,
 *   and only this, makes translations invalid. Therefore it happens only while
 *   all CPUs are stopped outside of translation blocks, and together with the
 *   flush of all TLBs and the release of the memory.
 *
 * It follows that a CPU never has a TLB entry for a block that is not
 * resident, so that the check where the TLB is filled is sufficient and costs
 * a running guest nothing. It also follows that the memory behind a block in a
 * zero state is all zeros: it starts that way, the reclaimer leaves it that
 * way, and what is written to it makes it resident or is undone. Devices are an
 * exception until they say that they have written, and so is what they never
 * say: vhost devices, and those that abandon a request (see
 * virtqueue_detach_element()) which has written something.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/bitops.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/atomic.h"
#include "qapi/error.h"
#include "exec/address-spaces.h"
#include "exec/ram_addr.h"
#include "hw/boards.h"
#include "hw/s390x/page-states.h"
#include "hw/s390x/s390-pager.h"
#include "hw/s390x/s390-virtio-ccw.h"
#include "hw/s390x/storage-attributes.h"
#include "migration/misc.h"
#include "migration/options.h"
#include "system/hostmem.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "cpu.h"

/*
 * Set once, before any CPU runs. There is only one device, and looking it up
 * each time would cost more than all the rest.
 */
static QEMUS390StAttribState *active;

QEMUS390StAttribState *s390_page_states(void)
{
    return active;
}

/* Blocks beyond initial memory (memory devices) are always resident. */
static bool block_in_ram(QEMUS390StAttribState *sas, uint64_t gfn)
{
    return gfn < sas->ram_blocks;
}

static void mark_dirty(QEMUS390StAttribState *sas, uint64_t gfn)
{
    unsigned long *word = &sas->dirty[BIT_WORD(gfn)];
    unsigned long bit = BIT_MASK(gfn);

    /* Pairs with the barrier in s390_page_states_set_migrationmode(). */
    smp_mb__after_rmw();
    if (qatomic_read(&sas->migrating) && !(qatomic_read(word) & bit) &&
        !(qatomic_fetch_or(word, bit) & bit)) {
        qatomic_inc(&sas->dirty_count);
    }
}

/* Is there no content that a migration would have to send? */
static bool is_worthless(uint8_t state)
{
    return (state & S390_PS_USAGE) == S390_PS_UNUSED ||
           (state & S390_PS_CONTENT) == S390_PS_ZERO;
}

/* A block that a migration has skipped has content that must be sent now. */
static void mark_content_dirty(QEMUS390StAttribState *sas, uint64_t gfn)
{
    /* After mark_dirty(): its barrier serves us, too. */
    if (qatomic_read(&sas->skipping) && block_in_ram(sas, gfn)) {
        cpu_physical_memory_set_dirty_range(sas->ram_addr +
                                            gfn * TARGET_PAGE_SIZE,
                                            TARGET_PAGE_SIZE,
                                            1 << DIRTY_MEMORY_MIGRATION);
    }
}

bool s390_page_state_change(QEMUS390StAttribState *sas, uint64_t gfn,
                            uint8_t old, uint8_t new)
{
    if (qatomic_cmpxchg(&sas->states[gfn], old, new) != old) {
        return false;
    }
    if ((old ^ new) & S390_PS_GUEST) {
        mark_dirty(sas, gfn);
        if (is_worthless(old) && !is_worthless(new)) {
            mark_content_dirty(sas, gfn);
        }
    }
    return true;
}

static bool essa_change(QEMUS390StAttribState *sas, uint64_t gfn,
                        uint8_t old, uint8_t new)
{
    if ((old & S390_PS_CONTENT) == S390_PS_PRESERVED &&
        (new & S390_PS_CONTENT) == S390_PS_ZERO) {
        return s390_pager_drop(gfn, old, new);
    }
    return s390_page_state_change(sas, gfn, old, new);
}

uint8_t s390_page_state_essa(uint64_t gfn, unsigned command, bool changed)
{
    QEMUS390StAttribState *sas = active;
    uint8_t old, new;

    do {
        old = qatomic_read(&sas->states[gfn]);
        new = s390_essa_next_state(old, command, changed);
        if (new == old) {
            break;
        }
    } while (!essa_change(sas, gfn, old, new));

    return old & S390_PS_GUEST;
}

uint32_t s390_page_state_access(uint64_t addr)
{
    QEMUS390StAttribState *sas = active;
    uint64_t gfn = addr / TARGET_PAGE_SIZE;
    uint8_t old, new;

    if (!sas || gfn >= sas->blocks) {
        return 0;
    }
    do {
        old = qatomic_read(&sas->states[gfn]);
        if ((old & S390_PS_USAGE) == S390_PS_UNUSED &&
            (sas->strict_unused ||
             (old & S390_PS_CONTENT) != S390_PS_RESIDENT)) {
            return PGM_ADDRESSING;
        }
        if ((old & S390_PS_STATE) == (S390_PS_VOLATILE | S390_PS_ZERO) &&
            sas->discard_fault) {
            return PGM_DISCARD;
        }
        new = (old & ~S390_PS_CONTENT) | S390_PS_RESIDENT | S390_PS_REFERENCED;
        if (new == old) {
            break;
        }
    } while (!s390_page_state_change(sas, gfn, old, new));

    return 0;
}

bool s390_page_state_has_content(uint64_t addr)
{
    QEMUS390StAttribState *sas = active;
    uint64_t gfn = addr / TARGET_PAGE_SIZE;
    uint8_t state;

    if (!sas || gfn >= sas->blocks) {
        return true;
    }
    state = qatomic_read(&sas->states[gfn]);
    return (state & S390_PS_CONTENT) != S390_PS_ZERO ||
           (state & S390_PS_USAGE) == S390_PS_STABLE;
}

void s390_page_state_count_fault(void)
{
    if (active) {
        stat64_add(&active->discard_faults, 1);
    }
}

/* Undo what a device wrote into a discarded block: it remains all zeros. */
static void undo_write(QEMUS390StAttribState *sas, uint64_t gfn,
                       hwaddr addr, hwaddr size)
{
    hwaddr start = MAX(addr, gfn * TARGET_PAGE_SIZE);
    hwaddr end = MIN(addr + size, (gfn + 1) * TARGET_PAGE_SIZE);

    memset(sas->ram_host + start, 0, end - start);
}

void s390_page_states_dma_write(hwaddr addr, hwaddr size)
{
    QEMUS390StAttribState *sas = active;
    uint64_t gfn;
    uint8_t old;

    if (!sas) {
        return;
    }
    for (gfn = addr / TARGET_PAGE_SIZE;
         gfn <= (addr + size - 1) / TARGET_PAGE_SIZE; gfn++) {
        do {
            old = qatomic_read(&sas->states[gfn]);
            if ((old & S390_PS_CONTENT) == S390_PS_RESIDENT) {
                break;
            }
            if ((old & S390_PS_USAGE) == S390_PS_VOLATILE) {
                undo_write(sas, gfn, addr, size);
                break;
            }
        } while (!s390_page_state_change(sas, gfn, old,
                                         old & ~S390_PS_CONTENT));
    }
}

/*
 * A reset of any kind: the next program to be loaded knows nothing of page
 * states. What was discarded is zeros for it. No CPU runs.
 */
void s390_page_states_reset(void)
{
    QEMUS390StAttribState *sas = active;
    uint64_t gfn;
    uint8_t old;

    for (gfn = 0; sas && gfn < sas->blocks; gfn++) {
        do {
            old = qatomic_read(&sas->states[gfn]);
        } while ((old & ~S390_PS_CONTENT) &&
                 !s390_page_state_change(sas, gfn, old,
                                         S390_PS_STABLE |
                                         (old & S390_PS_CONTENT)));
    }
}

/*
 * Migration and "info cmma"
 *
 * A migration does not send the content of unused blocks, nor of those that are
 * zero: when it starts a round, their bits are cleared in its bitmap. A block
 * that has content again is sent in the next round, see mark_content_dirty().
 * The destination finds skipped blocks zero, as if the host had taken them in
 * between, and clears what an earlier round may have left there.
 */

int s390_page_states_peek(S390StAttribState *sa, uint64_t start_gfn,
                          uint32_t count, uint8_t *values)
{
    QEMUS390StAttribState *sas = active;
    uint32_t i;

    if (!sas) {
        return 0;
    }
    if (start_gfn >= sas->blocks) {
        return -EINVAL;
    }
    count = MIN(count, sas->blocks - start_gfn);
    for (i = 0; i < count; i++) {
        values[i] = qatomic_read(&sas->states[start_gfn + i]) & S390_PS_GUEST;
    }
    return count;
}

static uint8_t state_to_send(QEMUS390StAttribState *sas, uint64_t gfn)
{
    uint8_t state = qatomic_read(&sas->states[gfn]) & S390_PS_GUEST;

    if (qatomic_read(&sas->skipping) && block_in_ram(sas, gfn) &&
        is_worthless(state)) {
        state |= S390_PS_ZERO;
    }
    return state;
}

int s390_page_states_get(S390StAttribState *sa, uint64_t *start_gfn,
                         uint32_t count, uint8_t *values)
{
    QEMUS390StAttribState *sas = active;
    uint64_t gfn, end;

    if (!sas || !sas->dirty) {
        return 0;
    }
    /* The next block that has changed, from the start again after the end. */
    gfn = find_next_bit(sas->dirty, sas->blocks, *start_gfn);
    if (gfn >= sas->blocks) {
        gfn = find_next_bit(sas->dirty, sas->blocks, 0);
    }
    if (gfn >= sas->blocks) {
        return 0;
    }
    *start_gfn = gfn;
    for (end = gfn; end < MIN(gfn + count, sas->blocks); end++) {
        unsigned long bit = BIT_MASK(end);

        if (!(qatomic_read(&sas->dirty[BIT_WORD(end)]) & bit)) {
            break;
        }
        /* Clear first: a change in between is seen now or sent again. */
        qatomic_fetch_and(&sas->dirty[BIT_WORD(end)], ~bit);
        qatomic_dec(&sas->dirty_count);
        values[end - gfn] = state_to_send(sas, end);
    }
    return end - gfn;
}

long long s390_page_states_dirtycount(S390StAttribState *sa)
{
    return active ? qatomic_read(&active->dirty_count) : 0;
}

int s390_page_states_set_migrationmode(S390StAttribState *sa, bool on,
                                       Error **errp)
{
    QEMUS390StAttribState *sas = active;

    if (!sas) {
        return 0;
    }
    if (!on) {
        qatomic_set(&sas->migrating, false);
        return 0;
    }
    /* It has the states of its end, and the content of its beginning. */
    if (migrate_background_snapshot()) {
        error_setg(errp, "A background snapshot is not possible of a guest "
                   "whose page states are kept (CPU model feature \"cmm\")");
        return -ENOTSUP;
    }
    if (!sas->dirty) {
        sas->dirty = bitmap_new(sas->blocks);
    }
    bitmap_set(sas->dirty, 0, sas->blocks);
    sas->dirty_count = sas->blocks;
    qatomic_set(&sas->migrating, true);
    /*
     * Pairs with the barrier in mark_dirty(): either that sees the flag, or
     * the states that are sent first include the change.
     */
    smp_mb();
    return 0;
}

static void skip_worthless_blocks(QEMUS390StAttribState *sas)
{
    uint64_t gfn, n;

    for (gfn = 0; gfn < sas->ram_blocks; gfn += n) {
        for (n = 0; gfn + n < sas->ram_blocks &&
             is_worthless(qatomic_read(&sas->states[gfn + n])); n++) {
            continue;
        }
        if (n) {
            qemu_guest_free_page_hint(sas->ram_host + gfn * TARGET_PAGE_SIZE,
                                      n * TARGET_PAGE_SIZE);
        } else {
            n = 1;
        }
    }
}

static int notify_precopy(NotifierWithReturn *n, void *data, Error **errp)
{
    QEMUS390StAttribState *sas = active;
    PrecopyNotifyData *pnd = data;
    RAMBlock *ram_block = MACHINE(qdev_get_machine())->ram->ram_block;

    switch (pnd->reason) {
    case PRECOPY_NOTIFY_AFTER_BITMAP_SYNC:
        /*
         * The destination must know the states, to clear what is skipped. With
         * postcopy, it would ask for such blocks, and wait for ever. Memory
         * that is not sent has no bitmap.
         */
        if (!sas->parent_obj.migration_enabled || migrate_postcopy_ram() ||
            migrate_ram_is_ignored(ram_block)) {
            break;
        }
        qatomic_set(&sas->skipping, true);
        /* Pairs with the barrier in mark_dirty(), as "migrating" does. */
        smp_mb();
        skip_worthless_blocks(sas);
        break;
    case PRECOPY_NOTIFY_CLEANUP:
        qatomic_set(&sas->skipping, false);
        break;
    default:
        break;
    }
    return 0;
}

/*
 * Nothing is known of incoming memory, least of all that it is zero, and the
 * stream may come from a QEMU that does not send states.
 */
void s390_page_states_load_setup(S390StAttribState *sa)
{
    QEMUS390StAttribState *sas = active;

    if (sas) {
        memset(sas->states, S390_PS_STABLE | S390_PS_RESIDENT, sas->blocks);
        g_free(sas->incoming);
        sas->incoming = NULL;
    }
}

int s390_page_states_set(S390StAttribState *sa, uint64_t start_gfn,
                         uint32_t count, uint8_t *values)
{
    QEMUS390StAttribState *sas = active;
    uint32_t i;

    if (!sas) {
        error_report("The guest uses page states, and they are not kept here: "
                     "this needs a CPU model with the feature \"cmm\"");
        return -EINVAL;
    }
    if (start_gfn > sas->blocks || count > sas->blocks - start_gfn) {
        error_report("Out of memory bounds when setting storage attributes");
        return -EINVAL;
    }
    if (!sas->incoming) {
        sas->incoming = g_malloc0(sas->blocks);
    }
    for (i = 0; i < count; i++) {
        uint8_t state = values[i] & S390_PS_GUEST;
        uint64_t gfn = start_gfn + i;

        if (!s390_page_state_valid(state) ||
            (!block_in_ram(sas, gfn) &&
             (state & S390_PS_CONTENT) == S390_PS_ZERO)) {
            error_report("Invalid storage attributes 0x%02x of block 0x%"
                         PRIx64, values[i], gfn);
            return -EINVAL;
        }
        /* The content of preserved blocks came with the memory. */
        if ((state & S390_PS_CONTENT) == S390_PS_PRESERVED) {
            state &= ~S390_PS_CONTENT;
        }
        sas->incoming[gfn] = state;
    }
    return 0;
}

static void clear_blocks(QEMUS390StAttribState *sas, uint64_t gfn, uint64_t n)
{
    uint8_t *host = sas->ram_host + gfn * TARGET_PAGE_SIZE;

    if (sas->release && sas->release(gfn, n)) {
        return;
    }
    for (; n; n--, host += TARGET_PAGE_SIZE) {
        if (!buffer_is_zero(host, TARGET_PAGE_SIZE)) {
            memset(host, 0, TARGET_PAGE_SIZE);
        }
    }
}

/*
 * All memory and all states have arrived. The stream has skipped blocks that
 * are zero, but may have carried old content of them before: clear them. With
 * postcopy nothing was skipped, and memory is yet to come.
 */
void s390_page_states_synchronize(S390StAttribState *sa)
{
    QEMUS390StAttribState *sas = active;
    uint64_t gfn, n;

    if (!sas || !sas->incoming) {
        return;
    }
    memcpy(sas->states, sas->incoming, sas->blocks);
    g_free(sas->incoming);
    sas->incoming = NULL;
    /* It may have been agreed on, but not have begun yet. */
    if (migration_incoming_postcopy_advised()) {
        return;
    }
    for (gfn = 0; gfn < sas->blocks; gfn += n) {
        for (n = 0; gfn + n < sas->blocks &&
             (sas->states[gfn + n] & S390_PS_CONTENT) == S390_PS_ZERO; n++) {
            continue;
        }
        if (n) {
            clear_blocks(sas, gfn, n);
        } else {
            n = 1;
        }
    }
}

/*
 * Whether memory is known to be zeros at start. A file may have content.
 */
static bool ram_starts_zero(MachineState *ms)
{
    return !runstate_check(RUN_STATE_INMIGRATE) &&
           !object_dynamic_cast(OBJECT(ms->memdev), "memory-backend-file");
}

void s390_page_states_init(void)
{
    MachineState *ms = MACHINE(qdev_get_machine());
    QEMUS390StAttribState *sas;

    if (!tcg_enabled() || !s390_has_feat(S390_FEAT_CMM)) {
        return;
    }
    sas = QEMU_S390_STATTRIB(object_resolve_path_type("",
                                                      TYPE_QEMU_S390_STATTRIB,
                                                      NULL));
    sas->blocks = s390_get_memory_limit(S390_CCW_MACHINE(ms)) /
                  TARGET_PAGE_SIZE;
    sas->ram_blocks = memory_region_size(ms->ram) / TARGET_PAGE_SIZE;
    sas->ram_host = memory_region_get_ram_ptr(ms->ram);
    sas->ram_addr = memory_region_get_ram_addr(ms->ram);
    sas->states = g_malloc0(sas->blocks);
    if (ram_starts_zero(ms)) {
        memset(sas->states, S390_PS_STABLE | S390_PS_ZERO, sas->ram_blocks);
    }
    active = sas;
    sas->precopy_notifier.notify = notify_precopy;
    precopy_add_notifier(&sas->precopy_notifier);
}
