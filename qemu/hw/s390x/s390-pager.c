/*
 * s390 storage attributes device -- TCG object: preserved blocks
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or (at
 * your option) any later version. See the COPYING file in the top-level
 * directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

/*
 * A preserved block is not in memory, but in a paging file, at the offset that
 * is its absolute address. Anybody may access it: a CPU through a new
 * translation, a device, a system call on behalf of a device, the migration.
 * Therefore the memory is registered with userfaultfd, and a thread reads the
 * block in when it is missed, whoever misses it. What is missed and not in the
 * file is zeros.
 *
 * Whether the content is in the file is told by a bit of its own, not by the
 * state: when a CPU enters a translation, the block becomes stable resident at
 * once (see s390_page_state_access()), and the content comes with the first
 * touch.
 *
 * Paging out must not lose what somebody stores at the same time. It is done in
 * two steps:
 *
 * - A block is write-protected, and copied into the file. Who stores into it
 *   meanwhile, a CPU for instance, faults; the thread removes the protection,
 *   and the block is not paged out.
 * - In an exclusive section, with all TLBs flushed, it changes its state, and
 *   the memory is released. A store in the middle of this, which is not by a
 *   CPU, waits, and then misses the block, and has it read in again.
 *
 * The block layer is drained before, so that no request is in flight: direct
 * I/O has looked up the pages, and does not fault any more.
 *
 * Content must not come back after the guest has called it unused, or after the
 * reclaimer has dropped the block; neither stops the thread. So a lock is held
 * to look at the bit and to fill the memory, and whoever clears the bit takes
 * it, together with the change of the state, or before the memory is released.
 *
 * A migration reads preserved blocks like anybody else. They are not preserved
 * at the destination, which may have a paging file of its own.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/stats64.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "block/block.h"
#include "exec/cputlb.h"
#include "exec/target_page.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/s390x/page-states.h"
#include "hw/s390x/s390-pager.h"
#include "hw/s390x/storage-attributes.h"
#include "system/cpu-throttle.h"
#include "cpu.h"

#ifdef CONFIG_LINUX
#include "qemu/userfaultfd.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static struct {
    int file;
    int uffd;
    uint8_t *ram;
    uint64_t blocks;
    unsigned long *stored;      /* blocks whose content is in the file */
    unsigned long *copied;      /* so is theirs, if nobody stores into them */
    QemuMutex lock;             /* of "stored" and what is in memory */
    QemuThread thread;
    Stat64 out;
    Stat64 in;
} pager = { .file = -1, .uffd = -1 };

static bool is_set(unsigned long *map, uint64_t gfn)
{
    return qatomic_read(&map[BIT_WORD(gfn)]) & BIT_MASK(gfn);
}

static void set(unsigned long *map, uint64_t gfn)
{
    qatomic_or(&map[BIT_WORD(gfn)], BIT_MASK(gfn));
}

/* Returns whether it was set. */
static bool clear(unsigned long *map, uint64_t gfn)
{
    return is_set(map, gfn) &&
           (qatomic_fetch_and(&map[BIT_WORD(gfn)], ~BIT_MASK(gfn)) &
            BIT_MASK(gfn));
}

bool s390_pager_enabled(void)
{
    return pager.uffd >= 0;
}

/* A block that was copied is not to be paged out: who waits may store. */
static void keep(uint64_t gfn)
{
    if (clear(pager.copied, gfn)) {
        uffd_change_protection(pager.uffd, pager.ram + gfn * TARGET_PAGE_SIZE,
                               TARGET_PAGE_SIZE, false, false);
    }
}

void s390_pager_forget(uint64_t gfn, uint64_t n)
{
    if (pager.uffd < 0) {
        return;
    }
    QEMU_LOCK_GUARD(&pager.lock);
    for (; n; gfn++, n--) {
        clear(pager.stored, gfn);
        keep(gfn);
    }
}

bool s390_pager_drop(uint64_t gfn, uint8_t old, uint8_t new)
{
    QEMU_LOCK_GUARD(&pager.lock);
    if (!s390_page_state_change(s390_page_states(), gfn, old, new)) {
        return false;
    }
    clear(pager.stored, gfn);
    return true;
}

void s390_pager_statistics(uint64_t *out, uint64_t *in)
{
    *out = stat64_get(&pager.out);
    *in = stat64_get(&pager.in);
}

/* Sp becomes Sr, unless ESSA has changed it to something else meanwhile. */
static void make_resident(uint64_t gfn)
{
    QEMUS390StAttribState *sas = s390_page_states();
    uint8_t old;

    do {
        old = qatomic_read(&sas->states[gfn]);
        if ((old & S390_PS_STATE) != (S390_PS_STABLE | S390_PS_PRESERVED)) {
            break;
        }
    } while (!s390_page_state_change(sas, gfn, old,
                                     (old & ~S390_PS_CONTENT) |
                                     S390_PS_REFERENCED));
}

