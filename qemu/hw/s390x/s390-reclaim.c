/*
 * s390 storage attributes device -- TCG object: taking back memory
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or (at
 * your option) any later version. See the COPYING file in the top-level
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * Dropping blocks consists of four steps: change their states, invalidate the
 * translations of all CPUs, invalidate the code that was translated from them,
 * and release the memory. It must look like one step to the guest:
 *
 * - A CPU that does ESSA "set stable" and sees "resident" stores into the
 *   block. If the memory were released after that, the store would be lost.
 * - A CPU that still has a translation reads zeros instead of taking the fault,
 *   or stores into a block that is zero by its state.
 * - A CPU that still has translated code executes what is not there any more.
 *
 * Therefore all of it is done in a single exclusive section (start_exclusive()
 * to end_exclusive()): every CPU is stopped, outside of translation blocks, so
 * that no helper is between the check of a state and the access it allows. The
 * TLBs of other CPUs may be flushed directly, since their owners do not run.
 *
 * Devices are not stopped. One that is writing into a block just now has no
 * claim on its content: the guest called it unused or volatile in the middle
 * of its own I/O. For the state the two orders are equivalent: either the
 * write is seen first, and dropped with the rest, or the device's notification
 * finds a block that is zero and makes it resident or undoes the write, see
 * s390_page_states_dma_write().
 *
 * The section is kept short: it takes a limited number of blocks. That does not
 * suffice for the CPUs to run in between: they take a while to wake up, and the
 * next section would stop them before they have executed an instruction. So the
 * reclaimer waits for them now and then.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-misc-target.h"
#include "exec/exec-all.h"
#include "exec/ram_addr.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/s390x/page-states.h"
#include "hw/s390x/s390-pager.h"
#include "hw/s390x/s390-reclaim.h"
#include "hw/s390x/storage-attributes.h"
#include "hw/s390x/storage-keys.h"
#include "migration/misc.h"
#include "migration/postcopy-ram.h"
#include "system/cpu-throttle.h"
#include "system/hostmem.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/tcg.h"
#include "cpu.h"

/* Blocks that are dropped in one exclusive section at most */
#define BATCH_BLOCKS 2048

/* Runs of adjacent ones whose memory is released at once */
#define RELEASE_RUNS 64

/* Candidates for the random adversary */
#define RING_BLOCKS 64

/* Stable blocks that are paged out in one exclusive section, at most */
#define PAGE_OUT_BLOCKS 64

/* A section that takes longer ends: do the rest in the next one. */
#define SECTION_NS (500 * SCALE_US)

/* How long CPUs run then */
#define RUN_NS (20 * SCALE_US)

/* How often the limit of resident memory is looked after */
#define LIMIT_INTERVAL_MS 100

/* How often it may be missed before blocks in use go, too */
#define LIMIT_MISSES 2

typedef struct Batch {
    S390PageUsage usage;                /* take blocks in this state only */
    bool spare_referenced;              /* and was not accessed recently */
    unsigned int spared;
    unsigned int n;
    unsigned int taken;
    uint64_t released;                  /* bytes */
    int64_t ns;                         /* how long it took */
    uint64_t gfn[BATCH_BLOCKS];         /* ascending */
} Batch;

static struct {
    MemoryRegion *ram;
    S390DiscardPolicy policy;
    bool prepared;
    NotifierWithReturn precopy_notifier;
    NotifierWithReturn postcopy_notifier;
    /* held while blocks are dropped */
    QemuMutex lock;
    /* where to go on looking; stable ones are to be paged out */
    uint64_t cursor[S390_PAGE_USAGE__MAX];
    /* how many blocks to page out in one exclusive section */
    unsigned int page_out_batch;
    /* how long CPUs were stopped since they have run for certain */
    int64_t stopped_ns;
    /* the limit of resident memory */
    uint64_t limit;                     /* bytes, 0: none */
    unsigned int limit_missed;          /* how often in a row */
    QEMUTimer *timer;
    /* the random adversary */
    uint64_t random;
    uint64_t ring[RING_BLOCKS];
    /* statistics */
    Stat64 taken[S390_PAGE_USAGE__MAX];
    Stat64 released;
    Stat64 sections;
    Stat64 section_ns;
    Stat64 section_max_ns;
} reclaim;

