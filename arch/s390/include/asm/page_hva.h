/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page host virtual assist: block states by way of the ESSA instruction.
 *
 * ESSA takes a command and the absolute address of a 4K block and returns the
 * state that the block had before: what the guest said the content is worth
 * (usage) and where the host keeps it (content). ESSA and its commands are in
 * asm/page-states.h. The discard fault is program interruption 0x1a; neither is
 * in the Principles of Operation. The semantics of the commands, including
 * "set stable if resident", which really means "if not discarded", are those
 * of z/VM.
 */
#ifndef _ASM_S390_PAGE_HVA_H
#define _ASM_S390_PAGE_HVA_H

#include <linux/errno.h>
#include <linux/mmdebug.h>
#include <linux/mm_types.h>
#include <linux/page_ref.h>
#include <linux/pgtable.h>
#include <linux/types.h>
#include <asm/asm-extable.h>
#include <asm/page-states.h>
#include <asm/page.h>

/* Bits of the state that ESSA returns. */
#define ESSA_USTATE_MASK	0x0c
#define ESSA_CSTATE_MASK	0x03

enum {
	PAGE_HVA_STABLE,
	PAGE_HVA_UNUSED,
	PAGE_HVA_POT_VOLATILE,
	PAGE_HVA_VOLATILE,
	PAGE_HVA_NR_USAGE
};

/* Content state 1 is not defined. */
enum {
	PAGE_HVA_RESIDENT	= 0,
	PAGE_HVA_PRESERVED	= 2,
	PAGE_HVA_ZERO		= 3,
	PAGE_HVA_NR_CONTENT
};

bool page_hva_prove(void);

/**
 * page_hva_fault_possible - Can the users of an address space take the fault?
 * @mm: The address space.
 *
 * Context: Any.
 * Return: True if so. False if it is, or may become, the memory of a guest of
 * ours: a discard fault would end the SIE instruction, and KVM does not know it.
 */
static inline bool page_hva_fault_possible(struct mm_struct *mm)
{
	return !mm_alloc_pgste(mm) && !mm_has_pgste(mm);
}

/* What the guest said the content is worth, of a state. */
static inline int page_hva_usage(int state)
{
	return (state & ESSA_USTATE_MASK) >> 2;
}

/* Where the host keeps the content, of a state. */
static inline int page_hva_content(int state)
{
	return state & ESSA_CSTATE_MASK;
}

/* Vz: the host has thrown the content away. */
static inline bool page_hva_state_discarded(int state)
{
	return page_hva_usage(state) == PAGE_HVA_VOLATILE &&
	       page_hva_content(state) == PAGE_HVA_ZERO;
}

/**
 * page_hva_enabled - Does the machine have ESSA?
 *
 * Context: Any.
 * Return: True if so. Says nothing about the discard fault, see
 * page_hva_prove().
 */
static inline bool page_hva_enabled(void)
{
	return cmma_flag;
}

/**
 * page_hva_get_state - Ask for the state of a block.
 * @page: The page.
 *
 * Neither this nor what follows touches the content of the page.
 *
 * Context: Any. Needs a machine with ESSA.
 * Return: The state, for page_hva_usage() and page_hva_content(), or -EFAULT if
 * there is no memory: a section that is online may have holes.
 */
static inline int page_hva_get_state(struct page *page)
{
	long state = -EFAULT;

	asm volatile(
		"0:	.insn	rrf,0xb9ab0000,%[state],%[paddr],%[cmd],0\n"
		"1:	nopr	%%r7\n"
		EX_TABLE(0b, 1b)
		EX_TABLE(1b, 1b)
		: [state] "+d" (state)
		: [paddr] "d" (page_to_phys(page)), [cmd] "i" (ESSA_GET_STATE));
	return state;
}

/**
 * page_hva_discarded - Has the host thrown away a volatile block?
 * @page: The page.
 *
 * Context: Any. Needs a machine with ESSA.
 * Return: True if so. If not, the host may do so in the next moment.
 */
static inline bool page_hva_discarded(struct page *page)
{
	return page_hva_state_discarded(essa(page_to_phys(page),
					     ESSA_GET_STATE));
}

/**
 * page_hva_set_unused - The content is of no use, and any access is a mistake.
 * @page: The page.
 *
 * Context: Any. Needs a machine with ESSA.
 */
static inline void page_hva_set_unused(struct page *page)
{
	essa(page_to_phys(page), ESSA_SET_UNUSED);
}