/* Fill a missing block with @content, or zeros, and wake up who waits for it */
static void fill(uint8_t *host, uint8_t *content)
{
    struct uffdio_copy copy = {
        .dst = (uintptr_t)host,
        .src = (uintptr_t)content,
        .len = TARGET_PAGE_SIZE,
    };
    struct uffdio_zeropage zero = {
        .range = { .start = (uintptr_t)host, .len = TARGET_PAGE_SIZE },
    };
    int r;

    do {
        r = content ? ioctl(pager.uffd, UFFDIO_COPY, &copy)
                    : ioctl(pager.uffd, UFFDIO_ZEROPAGE, &zero);
    } while (r && errno == EAGAIN);
    if (r) {
        /* It was filled for somebody else already. */
        assert(errno == EEXIST);
        uffd_wakeup(pager.uffd, host, TARGET_PAGE_SIZE);
    }
}

/* Somebody waits for a block that is not in memory. */
static void page_in(uint64_t gfn)
{
    static uint8_t buffer[TARGET_PAGE_SIZE] QEMU_ALIGNED(TARGET_PAGE_SIZE);
    uint8_t *host = pager.ram + gfn * TARGET_PAGE_SIZE;
    bool read = is_set(pager.stored, gfn);

    if (read && pread(pager.file, buffer, TARGET_PAGE_SIZE,
                      gfn * TARGET_PAGE_SIZE) != TARGET_PAGE_SIZE) {
        /* As for a machine that cannot read its paging device any more */
        error_report("paging file: cannot read block 0x%" PRIx64 ": %s", gfn,
                     strerror(errno));
        abort();
    }
    QEMU_LOCK_GUARD(&pager.lock);
    if (!is_set(pager.stored, gfn)) {
        /* It was zero, or became so while it was read. */
        fill(host, NULL);
    } else if (read) {
        make_resident(gfn);
        clear(pager.stored, gfn);
        stat64_add(&pager.in, 1);
        fill(host, buffer);
    } else {
        /* It was there, and has just been paged out: look again. */
        uffd_wakeup(pager.uffd, host, TARGET_PAGE_SIZE);
    }
}

static void *pager_thread(void *opaque)
{
    struct pollfd pfd = { .fd = pager.uffd, .events = POLLIN };
    struct uffd_msg msg;

    while (true) {
        if (poll(&pfd, 1, -1) < 0 ||
            uffd_read_events(pager.uffd, &msg, 1) != 1) {
            continue;
        }
        if (msg.event == UFFD_EVENT_PAGEFAULT) {
            uint64_t host = msg.arg.pagefault.address;
            uint64_t gfn = (host - (uintptr_t)pager.ram) / TARGET_PAGE_SIZE;

            if (msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
                keep(gfn);
                /* If it has just been paged out, it is to be missed now. */
                uffd_wakeup(pager.uffd, pager.ram + gfn * TARGET_PAGE_SIZE,
                            TARGET_PAGE_SIZE);
            } else {
                page_in(gfn);
            }
        }
    }
    return NULL;
}

/* The first step: with the CPUs running */
static bool copy_block(QEMUS390StAttribState *sas, uint64_t gfn)
{
    uint8_t *host = pager.ram + gfn * TARGET_PAGE_SIZE;
    uint8_t state = qatomic_read(&sas->states[gfn]);
    unsigned char present;

    /*
     * What was never touched since it became resident does not have to be
     * paged out. The host's own paging does not matter.
     */
    if ((state & S390_PS_STATE) != (S390_PS_STABLE | S390_PS_RESIDENT) ||
        is_set(pager.stored, gfn) ||
        mincore(host, TARGET_PAGE_SIZE, &present) || !(present & 1)) {
        return false;
    }
    /* A fault must find the bit. */
    set(pager.copied, gfn);
    if (uffd_change_protection(pager.uffd, host, TARGET_PAGE_SIZE, true,
                               false) ||
        pwrite(pager.file, host, TARGET_PAGE_SIZE, gfn * TARGET_PAGE_SIZE) !=
        TARGET_PAGE_SIZE) {
        keep(gfn);
        return false;
    }
    return true;
}