/*
 * While memory is being loaded, blocks must not be taken: with postcopy, they
 * would be missed again, and the source would be asked for them in vain. Nor
 * may the source take any from the switchover on: with postcopy, the content of
 * blocks follows their states, and memory may be shared with the destination.
 */
static bool is_migrating(void)
{
    return runstate_check(RUN_STATE_INMIGRATE) ||
           runstate_check(RUN_STATE_FINISH_MIGRATE) ||
           runstate_check(RUN_STATE_POSTMIGRATE) ||
           migration_in_incoming_postcopy();
}

static bool key_changed(uint64_t gfn)
{
    S390SKeysState *ss = s390_get_skeys_device();
    S390SKeysClass *kc = S390_SKEYS_GET_CLASS(ss);
    uint8_t key;

    /* Before storage keys are enabled, changes are not recorded. */
    return !kc->skeys_are_enabled(ss) || s390_skeys_get(ss, gfn, 1, &key) ||
           (key & SK_C);
}

/* May the block be dropped, if its change bit permits? */
static bool may_drop(uint8_t state, S390PageUsage *usage)
{
    switch (state & S390_PS_STATE) {
    case S390_PS_UNUSED | S390_PS_RESIDENT:
        *usage = S390_PAGE_USAGE_UNUSED;
        return true;
    case S390_PS_VOLATILE | S390_PS_RESIDENT:
        *usage = S390_PAGE_USAGE_VOLATILE;
        return true;
    case S390_PS_PVOLATILE | S390_PS_RESIDENT:
        *usage = S390_PAGE_USAGE_POTENTIALLY_VOLATILE;
        return true;
    default:
        return false;
    }
}

/* In the exclusive section: the state of one block. */
static bool drop_state(QEMUS390StAttribState *sas, uint64_t gfn,
                       S390PageUsage wanted)
{
    uint8_t old = qatomic_read(&sas->states[gfn]);
    uint8_t new = (old & S390_PS_NODAT) | S390_PS_ZERO;
    S390PageUsage usage;

    if (!may_drop(old, &usage) || usage != wanted) {
        return false;
    }
    if (usage == S390_PAGE_USAGE_POTENTIALLY_VOLATILE && key_changed(gfn)) {
        return false;
    }
    new |= usage == S390_PAGE_USAGE_UNUSED ? S390_PS_UNUSED : S390_PS_VOLATILE;
    return s390_page_state_change(sas, gfn, old, new);
}

/* In the exclusive section. Returns how many bytes were released. */
static uint64_t release(const struct iovec *run, unsigned int n)
{
    unsigned int done = ram_block_discard_ranges(reclaim.ram->ram_block,
                                                 run, n);
    uint64_t released = iov_size(run, done);

    /* It said why. The blocks are zero by now, and must be. */
    for (; done < n; done++) {
        memset(run[done].iov_base, 0, run[done].iov_len);
    }
    return released;
}

