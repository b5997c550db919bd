// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for the state of a folio: every condition for becoming volatile
 * one by one, and what a lookup and freeing do to a volatile folio.
 *
 * The folios are in the page cache of an inode that has no file system, so no
 * other code comes near them but the scanner; it is held off by an additional
 * reference in between.
 */
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/backing-dev.h>
#include <linux/fs.h>
#include <linux/memblock.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/page_hva.h>
#include <linux/pagemap.h>
#include <linux/string.h>
#include <linux/swap.h>
#include "../internal.h"
#include "../page_hva.h"

struct file_fixture {
	struct super_block sb;
	struct backing_dev_info bdi;
	struct address_space_operations aops;
	struct inode inode;
	struct vm_area_struct *vma;
	unsigned int released;
	bool may_release;
};

static struct file_fixture *to_fixture(struct folio *folio)
{
	return container_of(folio->mapping->host, struct file_fixture, inode);
}

static int fake_read_folio(struct file *file, struct folio *folio)
{
	folio_mark_uptodate(folio);
	folio_unlock(folio);
	return 0;
}

static bool fake_release_folio(struct folio *folio, gfp_t gfp)
{
	struct file_fixture *f = to_fixture(folio);

	f->released++;
	if (f->may_release && folio_test_private(folio))
		folio_detach_private(folio);
	return f->may_release;
}

#define PATTERN	0x5a

/* Memory that nobody has stored to is nothing the host could drop. */
static void fill_folio(struct folio *folio)
{
	long i;

	for (i = 0; i < folio_nr_pages(folio); i++)
		memset(page_address(folio_page(folio, i)), PATTERN, PAGE_SIZE);
}

static bool folio_is_filled(struct folio *folio)
{
	long i;

	for (i = 0; i < folio_nr_pages(folio); i++) {
		if (memchr_inv(page_address(folio_page(folio, i)), PATTERN,
			       PAGE_SIZE))
			return false;
	}
	return true;
}

/* An uptodate, idle folio on the LRU; the caller's is the only reference. */
static struct folio *add_folio(struct kunit *test, struct file_fixture *f,
			       unsigned int order)
{
	struct folio *folio = filemap_alloc_folio(GFP_KERNEL, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test, 0, filemap_add_folio(&f->inode.i_data, folio, 0,
						   GFP_KERNEL));
	fill_folio(folio);
	folio_mark_uptodate(folio);
	folio_unlock(folio);
	lru_add_drain_all();
	folio_hva_set_idle(folio);
	return folio;
}

/* Are pages unmapped before they become volatile? */
static bool unmapped_first(void)
{
	return !strcmp(page_hva_mode(), "on");
}

static unsigned int max_order(void)
{
	return IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) ? 3 : 0;
}

static int fixture_init(struct kunit *test)
{
	struct file_fixture *f;
	struct address_space *mapping;

	if (!page_hva_is_active())
		kunit_skip(test, "the host did not prove the discard fault");

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	f->may_release = true;
	f->bdi.capabilities = BDI_CAP_WRITEBACK;
	f->sb.s_bdi = &f->bdi;
	f->aops.read_folio = fake_read_folio;
	f->aops.release_folio = fake_release_folio;
	f->inode.i_mode = S_IFREG;
	f->inode.i_sb = &f->sb;
	f->inode.i_mapping = &f->inode.i_data;
	atomic_set(&f->inode.i_count, 1);
	spin_lock_init(&f->inode.i_lock);
	mapping = &f->inode.i_data;
	address_space_init_once(mapping);
	mapping->host = &f->inode;
	mapping->a_ops = &f->aops;
	mapping_set_gfp_mask(mapping, GFP_KERNEL);
	mapping_set_large_folios(mapping);
	test->priv = f;
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct file_fixture *f = test->priv;

	if (f)
		truncate_inode_pages(&f->inode.i_data, 0);
}

/*
 * One condition at a time
 */

struct condition {
	const char *name;
	enum vm_event_item expected;
	void (*set)(struct file_fixture *f, struct folio *folio);
	void (*undo)(struct file_fixture *f, struct folio *folio);
	unsigned int order;
	bool mapped;		/* not with page_hva=on */
};