/* The second step: in the exclusive section */
static bool page_out_block(QEMUS390StAttribState *sas, uint64_t gfn)
{
    uint8_t *host = pager.ram + gfn * TARGET_PAGE_SIZE;
    uint8_t old = qatomic_read(&sas->states[gfn]);

    if ((old & S390_PS_STATE) != (S390_PS_STABLE | S390_PS_RESIDENT)) {
        keep(gfn);
        return false;
    }
    if (!clear(pager.copied, gfn)) {
        /* It has changed since it was copied. */
        return false;
    }
    if (!s390_page_state_change(sas, gfn, old,
                                (old & S390_PS_NODAT) | S390_PS_STABLE |
                                S390_PS_PRESERVED)) {
        uffd_change_protection(pager.uffd, host, TARGET_PAGE_SIZE, false,
                               false);
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&pager.lock) {
        set(pager.stored, gfn);
        madvise(host, TARGET_PAGE_SIZE, MADV_DONTNEED);
    }
    uffd_wakeup(pager.uffd, host, TARGET_PAGE_SIZE);
    return true;
}

typedef struct PageOut {
    uint64_t *gfn;
    unsigned int n;
    unsigned int done;
    int64_t ns;
} PageOut;

/*
 * Runs with the BQL held, on a CPU, in between its translation blocks, or in
 * the main thread.
 */
static void do_page_out(CPUState *cs, run_on_cpu_data data)
{
    QEMUS390StAttribState *sas = s390_page_states();
    PageOut *p = data.host_ptr;
    CPUState *other;
    unsigned int i;

    bql_unlock();
    start_exclusive();
    p->ns = get_clock();
    for (i = 0; i < p->n; i++) {
        if (page_out_block(sas, p->gfn[i])) {
            p->gfn[p->done++] = p->gfn[i];
        }
    }
    CPU_FOREACH(other) {
        tlb_flush_exclusive(other);
    }
    p->ns = get_clock() - p->ns;
    end_exclusive();
    bql_lock();
}

unsigned int s390_pager_page_out(uint64_t *gfn, unsigned int n, int64_t *ns)
{
    QEMUS390StAttribState *sas = s390_page_states();
    PageOut p = { .gfn = gfn };
    unsigned int i;

    bdrv_drain_all_begin();
    for (i = 0; i < n; i++) {
        if (copy_block(sas, gfn[i])) {
            gfn[p.n++] = gfn[i];
        }
    }
    if (p.n && cpu_throttle_active()) {
        /* The CPU may sleep for a second before it does it. */
        do_page_out(NULL, RUN_ON_CPU_HOST_PTR(&p));
    } else if (p.n) {
        run_on_cpu(first_cpu, do_page_out, RUN_ON_CPU_HOST_PTR(&p));
    }
    bdrv_drain_all_end();
    stat64_add(&pager.out, p.done);
    *ns = p.ns;
    return p.done;
}

bool s390_pager_init(const char *path, Error **errp)
{
    QEMUS390StAttribState *sas = s390_page_states();
    uint64_t size = sas->ram_blocks * TARGET_PAGE_SIZE;
    uint64_t ioctls;

    if (memory_region_get_fd(MACHINE(qdev_get_machine())->ram) >= 0) {
        error_setg(errp, "paging file: memory is not anonymous");
        return false;
    }
    pager.file = qemu_open_old(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (pager.file < 0 || ftruncate(pager.file, size)) {
        error_setg_errno(errp, errno, "paging file '%s'", path);
        return false;
    }
    pager.ram = sas->ram_host;
    pager.blocks = sas->ram_blocks;
    pager.stored = bitmap_new(pager.blocks);
    pager.copied = bitmap_new(pager.blocks);
    qemu_mutex_init(&pager.lock);
    pager.uffd = uffd_create_fd(UFFD_FEATURE_PAGEFAULT_FLAG_WP, true);
    if (pager.uffd < 0 ||
        uffd_register_memory(pager.uffd, pager.ram, size,
                             UFFDIO_REGISTER_MODE_MISSING |
                             UFFDIO_REGISTER_MODE_WP, &ioctls)) {
        error_setg(errp, "paging file: userfaultfd is not available");
        return false;
    }
    qemu_thread_create(&pager.thread, "s390-pager", pager_thread, NULL,
                       QEMU_THREAD_DETACHED);
    return true;
}

#else /* !CONFIG_LINUX */

bool s390_pager_enabled(void)
{
    return false;
}

void s390_pager_forget(uint64_t gfn, uint64_t n)
{
}

bool s390_pager_drop(uint64_t gfn, uint8_t old, uint8_t new)
{
    g_assert_not_reached();
}

void s390_pager_statistics(uint64_t *out, uint64_t *in)
{
    *out = *in = 0;
}

unsigned int s390_pager_page_out(uint64_t *gfn, unsigned int n, int64_t *ns)
{
    *ns = 0;
    return 0;
}

bool s390_pager_init(const char *path, Error **errp)
{
    error_setg(errp, "A paging file needs a Linux host");
    return false;
}

#endif