/* In the exclusive section: @n runs of adjacent blocks. */
static uint64_t drop_memory(QEMUS390StAttribState *sas,
                            const struct iovec *run, unsigned int n)
{
    ram_addr_t ram = memory_region_get_ram_addr(reclaim.ram);
    uint64_t released;
    unsigned int i;

    /* Also lets builds without TCG do without this function. */
    assert(tcg_enabled());
    for (i = 0; i < n; i++) {
        ram_addr_t offset = (uint8_t *)run[i].iov_base - sas->ram_host;

        tb_invalidate_phys_range(ram + offset,
                                 ram + offset + run[i].iov_len - 1);
        s390_pager_forget(offset / TARGET_PAGE_SIZE,
                          run[i].iov_len / TARGET_PAGE_SIZE);
    }
    released = release(run, n);
    /*
     * The content has changed, after a migration may have sent it. A
     * destination that does not know states must find zeros, too.
     */
    for (i = 0; i < n; i++) {
        ram_addr_t offset = (uint8_t *)run[i].iov_base - sas->ram_host;

        cpu_physical_memory_set_dirty_range(ram + offset, run[i].iov_len,
                                            1 << DIRTY_MEMORY_MIGRATION);
    }
    return released;
}

static void count_section(int64_t ns)
{
    stat64_add(&reclaim.sections, 1);
    stat64_add(&reclaim.section_ns, ns);
    stat64_max(&reclaim.section_max_ns, ns);
}

/* The states of adjacent blocks from the @i-th on. Returns how many. */
static unsigned int drop_states(QEMUS390StAttribState *sas, const Batch *b,
                                unsigned int i)
{
    const uint64_t *gfn = &b->gfn[i];
    unsigned int n = 0;

    while (i + n < b->n && gfn[n] == gfn[0] + n &&
           drop_state(sas, gfn[n], b->usage)) {
        n++;
    }
    return n;
}

/*
 * Some runs of adjacent blocks from the @i-th block on. Returns how many blocks
 * of the batch are done.
 */
static unsigned int drop_runs(QEMUS390StAttribState *sas, Batch *b,
                              unsigned int i)
{
    struct iovec run[RELEASE_RUNS];
    unsigned int first = i, n = 0;

    while (i < b->n && n < RELEASE_RUNS) {
        unsigned int blocks = drop_states(sas, b, i);

        if (blocks) {
            run[n].iov_base = sas->ram_host + b->gfn[i] * TARGET_PAGE_SIZE;
            run[n].iov_len = blocks * TARGET_PAGE_SIZE;
            n++;
        }
        b->taken += blocks;
        i += MAX(blocks, 1);
    }
    b->released += drop_memory(sas, run, n);
    return i - first;
}

/*
 * To be called in an exclusive section. How long a block takes depends on the
 * host, so what does not fit into a section stays in the batch. The guest may
 * have been stopped for the switchover since the batch was found.
 */
static void drop_batch(QEMUS390StAttribState *sas, Batch *b)
{
    int64_t begin = get_clock(), ns = 0;
    unsigned int i = 0;
    CPUState *cs;

    QEMU_LOCK_GUARD(&reclaim.lock);
    b->taken = 0;
    b->released = 0;
    b->ns = 0;
    if (is_migrating()) {
        b->n = 0;
        return;
    }
    while (i < b->n && ns < SECTION_NS) {
        i += drop_runs(sas, b, i);
        ns = get_clock() - begin;
    }
    b->n -= i;
    memmove(b->gfn, b->gfn + i, b->n * sizeof(*b->gfn));
    /* In time: nobody uses a translation before the end of the section. */
    if (b->taken) {
        CPU_FOREACH(cs) {
            tlb_flush_exclusive(cs);
        }
    }

    b->ns = get_clock() - begin;
    stat64_add(&reclaim.taken[b->usage], b->taken);
    stat64_add(&reclaim.released, b->released);
    count_section(b->ns);
}

/*
 * Runs with the BQL held, on a CPU, in between its translation blocks, or in
 * the main thread.
 */
static void do_drop_batch(CPUState *cs, run_on_cpu_data data)
{
    /* A CPU that waits for the BQL would never reach the section's start. */
    bql_unlock();
    start_exclusive();
    drop_batch(s390_page_states(), data.host_ptr);
    end_exclusive();
    bql_lock();
}

/*
 * On a CPU it is faster: that needs not sleep and be woken up. But if CPUs are
 * throttled for a migration, it may sleep for a second before.
 */