#define FLAG_CONDITION(flag)						\
static void set_##flag(struct file_fixture *f, struct folio *folio)	\
{									\
	set_bit(PG_##flag, &folio->flags);				\
}									\
static void undo_##flag(struct file_fixture *f, struct folio *folio)	\
{									\
	clear_bit(PG_##flag, &folio->flags);				\
}

FLAG_CONDITION(locked)
FLAG_CONDITION(dirty)
FLAG_CONDITION(writeback)
FLAG_CONDITION(mlocked)
FLAG_CONDITION(unevictable)
FLAG_CONDITION(checked)
FLAG_CONDITION(swapbacked)

static void set_isolated(struct file_fixture *f, struct folio *folio)
{
	folio_isolate_lru(folio);
}

static void undo_isolated(struct file_fixture *f, struct folio *folio)
{
	folio_putback_lru(folio);
	lru_add_drain_all();
}

static void set_referenced(struct file_fixture *f, struct folio *folio)
{
	folio_get(folio);
}

static void undo_referenced(struct file_fixture *f, struct folio *folio)
{
	folio_put(folio);
}

static void set_looked_up(struct file_fixture *f, struct folio *folio)
{
	page_hva_make_stable(folio);
}

static void set_private(struct file_fixture *f, struct folio *folio)
{
	folio_attach_private(folio, f);
}

static void set_private_kept(struct file_fixture *f, struct folio *folio)
{
	f->may_release = false;
	folio_attach_private(folio, f);
}

static void undo_private_kept(struct file_fixture *f, struct folio *folio)
{
	folio_detach_private(folio);
}

/* The file system may need them once the reference is used to write. */
static void set_private_referenced(struct file_fixture *f, struct folio *folio)
{
	folio_attach_private(folio, f);
	folio_get(folio);
}

static void undo_private_referenced(struct file_fixture *f,
				    struct folio *folio)
{
	KUNIT_EXPECT_EQ(kunit_get_current_test(), 0, f->released);
	folio_put(folio);
	folio_detach_private(folio);
}

/* As khugepaged makes them, and nobody else */
static void set_no_large_folios(struct file_fixture *f, struct folio *folio)
{
	mapping_set_folio_order_range(&f->inode.i_data, 0, 0);
}

static void set_not_uptodate(struct file_fixture *f, struct folio *folio)
{
	folio_clear_uptodate(folio);
}

static void set_directory(struct file_fixture *f, struct folio *folio)
{
	f->inode.i_mode = S_IFDIR;
}

static void set_block_device(struct file_fixture *f, struct folio *folio)
{
	f->inode.i_mode = S_IFBLK;
}

static void set_no_read(struct file_fixture *f, struct folio *folio)
{
	f->aops.read_folio = NULL;
}

static void set_ramfs(struct file_fixture *f, struct folio *folio)
{
	f->inode.i_data.a_ops = &ram_aops;
}

static void set_mapping_unevictable_flag(struct file_fixture *f,
					 struct folio *folio)
{
	mapping_set_unevictable(&f->inode.i_data);
}

static void set_inaccessible(struct file_fixture *f, struct folio *folio)
{
	mapping_set_inaccessible(&f->inode.i_data);
}

static void set_no_writeback(struct file_fixture *f, struct folio *folio)
{
	f->bdi.capabilities = 0;
}

static void set_read_only(struct file_fixture *f, struct folio *folio)
{
	f->bdi.capabilities = 0;
	f->sb.s_flags = SB_RDONLY;
}

/* As if by a pte of a process that the rmap does not know. */
static void set_mapped(struct file_fixture *f, struct folio *folio)
{
	folio_get(folio);
	atomic_inc(&folio->_mapcount);
}

static void undo_mapped(struct file_fixture *f, struct folio *folio)
{
	atomic_dec(&folio->_mapcount);
	folio_put(folio);
}

static void set_mapped_twice_referenced_once(struct file_fixture *f,
					     struct folio *folio)
{
	set_mapped(f, folio);
	atomic_inc(&folio->_mapcount);
}

static void undo_mapped_twice_referenced_once(struct file_fixture *f,
					      struct folio *folio)
{
	atomic_dec(&folio->_mapcount);
	undo_mapped(f, folio);
}

static void set_mapped_and_referenced(struct file_fixture *f,
				      struct folio *folio)
{
	set_mapped(f, folio);
	folio_get(folio);
}

static void undo_mapped_and_referenced(struct file_fixture *f,
				       struct folio *folio)
{
	folio_put(folio);
	undo_mapped(f, folio);
}

static void set_mapped_and_looked_up(struct file_fixture *f,
				     struct folio *folio)
{
	set_mapped(f, folio);
	KUNIT_EXPECT_TRUE(kunit_get_current_test(),
			  page_hva_make_stable_pte(folio));
}

static void set_mapped_and_mlocked(struct file_fixture *f, struct folio *folio)
{
	set_mapped(f, folio);
	set_mlocked(f, folio);
}

static void undo_mapped_and_mlocked(struct file_fixture *f,
				    struct folio *folio)
{
	undo_mlocked(f, folio);
	undo_mapped(f, folio);
}

static void set_mapped_and_private(struct file_fixture *f, struct folio *folio)
{
	set_mapped(f, folio);
	set_private(f, folio);
}

/* Then it has to be unmapped first, which cannot be done with this one. */
static void set_writably_mapped(struct file_fixture *f, struct folio *folio)
{
	set_mapped(f, folio);
	atomic_inc(&f->inode.i_data.i_mmap_writable);
}

static void undo_writably_mapped(struct file_fixture *f, struct folio *folio)
{
	atomic_dec(&f->inode.i_data.i_mmap_writable);
	undo_mapped(f, folio);
}

/* Large folios count in another word. This one cannot be unmapped, either. */
static void set_mapped_large(struct file_fixture *f, struct folio *folio)
{
	folio_get(folio);
	atomic_inc(&folio->_large_mapcount);
}

static void undo_mapped_large(struct file_fixture *f, struct folio *folio)
{
	atomic_dec(&folio->_large_mapcount);
	folio_put(folio);
}

/*
 * A mapping that the rmap does know, in an address space of this kthread. There
 * is no pte, so it cannot be removed, either.
 */
static void set_mapped_here(struct file_fixture *f, struct folio *folio)
{
	struct kunit *test = kunit_get_current_test();
	struct address_space *mapping = &f->inode.i_data;
	unsigned long addr;

	addr = kunit_vm_mmap(test, NULL, 0, PAGE_SIZE, PROT_READ,
			     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	f->vma = vm_area_alloc(current->mm);
	KUNIT_ASSERT_NOT_NULL(test, f->vma);
	f->vma->vm_start = addr;
	f->vma->vm_end = addr + PAGE_SIZE;
	i_mmap_lock_write(mapping);
	vma_interval_tree_insert(f->vma, &mapping->i_mmap);
	i_mmap_unlock_write(mapping);
	set_mapped(f, folio);
}

static void undo_mapped_here(struct file_fixture *f, struct folio *folio)
{
	struct address_space *mapping = &f->inode.i_data;

	undo_mapped(f, folio);
	i_mmap_lock_write(mapping);
	vma_interval_tree_remove(f->vma, &mapping->i_mmap);
	i_mmap_unlock_write(mapping);
	vm_area_free(f->vma);
}

static void set_vm_locked(struct file_fixture *f, struct folio *folio)
{
	set_mapped_here(f, folio);
	vm_flags_init(f->vma, VM_LOCKED);
}

#ifdef CONFIG_PGSTE
static void set_kvm_host_maybe(struct file_fixture *f, struct folio *folio)
{
	set_mapped_here(f, folio);
	current->mm->context.alloc_pgste = 1;
}

static void undo_kvm_host_maybe(struct file_fixture *f, struct folio *folio)
{
	current->mm->context.alloc_pgste = 0;
	undo_mapped_here(f, folio);
}

static void set_kvm_host(struct file_fixture *f, struct folio *folio)
{
	set_mapped_here(f, folio);
	current->mm->context.has_pgste = 1;
}

static void undo_kvm_host(struct file_fixture *f, struct folio *folio)
{
	current->mm->context.has_pgste = 0;
	undo_mapped_here(f, folio);
}
#endif

#ifdef CONFIG_MMU_NOTIFIER
static const struct mmu_notifier_ops no_notifier_ops;
static struct mmu_notifier notifier = { .ops = &no_notifier_ops };

static void set_shared_with_device(struct file_fixture *f, struct folio *folio)
{
	struct kunit *test = kunit_get_current_test();

	set_mapped_here(f, folio);
	KUNIT_EXPECT_EQ(test, 0, mmu_notifier_register(&notifier, current->mm));
}

static void undo_shared_with_device(struct file_fixture *f,
				    struct folio *folio)
{
	mmu_notifier_unregister(&notifier, current->mm);
	undo_mapped_here(f, folio);
}
#endif

static const struct condition conditions[] = {
	{ "clean", HVA_VOLATILE },
	{ "clean, large", HVA_VOLATILE, .order = 3 },
	{ "locked", HVA_REFUSED_LOCKED, set_locked, undo_locked },
	{ "dirty", HVA_REFUSED_DIRTY, set_dirty, undo_dirty },
	{ "writeback", HVA_REFUSED_WRITEBACK, set_writeback, undo_writeback },
	{ "mlocked", HVA_REFUSED_MLOCKED, set_mlocked, undo_mlocked },
	{ "unevictable", HVA_REFUSED_MLOCKED, set_unevictable,
	  undo_unevictable },
	{ "checked", HVA_REFUSED_FLAGS, set_checked, undo_checked },
	{ "swapbacked", HVA_REFUSED_FLAGS, set_swapbacked, undo_swapbacked },
	{ "not on the LRU", HVA_REFUSED_FLAGS, set_isolated, undo_isolated },
	{ "referenced", HVA_REFUSED_REFS, set_referenced, undo_referenced },
	{ "referenced, large", HVA_REFUSED_REFS, set_referenced,
	  undo_referenced, 3 },
	{ "looked up", HVA_REFUSED_HOT, set_looked_up },
	{ "private data, released", HVA_VOLATILE, set_private },
	{ "private data, kept", HVA_REFUSED_PRIVATE, set_private_kept,
	  undo_private_kept },
	{ "private data, referenced", HVA_REFUSED_REFS, set_private_referenced,
	  undo_private_referenced },
	{ "large, not supported", HVA_REFUSED_MAPPING, set_no_large_folios,
	  .order = 3 },
	{ "not uptodate", HVA_EVICTED, set_not_uptodate },
	{ "directory", HVA_REFUSED_MAPPING, set_directory },
	{ "block device", HVA_REFUSED_MAPPING, set_block_device },
	{ "no read_folio", HVA_REFUSED_MAPPING, set_no_read },
	{ "ramfs", HVA_REFUSED_MAPPING, set_ramfs },
	{ "unevictable mapping", HVA_REFUSED_MAPPING,
	  set_mapping_unevictable_flag },
	{ "inaccessible mapping", HVA_REFUSED_MAPPING, set_inaccessible },
	{ "no writeback", HVA_REFUSED_MAPPING, set_no_writeback },
	{ "read-only file system", HVA_VOLATILE, set_read_only },
	{ "mapped", HVA_VOLATILE, set_mapped, undo_mapped, .mapped = true },
	{ "mapped, references do not add up", HVA_REFUSED_REFS,
	  set_mapped_twice_referenced_once, undo_mapped_twice_referenced_once,
	  .mapped = true },
	{ "mapped, referenced", HVA_REFUSED_REFS, set_mapped_and_referenced,
	  undo_mapped_and_referenced, .mapped = true },
	{ "mapped, looked up", HVA_REFUSED_HOT, set_mapped_and_looked_up,
	  undo_mapped, .mapped = true },
	{ "mapped, mlocked", HVA_REFUSED_MLOCKED, set_mapped_and_mlocked,
	  undo_mapped_and_mlocked, .mapped = true },
	{ "mapped, private data", HVA_VOLATILE, set_mapped_and_private,
	  undo_mapped, .mapped = true },
	{ "mapped, shared writable mapping", HVA_REFUSED_MAPPED,
	  set_writably_mapped, undo_writably_mapped, .mapped = true },
	{ "mapped, large", HVA_REFUSED_MAPPED, set_mapped_large,
	  undo_mapped_large, 3 },
	{ "mapped here", HVA_VOLATILE, set_mapped_here, undo_mapped_here,
	  .mapped = true },
	{ "mapped, VM_LOCKED", HVA_REFUSED_MLOCKED, set_vm_locked,
	  undo_mapped_here, .mapped = true },
#ifdef CONFIG_PGSTE
	{ "mapped by what may become a KVM host", HVA_REFUSED_MAPPED,
	  set_kvm_host_maybe, undo_kvm_host_maybe, .mapped = true },
	{ "mapped by a KVM host", HVA_REFUSED_MAPPED, set_kvm_host,
	  undo_kvm_host, .mapped = true },
#endif
#ifdef CONFIG_MMU_NOTIFIER
	{ "mapped, shared with a device", HVA_REFUSED_MAPPED,
	  set_shared_with_device, undo_shared_with_device, .mapped = true },
#endif
};

KUNIT_ARRAY_PARAM_DESC(condition, conditions, name);

static void condition_test(struct kunit *test)
{
	const struct condition *c = test->param_value;
	struct file_fixture *f = test->priv;
	enum vm_event_item result;
	struct folio *folio;

	if (c->mapped && unmapped_first())
		kunit_skip(test, "booted with page_hva=on");
	if (c->order > max_order())
		kunit_skip(test, "no large folios");
	folio = add_folio(test, f, c->order);
	if (c->set)
		c->set(f, folio);
	result = page_hva_make_volatile(folio);
	if (c->undo)
		c->undo(f, folio);

	KUNIT_EXPECT_EQ(test, (int)c->expected, (int)result);
	KUNIT_EXPECT_EQ(test, result == HVA_VOLATILE,
			folio_hva_state(folio) == FOLIO_VOLATILE);
	KUNIT_EXPECT_EQ(test, result == HVA_VOLATILE,
			page_hva_usage(page_hva_get_state(&folio->page)) ==
			PAGE_HVA_VOLATILE);
	folio_put(folio);
}

/* Some file systems must know before content goes, private data or not. */
static void release_always_test(struct kunit *test)
{
	struct file_fixture *f = test->priv;
	struct folio *folio;

	mapping_set_release_always(&f->inode.i_data);
	folio = add_folio(test, f, 0);
	KUNIT_EXPECT_EQ(test, (int)HVA_VOLATILE,
			(int)page_hva_make_volatile(folio));
	KUNIT_EXPECT_EQ(test, 1, f->released);
	folio_put(folio);
}

/*
 * What becomes of a volatile folio
 */

/*
 * For whoever knows what the host does: one that is eager has dropped all, one
 * that waits to be asked nothing.
 */
static void tell_what_is_found(struct kunit *test, bool discarded)
{
	kunit_info(test, "found %s\n", discarded ? "discarded" : "intact");
}

static struct folio *add_volatile_folio(struct kunit *test, unsigned int order)
{
	struct folio *folio = add_folio(test, test->priv, order);

	KUNIT_ASSERT_EQ(test, (int)HVA_VOLATILE,
			(int)page_hva_make_volatile(folio));
	return folio;
}

static void lookup_test(struct kunit *test)
{
	struct file_fixture *f = test->priv;
	unsigned int order;

	for (order = 0; order <= max_order(); order += 3) {
		struct folio *folio = add_volatile_folio(test, order);
		struct folio *found;
		bool discarded;
		long i;

		discarded = folio_hva_discarded(folio);
		tell_what_is_found(test, discarded);
		found = filemap_get_folio(&f->inode.i_data, 0);
		KUNIT_ASSERT_PTR_EQ(test, folio, found);
		KUNIT_EXPECT_EQ(test, FOLIO_IN_USE, folio_hva_state(found));
		/* The host may have come in between, but not back. */
		if (discarded)
			KUNIT_EXPECT_FALSE(test, folio_test_uptodate(found));
		if (folio_test_uptodate(found))
			KUNIT_EXPECT_TRUE(test, folio_is_filled(found));
		for (i = 0; i < folio_nr_pages(found); i++) {
			int state = page_hva_get_state(folio_page(found, i));

			KUNIT_EXPECT_EQ(test, (int)PAGE_HVA_STABLE,
					page_hva_usage(state));
		}
		folio_put(found);
		folio_put(folio);
		truncate_inode_pages(&f->inode.i_data, 0);
	}
}

static void idle_lookup_test(struct kunit *test)
{
	struct file_fixture *f = test->priv;
	struct folio *folio = add_folio(test, f, 0);

	KUNIT_EXPECT_EQ(test, FOLIO_IDLE, folio_hva_state(folio));
	folio_put(filemap_get_folio(&f->inode.i_data, 0));
	KUNIT_EXPECT_EQ(test, FOLIO_IN_USE, folio_hva_state(folio));
	KUNIT_EXPECT_TRUE(test, folio_test_uptodate(folio));
	folio_put(folio);
}

/* Rule 4: what was discarded stays volatile until it is not mapped. */
static void mapped_lookup_test(struct kunit *test)
{
	struct file_fixture *f = test->priv;
	struct folio *folio;
	bool discarded;

	if (unmapped_first())
		kunit_skip(test, "booted with page_hva=on");
	folio = add_folio(test, f, 0);
	set_mapped(f, folio);
	KUNIT_ASSERT_EQ(test, (int)HVA_VOLATILE,
			(int)page_hva_make_volatile(folio));
	discarded = !page_hva_make_stable_pte(folio);
	tell_what_is_found(test, discarded);
	KUNIT_EXPECT_EQ(test, discarded ? FOLIO_VOLATILE : FOLIO_IN_USE,
			folio_hva_state(folio));
	KUNIT_EXPECT_EQ(test, !discarded, folio_test_uptodate(folio));
	KUNIT_EXPECT_EQ(test, !discarded, page_hva_make_stable_fast(folio));
	KUNIT_EXPECT_EQ(test, discarded, folio_hva_discarded(folio));

	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, !discarded,
			page_hva_make_stable_locked(folio, false));
	undo_mapped(f, folio);
	KUNIT_EXPECT_TRUE(test, page_hva_make_stable_locked(folio, false));
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, FOLIO_IN_USE, folio_hva_state(folio));
	KUNIT_EXPECT_FALSE(test, folio_hva_discarded(folio));
	KUNIT_EXPECT_EQ(test, !discarded, folio_test_uptodate(folio));
	KUNIT_EXPECT_EQ(test, !discarded, folio_is_filled(folio));
	folio_put(folio);
}

static void truncate_test(struct kunit *test)
{
	struct file_fixture *f = test->priv;
	struct folio *folio = add_volatile_folio(test, 0);
	struct page *page = &folio->page;

	truncate_inode_pages(&f->inode.i_data, 0);
	KUNIT_EXPECT_EQ(test, FOLIO_VOLATILE, folio_hva_state(folio));
	folio_put(folio);
	KUNIT_EXPECT_NE(test, (int)PAGE_HVA_VOLATILE,
			page_hva_usage(page_hva_get_state(page)));
}

static void no_memory_test(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, -EFAULT, page_hva_get_state(pfn_to_page(max_pfn)));
}

static struct kunit_case page_hva_cases[] = {
	KUNIT_CASE_PARAM(condition_test, condition_gen_params),
	KUNIT_CASE(release_always_test),
	KUNIT_CASE(lookup_test),
	KUNIT_CASE(idle_lookup_test),
	KUNIT_CASE(mapped_lookup_test),
	KUNIT_CASE(truncate_test),
	KUNIT_CASE(no_memory_test),
	{}
};

static struct kunit_suite page_hva_suite = {
	.name = "page_hva",
	.init = fixture_init,
	.exit = fixture_exit,
	.test_cases = page_hva_cases,
};
kunit_test_suite(page_hva_suite);

MODULE_DESCRIPTION("KUnit tests for page host virtual assist");
MODULE_LICENSE("GPL");
