// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for memory without a file: every condition for becoming volatile
 * after MADV_FREE one by one, and the dirty bit in the storage key.
 */
#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/page_hva.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include "../internal.h"
#include "../page_hva.h"

#define OLD	0x1122334455667788UL
#define NEW	0x99UL

/* A page that was stored to, in an address space of this kthread. */
struct anon_fixture {
	unsigned long addr;
	struct folio *folio;
};

static unsigned long __user *user_word(struct anon_fixture *f)
{
	return (unsigned long __user *)f->addr;
}

static int fixture_init(struct kunit *test)
{
	struct anon_fixture *f;
	struct page *page;

	if (!page_hva_lazyfree())
		kunit_skip(test, "boot with page_hva=lazyfree or full");

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	f->addr = kunit_vm_mmap(test, NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
				MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, f->addr, 0);
	KUNIT_ASSERT_EQ(test, 0, put_user(OLD, user_word(f)));
	KUNIT_ASSERT_EQ(test, 1, get_user_pages_fast(f->addr, 1, 0, &page));
	f->folio = page_folio(page);
	test->priv = f;
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct anon_fixture *f = test->priv;

	if (f)
		folio_put(f->folio);
}

static void free_lazily(struct kunit *test)
{
	struct anon_fixture *f = test->priv;

	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, 0, do_madvise(current->mm, f->addr, PAGE_SIZE,
					    MADV_FREE));
	lru_add_drain_all();
	KUNIT_ASSERT_FALSE(test, folio_test_swapbacked(f->folio));
	folio_hva_set_idle(f->folio);
}

/*
 * One condition at a time
 */

struct condition {
	const char *name;
	enum vm_event_item expected;
	void (*set)(struct anon_fixture *f);
	void (*undo)(struct anon_fixture *f);
};