static void stop_cpus_and_drop(Batch *b)
{
    if (cpu_throttle_active()) {
        do_drop_batch(NULL, RUN_ON_CPU_HOST_PTR(b));
    } else {
        run_on_cpu(first_cpu, do_drop_batch, RUN_ON_CPU_HOST_PTR(b));
    }
}

/*
 * After a section that took @ns. Must be called with the BQL held, which it
 * drops.
 */
static void let_cpus_run(int64_t ns)
{
    int64_t end = get_clock() + RUN_NS;

    reclaim.stopped_ns += ns;
    if (reclaim.stopped_ns < SECTION_NS) {
        return;
    }
    reclaim.stopped_ns = 0;
    bql_unlock();
    /* A sleep would take twice as long. */
    while (get_clock() < end) {
        g_thread_yield();
    }
    bql_lock();
}

/*
 * The second chance: whether a block was accessed since it was last looked at.
 * Forget that it was; the next access is noticed when a TLB is filled.
 */
static bool spare(QEMUS390StAttribState *sas, uint64_t gfn, uint8_t state)
{
    if (!(state & S390_PS_REFERENCED)) {
        return false;
    }
    s390_page_state_change(sas, gfn, state, state & ~S390_PS_REFERENCED);
    return true;
}

/*
 * Look for blocks to drop, from where the last search ended, through *@left
 * blocks at most. This is without any lock: drop_state() looks again.
 */
static void find_batch(QEMUS390StAttribState *sas, Batch *b, uint64_t *left,
                       uint64_t want)
{
    uint64_t *cursor = &reclaim.cursor[b->usage];
    S390PageUsage usage;

    want = MIN(want, BATCH_BLOCKS);
    while (*left && b->n < want) {
        uint64_t gfn = *cursor;
        uint8_t state;

        if (gfn >= sas->ram_blocks) {
            gfn = 0;
            if (b->n) {
                *cursor = 0;    /* keep the batch in ascending order */
                return;
            }
        }
        state = qatomic_read(&sas->states[gfn]);
        if (may_drop(state, &usage) && usage == b->usage) {
            if (b->spare_referenced && spare(sas, gfn, state)) {
                b->spared++;
            } else {
                b->gfn[b->n++] = gfn;
            }
        }
        *cursor = gfn + 1;
        (*left)--;
    }
}

/*
 * Returns the number of blocks taken. If @spared is not NULL, blocks that were
 * accessed recently are spared, and counted. Must be called with the BQL held.
 */
static uint64_t reclaim_blocks(QEMUS390StAttribState *sas, S390PageUsage usage,
                               uint64_t want, uint64_t *released,
                               uint64_t *spared)
{
    g_autofree Batch *b = g_new(Batch, 1);
    uint64_t left = sas->ram_blocks;
    uint64_t taken = 0;

    b->usage = usage;
    b->spare_referenced = spared;
    b->n = 0;
    while ((left || b->n) && taken < want && !is_migrating()) {
        b->spared = 0;
        find_batch(sas, b, &left, want - taken);
        if (b->n) {
            stop_cpus_and_drop(b);
            let_cpus_run(b->ns);
            taken += b->taken;
            *released += b->released;
        }
        if (spared) {
            *spared += b->spared;
        }
    }
    return taken;
}

/* What kind of memory it is does not change, and is known at start. */
static bool can_release(MachineState *ms, Error **errp)
{
    RAMBlock *rb = ms->ram->ram_block;

    if (qemu_ram_pagesize(rb) != TARGET_PAGE_SIZE) {
        error_setg(errp, "memory with pages of %zu KiB cannot be given back "
                   "in blocks of 4 KiB", qemu_ram_pagesize(rb) / 1024);
    } else if (should_mlock(mlock_state)) {
        error_setg(errp, "memory is locked (-overcommit mem-lock)");
    } else if (ms->memdev &&
               object_property_get_bool(OBJECT(ms->memdev), "prealloc",
                                        &error_abort)) {
        error_setg(errp, "memory is preallocated");
    } else if (qemu_ram_get_fd(rb) >= 0 && !qemu_ram_is_shared(rb)) {
        error_setg(errp, "memory is a private mapping of a file");
    } else {
        return true;
    }
    return false;
}