/**
 * page_hva_set_stable - The host has to keep the content from now on.
 * @page: The page.
 *
 * A block that was discarded reads as zeros afterwards. Page cache is never a
 * DAT table, so hosts that want to know are told again.
 *
 * Context: Any. Needs a machine with ESSA.
 */
static inline void page_hva_set_stable(struct page *page)
{
	if (cmma_flag < 2)
		essa(page_to_phys(page), ESSA_SET_STABLE);
	else
		essa(page_to_phys(page), ESSA_SET_STABLE_NODAT);
}

/**
 * page_hva_set_volatile - The host may throw the content away at any time.
 * @page: The page.
 * @writable: Not while the change bit of its storage key is on.
 *
 * Context: Any. Needs a machine with ESSA.
 */
static inline void page_hva_set_volatile(struct page *page, bool writable)
{
	if (writable)
		essa(page_to_phys(page), ESSA_SET_POT_VOLATILE);
	else
		essa(page_to_phys(page), ESSA_SET_VOLATILE);
}

/**
 * page_hva_set_stable_if_resident - Keep the content, if it is still there.
 * @page: The page.
 *
 * Test and change are one step: the host cannot come in between.
 *
 * Context: Any. Needs a machine with ESSA.
 * Return: True if the block is stable now and has its content, false if it was
 * discarded; then it stays volatile and any access is a discard fault.
 */
static inline bool page_hva_set_stable_if_resident(struct page *page)
{
	int state = essa(page_to_phys(page), ESSA_SET_STABLE_IF_RESIDENT);

	return !page_hva_state_discarded(state);
}

/*
 * The split dirty test. Every 4K block has a storage key, in which the machine
 * sets the change bit with each store: of a CPU through whatever pte, of the
 * kernel, of a channel.
 */

/**
 * page_test_dirty - Has a page been stored to since page_clear_dirty()?
 * @page: The page.
 *
 * Who finds a page dirty makes it stable, with a reference held (that of the pte
 * will do), before the change bit is cleared or forgotten, and keeps the
 * reference until a pte or the folio is marked dirty. In the other order the
 * host finds a page that looks clean and drops the only copy.
 *
 * Context: Any.
 * Return: True if so.
 */
static inline bool page_test_dirty(struct page *page)
{
	return page_get_storage_key(page_to_phys(page)) & _PAGE_CHANGED;
}

/**
 * page_clear_dirty - Start to record stores to a page anew.
 * @page: The page, stable and with a reference.
 *
 * The key is read and set as a whole, so a change bit that another CPU sets in
 * between is lost; the context must not allow that. The reference bit, which
 * nothing keeps from being set, stays on or becomes it. Quiescing: afterwards no
 * CPU knows of the change bit by its TLB.
 *
 * Context: Whoever could store to the page meanwhile marks it dirty by other
 * means: no pte is valid, and a reference for writing marks the folio.
 */
static inline void page_clear_dirty(struct page *page)
{
	unsigned long paddr = page_to_phys(page);
	unsigned char key = page_get_storage_key(paddr);

	VM_WARN_ON_ONCE_PAGE(!page_count(compound_head(page)), page);
	VM_WARN_ON_ONCE_PAGE(cmma_flag && page_hva_usage(page_hva_get_state(page)) !=
			     PAGE_HVA_STABLE, page);

	if (key & _PAGE_CHANGED)
		page_set_storage_key(paddr, (key & ~_PAGE_CHANGED) |
				     _PAGE_REFERENCED, 1);
}

/*
 * A pte that is clean is protected by hardware: the first store is a page fault,
 * which makes it dirty. One that is clean, writable, and not protected is a pte
 * whose dirty bit is in the storage key. It loses that property whenever it is
 * changed, but for the young bit, see ptep_harvest_dirty().
 */
static inline bool __pte_dirty_in_key(pte_t pte)
{
	return (pte_val(pte) & (_PAGE_PRESENT | _PAGE_WRITE | _PAGE_DIRTY |
				_PAGE_PROTECT)) == (_PAGE_PRESENT | _PAGE_WRITE);
}

/* Make a clean, writable pte one of that kind. */
static inline pte_t pte_mkdirty_in_key(pte_t pte)
{
	return clear_pte_bit(pte, __pgprot(_PAGE_PROTECT));
}

#endif /* _ASM_S390_PAGE_HVA_H */
