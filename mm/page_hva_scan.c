// SPDX-License-Identifier: GPL-2.0
/*
 * Page host virtual assist: find the folios that nobody uses.
 *
 * A folio is cold if it was not looked up between two passes over all memory:
 * the first pass sets it idle, a lookup clears that, and the second pass makes
 * volatile what is still idle, see mm/page_hva.c. So hot paths do no work to
 * keep the hint right; the price is that a folio is at least one interval old
 * when it becomes volatile.
 *
 * Passes go over struct page in the order of the page frames, in batches, like
 * the idle page bitmap does: no LRU lock, no order to keep, and no question
 * which of the two LRU implementations is in use. Only what can become volatile
 * at all is set idle, so that the rest, metadata above all, costs no lookup
 * anything and does not keep the scanner awake.
 *
 * A guest that does nothing must not be woken up. The scanner sleeps when a
 * whole pass has changed nothing, until page cache is added or written by msync(),
 * memory is lazily freed or read from swap, or an idle or a volatile folio is looked
 * up, see page_hva_notify(). The exception is page cache that is dirty or locked: the
 * end of the I/O makes it a candidate without a word to us, unless msync() waited
 * for it, so while there is some the scanner looks again, less and less often.
 */
#define pr_fmt(fmt) "page_hva: " fmt

#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/irq_work.h>
#include <linux/jiffies.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/mutex.h>
#include <linux/page_hva.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/swap.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "internal.h"
#include "page_hva.h"

/* The time between two passes, and the longest wait for the end of I/O. */
#define SCAN_INTERVAL		(2 * HZ)
#define SCAN_INTERVAL_MAX	(64 * HZ)

/* A pass may not take more than one part in SCAN_SHARE of one CPU. */
#define SCAN_SHARE		10

int page_hva_scan_state = PAGE_HVA_SCAN_ASLEEP;

/* What a pass has seen. */
struct scan_result {
	unsigned long changed;	/* folios that another pass may find colder */
	unsigned long waiting;	/* folios with I/O to be done on them */
};

/*
 * One folio
 */

/*
 * Is the page of a folio of the file LRU lists, or of the swap cache, that is not
 * yet volatile? The one question for each page of memory: for most of them, one
 * test of the flags, without a call. Tail pages have no PG_lru.
 */
static __always_inline bool maybe_candidate(const struct page *page)
{
	const unsigned long mask = BIT(PG_lru) | BIT(PG_hva_volatile);
	unsigned long flags = READ_ONCE(page->flags);

	if ((flags & mask) != BIT(PG_lru))
		return false;
	if (!(flags & BIT(PG_swapbacked)))
		return true;
	return page_hva_potential() && flags & BIT(PG_swapcache);
}

/* Take a reference on it. */
static struct folio *get_candidate(struct page *page)
{
	struct folio *folio;

	if (PageTail(page))
		return NULL;
	folio = page_folio(page);
	if (!folio_try_get(folio))
		return NULL;
	if (page_folio(page) == folio && maybe_candidate(page))
		return folio;
	folio_put(folio);
	return NULL;
}

static void scan_folio(struct folio *folio, struct scan_result *result)
{
	enum vm_event_item outcome;

	if (folio_hva_state(folio) == FOLIO_IDLE) {
		outcome = page_hva_make_volatile(folio);
	} else {
		outcome = page_hva_eligible(folio);
		if (outcome == HVA_VOLATILE)
			folio_hva_set_idle(folio);
	}
	if (outcome != HVA_VOLATILE)
		count_vm_events(outcome, folio_nr_pages(folio));

	switch (outcome) {
	case HVA_VOLATILE:
	case HVA_REFUSED_HOT:
		result->changed++;
		break;
	case HVA_REFUSED_DIRTY:
	case HVA_REFUSED_WRITEBACK:
	case HVA_REFUSED_LOCKED:
	case HVA_REFUSED_PRIVATE:
		result->waiting++;
		break;
	default:
		break;
	}
}

/* Return how many page frames to go on by. */
static unsigned long scan_page(struct page *page, struct scan_result *result)
{
	struct folio *folio = get_candidate(page);
	unsigned long nr;

	if (!folio)
		return 1;
	nr = folio_nr_pages(folio);
	count_vm_event(HVA_SCAN);
	scan_folio(folio, result);
	folio_put(folio);
	return nr;
}

/*
 * All memory
 */

/* A pageblock is either online as a whole or not at all. */
static void scan_pageblock(unsigned long pfn, struct scan_result *result)
{
	struct page *page = pfn_to_online_page(pfn), *end;

	if (!page)
		return;
	for (end = page + pageblock_nr_pages; page < end;)
		page += maybe_candidate(page) ? scan_page(page, result) : 1;
}

static struct scan_result scan_all(void)
{
	static DEFINE_MUTEX(one_at_a_time);
	struct scan_result result = {};
	unsigned long pfn;