/* Once, before the first block is dropped. */
static bool prepare(QEMUS390StAttribState *sas, Error **errp)
{
    if (reclaim.prepared) {
        return true;
    }
    /* What is taken when is not recorded. */
    if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "Blocks are not taken with record/replay");
        return false;
    }
    if (!can_release(MACHINE(qdev_get_machine()), errp)) {
        return false;
    }
    if (ram_block_discard_require(true)) {
        error_setg(errp, "Discarding of memory is disabled, for instance by "
                   "an assigned device");
        return false;
    }
    /*
     * A block that is dropped from a huge page releases nothing until the
     * host happens to split that, and later khugepaged fills the holes.
     */
    qemu_madvise(sas->ram_host, sas->ram_blocks * TARGET_PAGE_SIZE,
                 QEMU_MADV_NOHUGEPAGE);
    reclaim.prepared = true;
    return true;
}

/* Blocks that were migrated as zero, while no CPU runs */
static bool release_zero_blocks(uint64_t gfn, uint64_t n)
{
    if (ram_block_discard_is_disabled()) {
        return false;
    }
    s390_pager_forget(gfn, n);
    return !ram_block_discard_range(reclaim.ram->ram_block,
                                    gfn * TARGET_PAGE_SIZE,
                                    n * TARGET_PAGE_SIZE);
}

/*
 * When the guest is stopped for the switchover: whoever is dropping blocks has
 * done so before their states are sent, and the next one sees is_migrating().
 */
static int notify_precopy(NotifierWithReturn *n, void *data, Error **errp)
{
    PrecopyNotifyData *pnd = data;

    if (pnd->reason == PRECOPY_NOTIFY_COMPLETE) {
        qemu_mutex_lock(&reclaim.lock);
        qemu_mutex_unlock(&reclaim.lock);
    }
    return 0;
}

/* Postcopy wants the userfaults for itself, and no block to be taken. */
static int notify_postcopy(NotifierWithReturn *n, void *data, Error **errp)
{
    struct PostcopyNotifyData *pnd = data;

    if (pnd->reason != POSTCOPY_NOTIFY_PROBE) {
        return 0;
    }
    if (s390_pager_enabled()) {
        error_setg(errp, "Postcopy is not possible with a paging file");
        return -ENOTSUP;
    }
    if (reclaim.policy != S390_DISCARD_POLICY_DEMAND) {
        error_setg(errp, "Postcopy is not possible with discard=%s",
                   S390DiscardPolicy_str(reclaim.policy));
        return -ENOTSUP;
    }
    return 0;
}

static QEMUS390StAttribState *get_states(Error **errp)
{
    QEMUS390StAttribState *sas = s390_page_states();

    if (!sas) {
        error_setg(errp, "Page states are not kept: this needs a TCG guest "
                   "and a CPU model with the feature \"cmm\"");
    }
    return sas;
}