#define FLAG_CONDITION(flag)						\
static void set_##flag(struct anon_fixture *f)				\
{									\
	set_bit(PG_##flag, &f->folio->flags);				\
}									\
static void undo_##flag(struct anon_fixture *f)				\
{									\
	clear_bit(PG_##flag, &f->folio->flags);				\
}

FLAG_CONDITION(locked)
FLAG_CONDITION(dirty)
FLAG_CONDITION(writeback)
FLAG_CONDITION(mlocked)
FLAG_CONDITION(unevictable)

static void change_vma(struct anon_fixture *f, vm_flags_t set, vm_flags_t clear)
{
	mmap_write_lock(current->mm);
	vm_flags_mod(find_vma(current->mm, f->addr), set, clear);
	mmap_write_unlock(current->mm);
}

static void set_vm_locked(struct anon_fixture *f)
{
	change_vma(f, VM_LOCKED, 0);
}

static void undo_vm_locked(struct anon_fixture *f)
{
	change_vma(f, 0, VM_LOCKED);
}

static void set_userfaultfd(struct anon_fixture *f)
{
	change_vma(f, VM_UFFD_MISSING, 0);
}

static void undo_userfaultfd(struct anon_fixture *f)
{
	change_vma(f, 0, VM_UFFD_MISSING);
}

static void set_soft_dirty_watched(struct anon_fixture *f)
{
	change_vma(f, 0, VM_SOFTDIRTY);
}

static void undo_soft_dirty_watched(struct anon_fixture *f)
{
	change_vma(f, VM_SOFTDIRTY, 0);
}

static void set_stored_to(struct anon_fixture *f)
{
	WARN_ON_ONCE(put_user(NEW, user_word(f)));
	folio_hva_set_idle(f->folio);
}

static void set_shared(struct anon_fixture *f)
{
	ClearPageAnonExclusive(&f->folio->page);
}

static void undo_shared(struct anon_fixture *f)
{
	SetPageAnonExclusive(&f->folio->page);
}

static void set_referenced(struct anon_fixture *f)
{
	folio_get(f->folio);
}

static void undo_referenced(struct anon_fixture *f)
{
	folio_put(f->folio);
}

/* In use after all: it would be written to swap */
static void set_swapbacked(struct anon_fixture *f)
{
	folio_set_swapbacked(f->folio);
}

static void undo_swapbacked(struct anon_fixture *f)
{
	folio_clear_swapbacked(f->folio);
}

#ifdef CONFIG_KSM
static void set_merged(struct anon_fixture *f)
{
	f->folio->mapping = (void *)((unsigned long)f->folio->mapping |
				     PAGE_MAPPING_KSM);
}

static void undo_merged(struct anon_fixture *f)
{
	f->folio->mapping = (void *)((unsigned long)f->folio->mapping &
				     ~PAGE_MAPPING_MOVABLE);
}
#endif

static void set_looked_up(struct anon_fixture *f)
{
	page_hva_make_stable(f->folio);
}

static void set_being_flushed(struct anon_fixture *f)
{
	inc_tlb_flush_pending(current->mm);
}

static void undo_being_flushed(struct anon_fixture *f)
{
	dec_tlb_flush_pending(current->mm);
}

static void set_isolated(struct anon_fixture *f)
{
	folio_isolate_lru(f->folio);
}

static void undo_isolated(struct anon_fixture *f)
{
	folio_putback_lru(f->folio);
	lru_add_drain_all();
}

#ifdef CONFIG_PGSTE
static void set_kvm_host_maybe(struct anon_fixture *f)
{
	current->mm->context.alloc_pgste = 1;
}

static void undo_kvm_host_maybe(struct anon_fixture *f)
{
	current->mm->context.alloc_pgste = 0;
}

/* Nobody may change a pte in between: there is no page status table. */
static void set_kvm_host(struct anon_fixture *f)
{
	current->mm->context.has_pgste = 1;
}

static void undo_kvm_host(struct anon_fixture *f)
{
	current->mm->context.has_pgste = 0;
}
#endif

#ifdef CONFIG_MMU_NOTIFIER
static const struct mmu_notifier_ops no_notifier_ops;
static struct mmu_notifier notifier = { .ops = &no_notifier_ops };

static void set_shared_with_device(struct anon_fixture *f)
{
	WARN_ON_ONCE(mmu_notifier_register(&notifier, current->mm));
}

static void undo_shared_with_device(struct anon_fixture *f)
{
	mmu_notifier_unregister(&notifier, current->mm);
}
#endif

static const struct condition conditions[] = {
	{ "lazily freed", HVA_VOLATILE },
	{ "stored to since", HVA_REFUSED_MAPPING, set_stored_to },
	{ "dirty", HVA_REFUSED_MAPPING, set_dirty, undo_dirty },
	{ "shared", HVA_REFUSED_MAPPING, set_shared, undo_shared },
	{ "referenced", HVA_REFUSED_REFS, set_referenced, undo_referenced },
	{ "swap backed again", HVA_REFUSED_MAPPING, set_swapbacked,
	  undo_swapbacked },
#ifdef CONFIG_KSM
	{ "merged by KSM", HVA_REFUSED_MAPPING, set_merged, undo_merged },
#endif
	{ "looked up", HVA_REFUSED_HOT, set_looked_up },
	{ "locked", HVA_REFUSED_LOCKED, set_locked, undo_locked },
	{ "writeback", HVA_REFUSED_WRITEBACK, set_writeback, undo_writeback },
	{ "mlocked", HVA_REFUSED_MLOCKED, set_mlocked, undo_mlocked },
	{ "unevictable", HVA_REFUSED_MLOCKED, set_unevictable,
	  undo_unevictable },
	{ "VM_LOCKED", HVA_REFUSED_MLOCKED, set_vm_locked, undo_vm_locked },
	{ "userfaultfd", HVA_REFUSED_MAPPED, set_userfaultfd,
	  undo_userfaultfd },
	{ "soft-dirty bits are watched", HVA_REFUSED_MAPPED,
	  set_soft_dirty_watched, undo_soft_dirty_watched },
	{ "madvise() is not through", HVA_REFUSED_HOT, set_being_flushed,
	  undo_being_flushed },
#ifdef CONFIG_PGSTE
	{ "may become a KVM host", HVA_REFUSED_MAPPED, set_kvm_host_maybe,
	  undo_kvm_host_maybe },
	{ "KVM host", HVA_REFUSED_MAPPED, set_kvm_host, undo_kvm_host },
#endif
#ifdef CONFIG_MMU_NOTIFIER
	{ "shared with a device", HVA_REFUSED_MAPPED, set_shared_with_device,
	  undo_shared_with_device },
#endif
	{ "not on the LRU", HVA_REFUSED_REFS, set_isolated, undo_isolated },
};

KUNIT_ARRAY_PARAM_DESC(condition, conditions, name);

static void condition_test(struct kunit *test)
{
	const struct condition *c = test->param_value;
	struct anon_fixture *f = test->priv;
	bool is_volatile = c->expected == HVA_VOLATILE;
	enum vm_event_item result;

	if (c->set == set_soft_dirty_watched &&
	    !IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		kunit_skip(test, "no soft-dirty bits");
	free_lazily(test);
	if (c->set)
		c->set(f);
	result = page_hva_make_volatile(f->folio);
	if (c->undo)
		c->undo(f);
	KUNIT_EXPECT_EQ(test, (int)c->expected, (int)result);
	KUNIT_EXPECT_EQ(test, is_volatile,
			folio_hva_state(f->folio) == FOLIO_VOLATILE);
	KUNIT_EXPECT_EQ(test, is_volatile,
			page_hva_usage(page_hva_get_state(&f->folio->page)) >=
			PAGE_HVA_POT_VOLATILE);
}

/*
 * What is found by whom
 */

/* A page of its own, or zeros for good. */
static void use_test(struct kunit *test)
{
	struct anon_fixture *f = test->priv;
	unsigned long word;

	free_lazily(test);
	KUNIT_ASSERT_EQ(test, (int)HVA_VOLATILE,
			(int)page_hva_make_volatile(f->folio));
	KUNIT_ASSERT_EQ(test, 0, get_user(word, user_word(f)));
	KUNIT_EXPECT_TRUE(test, word == OLD || !word);
	/* For whoever knows what the host does. */
	kunit_info(test, "found %s\n", word ? "intact" : "discarded");
	KUNIT_ASSERT_EQ(test, 0, put_user(NEW, user_word(f)));
	KUNIT_ASSERT_EQ(test, 0, get_user(word, user_word(f)));
	KUNIT_EXPECT_EQ(test, NEW, word);
	folio_hva_set_idle(f->folio);
	KUNIT_EXPECT_NE(test, (int)HVA_VOLATILE,
			(int)page_hva_make_volatile(f->folio));
}

/* The split dirty test: who takes the pte away gets the dirty bit with it. */
static void harvest_test(struct kunit *test)
{
	struct anon_fixture *f = test->priv;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep, pte;
	int store;

	if (!page_hva_potential())
		kunit_skip(test, "boot with page_hva=full");
	for (store = 0; store < 2; store++) {
		free_lazily(test);
		if (store)
			KUNIT_ASSERT_EQ(test, 0, put_user(NEW, user_word(f)));

		ptep = get_locked_pte(current->mm, f->addr, &ptl);
		KUNIT_ASSERT_NOT_NULL(test, ptep);
		pte = ptep_get(ptep);
		KUNIT_EXPECT_TRUE(test, pte_dirty_in_key(pte));
		KUNIT_EXPECT_FALSE(test, pte_dirty(pte));
		KUNIT_EXPECT_EQ(test, store, pte_maybe_dirty(pte));
		pte = ptep_harvest_dirty(current->mm, f->addr, ptep, pte);
		KUNIT_EXPECT_FALSE(test, pte_dirty_in_key(pte));
		KUNIT_EXPECT_EQ(test, store, !!pte_dirty(pte));
		KUNIT_EXPECT_TRUE(test, pte_same(pte, ptep_get(ptep)));
		pte_unmap_unlock(ptep, ptl);
	}
}

/* The last pte that can be written to is gone. */
static void reset_write_test(struct kunit *test)
{
	struct anon_fixture *f = test->priv;
	struct page *page = &f->folio->page;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	if (!page_hva_potential())
		kunit_skip(test, "boot with page_hva=full");
	free_lazily(test);
	KUNIT_ASSERT_EQ(test, (int)HVA_VOLATILE,
			(int)page_hva_make_volatile(f->folio));
	ptep = get_locked_pte(current->mm, f->addr, &ptl);
	KUNIT_ASSERT_NOT_NULL(test, ptep);
	ptep_harvest_dirty(current->mm, f->addr, ptep, ptep_get(ptep));
	pte_unmap_unlock(ptep, ptl);
	KUNIT_EXPECT_EQ(test, FOLIO_VOLATILE, folio_hva_state(f->folio));
	KUNIT_EXPECT_EQ(test, (int)PAGE_HVA_VOLATILE,
			page_hva_usage(page_hva_get_state(page)));
}

#ifdef CONFIG_S390
static bool is_referenced(struct page *page)
{
	return page_get_storage_key(page_to_phys(page)) & _PAGE_REFERENCED;
}
#else
static bool is_referenced(struct page *page)
{
	return true;
}
#endif

/* The dirty bit goes, the reference bit, which reclaim asks for, stays. */
static void clear_dirty_test(struct kunit *test)
{
	struct page *page = alloc_page(GFP_KERNEL);
	unsigned long *word;

	KUNIT_ASSERT_NOT_NULL(test, page);
	word = page_address(page);
	WRITE_ONCE(*word, OLD);
	KUNIT_EXPECT_TRUE(test, page_test_dirty(page));
	KUNIT_EXPECT_TRUE(test, is_referenced(page));
	page_clear_dirty(page);
	KUNIT_EXPECT_TRUE(test, is_referenced(page));
	KUNIT_EXPECT_FALSE(test, page_test_dirty(page));
	KUNIT_EXPECT_EQ(test, OLD, READ_ONCE(*word));
	KUNIT_EXPECT_FALSE(test, page_test_dirty(page));
	WRITE_ONCE(*word, NEW);
	KUNIT_EXPECT_TRUE(test, page_test_dirty(page));
	__free_page(page);
}

static struct kunit_case page_hva_anon_cases[] = {
	KUNIT_CASE_PARAM(condition_test, condition_gen_params),
	KUNIT_CASE(use_test),
	KUNIT_CASE(harvest_test),
	KUNIT_CASE(reset_write_test),
	KUNIT_CASE(clear_dirty_test),
	{}
};

static struct kunit_suite page_hva_anon_suite = {
	.name = "page_hva_anon",
	.init = fixture_init,
	.exit = fixture_exit,
	.test_cases = page_hva_anon_cases,
};
kunit_test_suite(page_hva_anon_suite);

MODULE_DESCRIPTION("KUnit tests for volatile anonymous memory");
MODULE_LICENSE("GPL");
