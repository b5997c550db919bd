// SPDX-License-Identifier: GPL-2.0
/*
 * Page host virtual assist on s390: the proof at boot and the discard fault.
 */
#define pr_fmt(fmt) "page_hva: " fmt

#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/kprobes.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/page_hva.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>
#include <asm/asm-extable.h>
#include <asm/fault.h>
#include <asm/lowcore.h>
#include <asm/ptrace.h>
#include <trace/events/page_hva.h>
#include "../kernel/entry.h"

/*
 * The proof
 *
 * KVM records volatile states and drops a block that was swapped out when it
 * becomes volatile, but never delivers a discard fault: reading such a block
 * gives zeros. So do not ask the host what it is, see what it does. A block
 * that the host has never backed becomes a discarded block when it is set
 * volatile, and touching it has to be a program interruption 0x1a that names
 * the block.
 */

#define PGM_DISCARD_FAULT	0x1a

/* One block of so many bytes is looked at. */
#define PROOF_STEP		SZ_1M

static bool __init block_is_zero(unsigned long paddr)
{
	return page_hva_content(essa(paddr, ESSA_GET_STATE)) == PAGE_HVA_ZERO;
}

/* Fetch from the block: is it a discard fault, and one for this block? */
static bool __init fetch_is_discard_fault(unsigned long paddr)
{
	struct lowcore *lc = get_lowcore();
	unsigned long *block = __va(paddr);
	unsigned long value;
	int faulted = 1;

	asm volatile(
		"0:	lg	%[value],%[block]\n"
		"1:	lhi	%[faulted],0\n"
		"2:\n"
		EX_TABLE(0b, 2b)
		EX_TABLE(1b, 1b)	/* not nullified: no proof */
		: [value] "=d" (value), [faulted] "+d" (faulted)
		: [block] "T" (*block));
	return faulted &&
	       (lc->pgm_int_code & PGM_INT_CODE_MASK) == PGM_DISCARD_FAULT &&
	       (lc->trans_exc_code & PAGE_MASK) == paddr;
}

static bool __init prove_with_block(unsigned long paddr)
{
	unsigned long flags;
	bool proven;

	essa(paddr, ESSA_SET_VOLATILE);
	local_irq_save(flags);
	proven = fetch_is_discard_fault(paddr);
	local_irq_restore(flags);
	essa(paddr, ESSA_SET_STABLE);
	return proven;
}

/*
 * Look all over free memory: what the allocator would give us first is what a
 * kernel before us (kexec) has used first, too.
 */
static phys_addr_t __init find_zero_block(void)
{
	phys_addr_t start, end, addr;
	u64 i;

	for_each_free_mem_range(i, NUMA_NO_NODE, MEMBLOCK_NONE, &start, &end,
				NULL) {
		for (addr = PAGE_ALIGN(start); addr + PAGE_SIZE <= end;
		     addr += PROOF_STEP) {
			if (block_is_zero(addr))
				return addr;
		}
	}
	return 0;
}

/**
 * page_hva_prove - Does this host deliver the discard fault?
 *
 * Context: Boot, before memblock gives memory to the page allocator, which may
 * initialize it (init_on_free), and after program checks can be handled.
 * Return: True if it did for one block. False also if no block was found to
 * try it with.
 */
bool __init page_hva_prove(void)
{
	phys_addr_t paddr = find_zero_block();

	return paddr && prove_with_block(paddr);
}

/*
 * The discard fault
 *
 * There are two good reasons for it. One is a user that touches a page that
 * became volatile while it was mapped, or a copy from or to that user. If we may
 * sleep, the page is unmapped and the instruction run again; it takes a page fault
 * then, which reads the page. A page that was lazily freed stays mapped and has
 * zeros when the instruction is run again. The other is an access
 * by address, such as a read of /proc/kcore or /dev/mem, or a copy where page
 * faults are disabled; these know that they may fail, and do so.
 *
 * Anything else is a bug, in the guest or in the host: a kernel address of a
 * folio means that somebody has a reference, and a reference makes stable. It is
 * reported with what is known of the page, and is fatal: a user gets SIGBUS, the
 * kernel dies. Where the access has an exception table entry (the other operand
 * of a user copy), no wrong byte gets anywhere and a system call fails with
 * -EFAULT, which nobody would understand without the report.
 *
 * Interrupts are enabled again by now, so the block may have been made stable
 * or freed since the fault. Then the instruction is run again, but not for ever:
 * a host that names the wrong block would have the CPU take the same fault again
 * and again. The handler does not sleep where a page fault would not: the fault
 * may have hit an interrupt handler.
 */

/* MVCOS, which copies from or to user space: the one that has two operands. */
struct mvcos_insn {
	u16 op1 : 8;
	u16 r3 : 4;
	u16 op2 : 4;
	u16 b1 : 4;
	u16 d1 : 12;
	u16 b2 : 4;
	u16 d2 : 12;
} __packed;

#define MVCOS_MAX_LENGTH	4096UL

static unsigned long operand_address(struct pt_regs *regs, u16 b, u16 d)
{
	return d + (b ? regs->gprs[b] : 0);
}

/* The block that a kernel address is mapped to, if it is. */
static unsigned long kernel_address_block(unsigned long addr)
{
	unsigned long real;
	int cc;

	asm volatile(
		"	lrag	%[real],0(%[addr])\n"
		"	ipm	%[cc]\n"
		"	srl	%[cc],28\n"
		: [real] "=&d" (real), [cc] "=d" (cc)
		: [addr] "a" (addr)
		: "cc");
	return cc ? -1UL : real & PAGE_MASK;
}

/*
 * One operand is the user's, the other one the kernel's. The fault does not say
 * for which it is: for the user's if the kernel's is not in the block.
 */