S390ReclaimInfo *qmp_x_s390_reclaim_pages(bool has_bytes, uint64_t bytes,
                                          Error **errp)
{
    static const S390PageUsage order[] = {
        S390_PAGE_USAGE_UNUSED,
        S390_PAGE_USAGE_VOLATILE,
        S390_PAGE_USAGE_POTENTIALLY_VOLATILE,
    };
    QEMUS390StAttribState *sas = get_states(errp);
    uint64_t want = has_bytes ? bytes / TARGET_PAGE_SIZE +
                                !!(bytes % TARGET_PAGE_SIZE) : UINT64_MAX;
    uint64_t taken[S390_PAGE_USAGE__MAX] = {};
    S390ReclaimInfo *info;
    uint64_t released = 0;
    int i;

    if (!sas) {
        return NULL;
    }
    if (is_migrating()) {
        error_setg(errp, runstate_check(RUN_STATE_POSTMIGRATE) ?
                   "The guest has been migrated" :
                   "Memory is just being migrated");
        return NULL;
    }
    if (!prepare(sas, errp)) {
        return NULL;
    }
    for (i = 0; i < ARRAY_SIZE(order); i++) {
        taken[order[i]] = reclaim_blocks(sas, order[i], want, &released,
                                         NULL);
        want -= taken[order[i]];
    }

    info = g_new0(S390ReclaimInfo, 1);
    info->released_bytes = released;
    info->unused = taken[S390_PAGE_USAGE_UNUSED];
    info->q_volatile = taken[S390_PAGE_USAGE_VOLATILE];
    info->potentially_volatile = taken[S390_PAGE_USAGE_POTENTIALLY_VOLATILE];
    return info;
}

S390PageStateInfo *qmp_x_query_s390_page_states(Error **errp)
{
    QEMUS390StAttribState *sas = get_states(errp);
    uint64_t count[S390_PS_STATE + 1] = {};
    S390PageStateInfo *info;
    uint64_t gfn;

    if (!sas) {
        return NULL;
    }
    for (gfn = 0; gfn < sas->ram_blocks; gfn++) {
        count[qatomic_read(&sas->states[gfn]) & S390_PS_STATE]++;
    }

    info = g_new0(S390PageStateInfo, 1);
    info->blocks = sas->ram_blocks;
    info->stable_resident = count[S390_PS_STABLE | S390_PS_RESIDENT];
    info->stable_preserved = count[S390_PS_STABLE | S390_PS_PRESERVED];
    info->stable_zero = count[S390_PS_STABLE | S390_PS_ZERO];
    info->unused_resident = count[S390_PS_UNUSED | S390_PS_RESIDENT];
    info->unused_zero = count[S390_PS_UNUSED | S390_PS_ZERO];
    info->volatile_resident = count[S390_PS_VOLATILE | S390_PS_RESIDENT];
    info->volatile_zero = count[S390_PS_VOLATILE | S390_PS_ZERO];
    info->potentially_volatile_resident =
        count[S390_PS_PVOLATILE | S390_PS_RESIDENT];
    info->discarded_unused =
        stat64_get(&reclaim.taken[S390_PAGE_USAGE_UNUSED]);
    info->discarded_volatile =
        stat64_get(&reclaim.taken[S390_PAGE_USAGE_VOLATILE]);
    info->discarded_potentially_volatile =
        stat64_get(&reclaim.taken[S390_PAGE_USAGE_POTENTIALLY_VOLATILE]);
    info->discard_faults = stat64_get(&sas->discard_faults);
    info->released_bytes = stat64_get(&reclaim.released);
    info->sections = stat64_get(&reclaim.sections);
    info->section_ns = stat64_get(&reclaim.section_ns);
    info->section_max_ns = stat64_get(&reclaim.section_max_ns);
    info->resident_limit = reclaim.limit;
    s390_pager_statistics(&info->paged_out, &info->paged_in);
    return info;
}

/*
 * The limit of resident memory. When there is more, unused blocks are taken
 * first, and then volatile and unchanged potentially volatile ones that were
 * not accessed between two looks: their second chance. If that does not do
 * repeatedly, those that were accessed go, too. Only when none is left, stable
 * blocks are paged out, if there is a paging file. Otherwise they are left to
 * the paging of the host.
 */

static void do_tlb_flush(CPUState *cs, run_on_cpu_data data)
{
    tlb_flush(cs);
}