	mutex_lock(&one_at_a_time);
	/* A folio in a per-CPU batch is not on the LRU, or has one reference more. */
	lru_add_drain_all();
	for (pfn = 0; pfn < max_pfn; pfn += pageblock_nr_pages) {
		get_online_mems();
		scan_pageblock(pfn, &result);
		put_online_mems();
		cond_resched();
	}
	mutex_unlock(&one_at_a_time);
	return result;
}

/*
 * Again and again
 */

static void scan_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(scanner, scan_work);

static void wake_scanner(struct irq_work *work)
{
	mod_delayed_work(system_unbound_wq, &scanner, SCAN_INTERVAL);
}

static DEFINE_IRQ_WORK(scanner_alarm, wake_scanner);

/*
 * Slow half of page_hva_notify(). The caller may be BPF that has interrupted
 * the timer or the workqueue code, so leave these to an interrupt of our own.
 */
void __page_hva_wake_scanner(void)
{
	int old = xchg(&page_hva_scan_state, PAGE_HVA_SCAN_REQUESTED);

	if (old == PAGE_HVA_SCAN_ASLEEP)
		irq_work_queue(&scanner_alarm);
}

/* Unless a notification has already asked for it sooner. */
static void scan_again(unsigned long delay)
{
	queue_delayed_work(system_unbound_wq, &scanner, delay);
}

static void scan_work(struct work_struct *work)
{
	static unsigned long patience = SCAN_INTERVAL;
	unsigned long start = jiffies, delay;
	struct scan_result result;

	/* What is notified from here on may have been missed by this pass. */
	xchg(&page_hva_scan_state, PAGE_HVA_SCAN_RUNNING);
	result = scan_all();
	delay = max_t(unsigned long, SCAN_INTERVAL,
		      (jiffies - start) * SCAN_SHARE);

	if (result.changed) {
		patience = SCAN_INTERVAL;
		xchg(&page_hva_scan_state, PAGE_HVA_SCAN_REQUESTED);
		scan_again(delay);
		return;
	}
	if (cmpxchg(&page_hva_scan_state, PAGE_HVA_SCAN_RUNNING,
		    PAGE_HVA_SCAN_ASLEEP) == PAGE_HVA_SCAN_REQUESTED) {
		scan_again(delay);
		return;
	}
	if (!result.waiting) {
		patience = SCAN_INTERVAL;
		return;
	}
	patience = min_t(unsigned long, 2 * patience, SCAN_INTERVAL_MAX);
	scan_again(max(delay, patience));
}

/*
 * For people
 */

struct block_count {
	unsigned long in[PAGE_HVA_NR_USAGE][PAGE_HVA_NR_CONTENT];
};

static void count_pageblock(unsigned long pfn, struct block_count *blocks)
{
	struct page *page = pfn_to_online_page(pfn);
	unsigned long i;

	for (i = 0; page && i < pageblock_nr_pages; i++) {
		int state = page_hva_get_state(page + i);

		if (state >= 0)
			blocks->in[page_hva_usage(state)][page_hva_content(state)]++;
	}
}

/* The table of the eight states, as the host sees the blocks right now. */
static int states_show(struct seq_file *m, void *unused)
{
	static const char * const names[] = {
		"stable", "unused", "pvolatile", "volatile",
	};
	static const int order[] = {
		PAGE_HVA_STABLE, PAGE_HVA_UNUSED, PAGE_HVA_VOLATILE,
		PAGE_HVA_POT_VOLATILE,
	};
	struct block_count blocks = {};
	unsigned long pfn;
	int i;

	for (pfn = 0; pfn < max_pfn; pfn += pageblock_nr_pages) {
		get_online_mems();
		count_pageblock(pfn, &blocks);
		put_online_mems();
		cond_resched();
	}
	seq_printf(m, "%-10s%10s%10s%10s\n", "", "resident", "preserved", "zero");
	for (i = 0; i < ARRAY_SIZE(order); i++) {
		unsigned long *c = blocks.in[order[i]];

		seq_printf(m, "%-10s%10lu%10lu%10lu\n", names[order[i]],
			   c[PAGE_HVA_RESIDENT], c[PAGE_HVA_PRESERVED],
			   c[PAGE_HVA_ZERO]);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(states);

static int mode_show(struct seq_file *m, void *unused)
{
	seq_printf(m, "%s\n", page_hva_mode());
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(mode);

/* One pass now. */
static ssize_t scan_write(struct file *file, const char __user *buf,
			  size_t count, loff_t *ppos)
{
	if (!page_hva_is_active())
		return -ENODEV;
	scan_all();
	return count;
}

static const struct file_operations scan_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = scan_write,
	.llseek = noop_llseek,
};

static int __init page_hva_scan_init(void)
{
	struct dentry *dir;

	if (!page_hva_enabled())
		return 0;
	dir = debugfs_create_dir("page_hva", NULL);
	debugfs_create_file("states", 0400, dir, NULL, &states_fops);
	debugfs_create_file("mode", 0400, dir, NULL, &mode_fops);
	debugfs_create_file("scan", 0200, dir, NULL, &scan_fops);
	return 0;
}
late_initcall(page_hva_scan_init);