static bool mvcos_user_operand(struct pt_regs *regs, unsigned long paddr)
{
	union oac oac = { .val = regs->gprs[0] };
	struct mvcos_insn insn;
	unsigned long addr, len;

	if (copy_from_kernel_nofault(&insn, (void *)regs->psw.addr, sizeof(insn)))
		return false;
	if (insn.op1 != 0xc8 || insn.op2 != 0 || oac.oac1.a == oac.oac2.a)
		return false;
	addr = oac.oac1.a ? operand_address(regs, insn.b2, insn.d2) :
			    operand_address(regs, insn.b1, insn.d1);
	len = min(regs->gprs[insn.r3], MVCOS_MAX_LENGTH);
	return len && kernel_address_block(addr) != paddr &&
	       kernel_address_block(addr + len - 1) != paddr;
}

/* Did somebody touch the block through the page tables of the current user? */
static bool is_user_access(struct pt_regs *regs, unsigned long paddr)
{
	if (user_mode(regs))
		return true;
	/* Of the kernel's own accesses, only instruction fetches are not. */
	if (psw_bits(regs->psw).as == PSW_BITS_AS_SECONDARY)
		return true;
	return mvcos_user_operand(regs, paddr);
}

/* How often one CPU may take the same fault in a row, within a second. */
#define SAME_FAULT_MAX	100

struct last_fault {
	unsigned long ip;
	unsigned long paddr;
	unsigned long since;
	unsigned int count;
};
static DEFINE_PER_CPU(struct last_fault, last_fault);

static bool same_fault_again(unsigned long ip, unsigned long paddr)
{
	struct last_fault *last = raw_cpu_ptr(&last_fault);

	if (last->ip != ip || last->paddr != paddr ||
	    time_after(jiffies, last->since + HZ))
		*last = (struct last_fault) {
			.ip = ip, .paddr = paddr, .since = jiffies,
		};
	return ++last->count > SAME_FAULT_MAX;
}

/*
 * Is it, and nobody can know why? Without a reference the folio is on its way
 * out, and so is the pte.
 */
static bool block_discarded(unsigned long paddr)
{
	struct page *page = pfn_to_online_page(PHYS_PFN(paddr));

	return !page || (page_hva_discarded(page) && page_count(page));
}

static bool handle_user_fault(unsigned long paddr)
{
	struct page *page = pfn_to_online_page(PHYS_PFN(paddr));
	struct folio *folio;
	bool handled;

	if (!page)
		return false;
	folio = page_folio(page);
	if (!folio_try_get(folio))
		return false;
	handled = page_folio(page) == folio && page_hva_fault(folio);
	folio_put(folio);
	return handled;
}

static void report_discarded_page(unsigned long paddr, unsigned long ip)
{
	struct page *page = pfn_to_online_page(PHYS_PFN(paddr));

	pr_alert("unexpected discard fault for block %016lx at %pS\n", paddr,
		 (void *)ip);
	if (page)
		dump_page(page, "discarded page touched");
	else
		pr_alert("the host named a block that is not memory\n");
}

void do_discard_fault(struct pt_regs *regs)
{
	unsigned long paddr = regs->int_parm_long & PAGE_MASK;
	unsigned long ip = regs->psw.addr;
	bool user;

	/* The instruction was nullified: do not report a single step. */
	clear_thread_flag(TIF_PER_TRAP);
	if (page_hva_is_active())
		count_vm_event(HVA_FAULT);
	if (kprobe_page_fault(regs, PGM_DISCARD_FAULT))
		return;
	trace_page_hva_fault(paddr, ip, user_mode(regs));

	user = !faulthandler_disabled() && current->mm &&
	       is_user_access(regs, paddr);
	if (user && handle_user_fault(paddr))
		return;
	if (!user && !user_mode(regs) && fixup_exception(regs)) {
		DO_ONCE_LITE_IF(page_hva_is_active() && !faulthandler_disabled(),
				report_discarded_page, paddr, ip);
		return;
	}
	/* A user's page may have been unmapped, read, and discarded once more. */
	if ((user || !block_discarded(paddr)) && !same_fault_again(ip, paddr))
		return;
	/* It was not unmapped in time. */
	if (user && fatal_signal_pending(current) &&
	    (user_mode(regs) || fixup_exception(regs)))
		return;
	report_discarded_page(paddr, ip);
	if (!user_mode(regs) && fixup_exception(regs))
		return;
	if (!user_mode(regs))
		die(regs, "Discard fault");
	/* The virtual address is not known. */
	report_user_fault(regs, SIGBUS, 0);
	force_sig_fault(SIGBUS, BUS_ADRERR, (void __user *)ip);
}
NOKPROBE_SYMBOL(do_discard_fault);

/**
 * page_hva_make_all_stable - Leave no volatile block behind.
 *
 * What runs next in this memory knows nothing of discarded blocks: kexec copies
 * a kernel over them, and kdump reads them without an exception table. A host
 * makes all blocks stable when the system is reset; this is for hosts that do
 * not. Discarded blocks read as zeros afterwards.
 *
 * Ask the host, not the page flags: a CPU may have been stopped in between. That
 * is an instruction for each block, a few seconds for a terabyte.
 *
 * Context: All other CPUs are stopped, and the page cache is not used any more.
 * What they held they hold for ever: take no lock here, and print nothing.
 */
void page_hva_make_all_stable(void)
{
	unsigned long pfn;

	if (!page_hva_is_active())
		return;
	for (pfn = 0; pfn < max_pfn; pfn++) {
		struct page *page = pfn_to_online_page(pfn);
		int state = page ? page_hva_get_state(page) : -EFAULT;

		if (state >= 0 && page_hva_usage(state) >= PAGE_HVA_POT_VOLATILE)
			page_hva_set_stable(page);
	}
}