static uint64_t count_resident(QEMUS390StAttribState *sas)
{
    uint64_t gfn, n = 0;

    for (gfn = 0; gfn < sas->ram_blocks; gfn++) {
        n += (qatomic_read(&sas->states[gfn]) & S390_PS_CONTENT) ==
             S390_PS_RESIDENT;
    }
    return n;
}

/* How long it takes depends on the host. */
static void adapt_page_out_batch(int64_t ns)
{
    unsigned int *batch = &reclaim.page_out_batch;

    if (ns > SECTION_NS) {
        *batch = MAX(*batch / 2, 1);
    } else if (ns < SECTION_NS / 4) {
        *batch = MIN(*batch * 2, PAGE_OUT_BLOCKS);
    }
}

/* A clock: twice around, it takes what it has spared before. */
static void page_out_blocks(QEMUS390StAttribState *sas, uint64_t want,
                            uint64_t *spared)
{
    uint64_t *cursor = &reclaim.cursor[S390_PAGE_USAGE_STABLE];
    uint64_t left = 2 * sas->ram_blocks;
    uint64_t gfn[PAGE_OUT_BLOCKS];
    unsigned int n, done;
    uint8_t state;
    int64_t ns;

    while (want && left && !is_migrating()) {
        for (n = 0; left && n < MIN(want, reclaim.page_out_batch); left--) {
            uint64_t i = *cursor < sas->ram_blocks ? *cursor : 0;

            *cursor = i + 1;
            state = qatomic_read(&sas->states[i]);
            if ((state & S390_PS_STATE) !=
                (S390_PS_STABLE | S390_PS_RESIDENT)) {
                continue;
            }
            if (spare(sas, i, state)) {
                (*spared)++;
            } else {
                gfn[n++] = i;
            }
        }
        if (!n) {
            break;
        }
        done = s390_pager_page_out(gfn, n, &ns);
        count_section(ns);
        adapt_page_out_batch(ns);
        stat64_add(&reclaim.released, done * TARGET_PAGE_SIZE);
        want -= done;
        let_cpus_run(ns);
    }
}

static void look_after_limit(void *opaque)
{
    QEMUS390StAttribState *sas = s390_page_states();
    uint64_t limit = reclaim.limit / TARGET_PAGE_SIZE;
    uint64_t resident, excess = 0, released = 0, spared = 0;
    uint64_t *chance = reclaim.limit_missed < LIMIT_MISSES ? &spared : NULL;
    CPUState *cs;

    if (!limit) {
        return;
    }
    resident = runstate_is_running() && !is_migrating() ?
               count_resident(sas) : 0;
    if (resident > limit) {
        excess = resident - limit;
        excess -= reclaim_blocks(sas, S390_PAGE_USAGE_UNUSED, excess,
                                 &released, NULL);
        excess -= reclaim_blocks(sas, S390_PAGE_USAGE_VOLATILE, excess,
                                 &released, chance);
        excess -= reclaim_blocks(sas, S390_PAGE_USAGE_POTENTIALLY_VOLATILE,
                                 excess, &released, chance);
    }
    if (excess && !spared && s390_pager_enabled()) {
        page_out_blocks(sas, excess, &spared);
    }
    reclaim.limit_missed = excess ? reclaim.limit_missed + 1 : 0;
    if (spared) {
        /* Accesses from now on shall be noticed. */
        CPU_FOREACH(cs) {
            async_run_on_cpu(cs, do_tlb_flush, RUN_ON_CPU_NULL);
        }
    }
    timer_mod(reclaim.timer,
              qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + LIMIT_INTERVAL_MS);
}

