"""What a sound host and a sound guest never do: the debugger does it."""

import re

import gdb
import hva
from hva import Guest
from run import limit
from paths_tests import SCAN, discard_all, finish, guest_with_discards, volatile_blocks

# pylint: disable=missing-function-docstring

PROBLEM_STATE = 1 << 48
SAME_FAULT_MAX = 100                                        # arch/s390/mm/page_hva.c
# struct pt_regs: one argument, PSW, 16 registers, the first argument again, the interruption's code
PSW_MASK, PSW_ADDR, INT_PARM_LONG = 8, 16, 168


WAKE = "echo >/tmp/fifo"


def sleeper(guest):
    """Start a program whose code, mapped from a file, is gone when it is to WAKE; its status will be in /tmp/status."""
    guest.check("mount -t ext4 /dev/disk0 /scratch && cp /bin/busybox /scratch/ && mkfifo /tmp/fifo && sync")
    guest.check("(/scratch/busybox cat /tmp/fifo; echo $? >/tmp/status) >/dev/null 2>&1 & "
                "until grep -qsE 'fifo_open|wait_for_partner' /proc/[0-9]*/wchan; do usleep 50000; done")
    guest.check(SCAN)
    assert guest.reclaim()["volatile"] > 100


def user_fault(debugger, handler):
    """Go on to a discard fault of a program; the address of its struct pt_regs."""
    while True:
        debugger.resume()
        regs = debugger.register(2)
        if debugger.read(regs + PSW_MASK) & PROBLEM_STATE:
            return regs
        debugger.step_over(handler)


def status_of_sleeper(guest):
    guest.answer(WAKE)
    return guest.check("while ! [ -s /tmp/status ]; do usleep 100000; done; cat /tmp/status; "
                       "rm /tmp/status /tmp/fifo; umount /scratch").strip()


def fault_for_a_wrong_block(ctx, name, block):
    """The same instruction faults for ever, and the host names a block that has nothing to do with it.

    The guest's clock counts instructions: a hundred faults take less than a second, however slow the debugger is.
    """
    with Guest(ctx.results / name, disks=[hva.scratch_disk("ext4")], extra=(*gdb.EXTRA, "-icount", "shift=1"), thread="single",
               cpus=1) as g:
        g.expect_splat = rb"page_hva: unexpected discard fault|User process fault"
        sleeper(g)
        faults = []
        with gdb.Debugger(g) as debugger:
            handler = debugger.stop_at("do_discard_fault")
            g.send(WAKE)
            while len(faults) <= SAME_FAULT_MAX:
                regs = user_fault(debugger, handler)
                debugger.write(regs + INT_PARM_LONG, block(debugger))
                faults.append(debugger.read(regs + PSW_ADDR))
                debugger.step_over(handler)
            assert len(set(faults)) == 1, f"{len(set(faults))} instructions: {faults}"
        status = status_of_sleeper(g)
        assert status == "135", f"status {status}, not that of a SIGBUS"
        g.settle()
        assert g.console().count(b"unexpected discard fault") == 1
        # And that is all: the next one is as ever
        sleeper(g)
        g.send(WAKE)
        assert status_of_sleeper(g) == "0"
        finish(g)
        return g.console()


@limit(120, cores=1)
def test_fault_for_no_memory(ctx):
    console = fault_for_a_wrong_block(ctx, "no_memory", lambda debugger: 1 << 50)
    assert b"the host named a block that is not memory" in console


@limit(120, cores=1)
def test_fault_for_another_page(ctx):
    """One of the kernel, stable, with a reference."""
    console = fault_for_a_wrong_block(ctx, "another_page", lambda debugger: 0x100000)
    assert b"page dumped because: discarded page touched" in console


@limit(120, cores=1)
def test_fault_of_the_kernel(ctx):
    """It has a reference to what it touches, so there is no way to go on: the page is reported, the kernel dies."""
    with Guest(ctx.results, disks=[hva.scratch_disk("ext4")], extra=gdb.EXTRA, cpus=1, append="oops=panic") as g:
        sleeper(g)
        with gdb.Debugger(g) as debugger:
            handler = debugger.stop_at("do_discard_fault")
            g.send(WAKE)
            regs = user_fault(debugger, handler)
            block = debugger.read(regs + INT_PARM_LONG) & -hva.PAGE
            debugger.write(regs + PSW_MASK, debugger.read(regs + PSW_MASK) & ~PROBLEM_STATE)
            debugger.write(regs + PSW_ADDR, int(debugger.symbols["schedule"], 16))
        g.process.wait(30)
        console = g.console().decode(errors="replace")
    assert f"unexpected discard fault for block {block:016x} at schedule" in console
    page = re.search(r"page: refcount:\d+ .*\n(?:.*\n){0,5}?.*flags: (\S+)", console)
    assert page and "hva_" in page.group(1), "the report says nothing of the page's state"
    assert "page dumped because: discarded page touched" in console and "Discard fault: 001a" in console
    assert "Kernel panic - not syncing: Fatal exception" in console


@limit(200, cores=1)
def test_kexec_on_a_host_that_resets_no_states(ctx):
    """All blocks are stable before the machine is reset, so the next kernel does not depend on that."""
    with guest_with_discards(ctx, "guest", "bzImage", mem=384, extra=gdb.EXTRA) as (g, _):
        g.load_kernel(2, "load", "bzImage")
        discard_all(g)
        with gdb.Debugger(g) as debugger:
            first, last = map(debugger.stop_at, ("machine_kexec", "smp_call_ipl_cpu"))
            g.send("kexec start")
            debugger.resume()
            assert debugger.psw_address() == first
            assert volatile_blocks(g) > 1000
            debugger.step_over(first)
            debugger.resume()
            assert debugger.psw_address() == last
            left = volatile_blocks(g)
            assert left == 0, f"{left} blocks are volatile right before the reset"
        g.await_kernel()
        finish(g)
