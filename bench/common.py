"""What the parts of bench/run share."""

import subprocess
from pathlib import Path

import hva
from hva import BUILD, Guest, HvaError

HERE = Path(__file__).resolve().parent
CROSS = "s390x-linux-gnu-"
Guest.BOOT_SECONDS = 600    # a measurement may have to wait, beside other work


def plugin():
    """The TCG plugin that counts."""
    library = BUILD / "bench/libcount.so"
    library.parent.mkdir(exist_ok=True)
    flags = subprocess.run(["pkg-config", "--cflags", "glib-2.0"], stdout=subprocess.PIPE, text=True, check=True).stdout
    hva.command(["gcc", "-O2", "-Wall", "-shared", "-fPIC", *flags.split(), f"-I{BUILD}/tree/qemu/include/qemu",
                 "-o", library, HERE / "count.c"], "building the TCG plugin")
    return library


def offered(report, modes):
    """Those of the modes that the kernel has; says which it does not have. None if there is nothing to compare."""
    there = []
    for mode in modes:
        if mode not in report.modes:
            with Guest(report.results / f"mode-{mode}", kernel=report.kernel, page_hva=mode, mem=256) as g:
                report.modes[mode] = g.mode()
                g.shutdown()
        if report.modes[mode] == mode:
            there.append(mode)
        else:
            report.say(f"   ERROR: build/out/{report.kernel} has no page_hva={mode}: "
                       f"/sys/kernel/debug/page_hva/mode says \"{report.modes[mode]}\"; left out")
    if len(there) < min(2, len(modes)):
        report.say(f"   ERROR: nothing to compare: build/out/{report.kernel} has {', '.join(there) or 'none'} of {', '.join(modes)}"
                   " (KERNEL=, --modes)")
        return []
    return there


def finish(guest):
    """Power off; the kernel must not have complained."""
    guest.settle()
    guest.shutdown()
    if guest.splats():
        raise HvaError(f"console of {guest.results.name}: {guest.splats()[0]}")


def sanity(report, found):
    """Whether nothing was found; says what."""
    for line in found:
        report.say(f"   WRONG: {line}")
    report.say("   content and counters are as they should be" if not found else "")
    return not found