static bool set_limit(QEMUS390StAttribState *sas, uint64_t limit, Error **errp)
{
    if (limit && !prepare(sas, errp)) {
        return false;
    }
    reclaim.limit = QEMU_ALIGN_UP(limit, TARGET_PAGE_SIZE);
    if (!reclaim.timer) {
        reclaim.timer = timer_new_ms(QEMU_CLOCK_REALTIME, look_after_limit,
                                     NULL);
    }
    if (limit) {
        timer_mod(reclaim.timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
    } else {
        timer_del(reclaim.timer);
    }
    return true;
}

void qmp_x_s390_set_resident_limit(uint64_t bytes, Error **errp)
{
    QEMUS390StAttribState *sas = get_states(errp);

    if (sas && bytes > UINT64_MAX - TARGET_PAGE_SIZE) {
        error_setg(errp, "The limit is too large");
    } else if (sas) {
        set_limit(sas, bytes, errp);
    }
}

/*
 * The adversary. It drops blocks when it hurts: at once when the guest permits
 * it, or at random. A guest that forgets to make a block stable before it uses
 * the content is caught by the former, one that relies on finding the block as
 * it was told a moment ago by the latter.
 */

/* Runs in an exclusive section, before the CPU's next instruction. */
static void do_drop_one(CPUState *cs, run_on_cpu_data data)
{
    QEMUS390StAttribState *sas = s390_page_states();
    Batch b;

    b.n = 1;
    b.gfn[0] = data.target_ptr;
    if (may_drop(qatomic_read(&sas->states[b.gfn[0]]), &b.usage)) {
        drop_batch(sas, &b);
    }
}

/* xorshift64: any sequence will do, but always the same for the same seed. */
static uint64_t next_random(void)
{
    uint64_t x = qatomic_read(&reclaim.random);

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    qatomic_set(&reclaim.random, x);
    return x;
}

void s390_discard_adversary(CPUState *cs, uint64_t gfn)
{
    QEMUS390StAttribState *sas = s390_page_states();
    S390PageUsage usage;
    uint64_t r, *slot;
    bool candidate;

    if (likely(reclaim.policy == S390_DISCARD_POLICY_DEMAND) ||
        gfn >= sas->ram_blocks) {
        return;
    }
    candidate = may_drop(qatomic_read(&sas->states[gfn]), &usage);
    if (reclaim.policy == S390_DISCARD_POLICY_RANDOM) {
        r = next_random();
        slot = &reclaim.ring[(r >> 8) % RING_BLOCKS];
        if (candidate && (r & 3)) {
            /* Later, or never: exchange it for an older candidate. */
            gfn = qatomic_xchg(slot, gfn);
        } else if (!candidate) {
            gfn = qatomic_read(slot);
        }
        candidate = true;
    }
    if (candidate) {
        async_safe_run_on_cpu(cs, do_drop_one, RUN_ON_CPU_TARGET_PTR(gfn));
    }
}

void s390_reclaim_init(void)
{
    QEMUS390StAttribState *sas = s390_page_states();
    MachineState *ms = MACHINE(qdev_get_machine());
    Error *err = NULL;

    if (!sas) {
        return;
    }
    reclaim.ram = ms->ram;
    reclaim.page_out_batch = PAGE_OUT_BLOCKS;
    reclaim.policy = sas->discard;
    reclaim.random = sas->discard_seed ?: 1;
    qemu_mutex_init(&reclaim.lock);
    reclaim.precopy_notifier.notify = notify_precopy;
    precopy_add_notifier(&reclaim.precopy_notifier);
    reclaim.postcopy_notifier.notify = notify_postcopy;
    postcopy_add_notifier(&reclaim.postcopy_notifier);
    if (can_release(ms, &err)) {
        sas->release = release_zero_blocks;
    }
    if (reclaim.policy != S390_DISCARD_POLICY_DEMAND || sas->resident_limit ||
        sas->paging_file) {
        prepare(sas, &error_fatal);
        if (sas->paging_file) {
            s390_pager_init(sas->paging_file, &error_fatal);
        }
        set_limit(sas, sas->resident_limit, &error_fatal);
    } else if (err) {
        info_report("Unused and volatile blocks of the guest will not be "
                    "taken back: %s", error_get_pretty(err));
    }
    error_free(err);
}
