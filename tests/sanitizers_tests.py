"""The kernel's sanitizers (KASAN, UBSAN, KCSAN), and QEMU's (ASan, UBSan); make check-sanitizers."""

import os
import re
import subprocess

import hva
from run import limit
from guest_tests import io_errors, kselftests
import tap

# pylint: disable=missing-function-docstring

QEMU = hva.OUT / "qemu-system-s390x-sanitize"
# Memory that QEMU holds when it ends is no leak to speak of
ENV = {"QEMU": str(QEMU), "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
COMPLAINT = re.compile(r".*(?:ERROR: AddressSanitizer|runtime error:).*")
hva.Guest.BOOT_SECONDS = 300


# --- the kernel ---------------------------------------------------------------------------


@limit(3000)
def test_kasan_eager_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-kasan", mem=1024, timeout=1500)


@limit(3000)
def test_kasan_random_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="random,3", kernel="bzImage-kasan", mem=1024, timeout=1500, short=True)


@limit(600)
def test_kasan_io_errors_and_failing_allocations(ctx):
    io_errors(ctx, "ext4", cpus=2, discard="eager", kernel="bzImage-kasan", mem=1024)


def our_functions():
    """Of the objects of mm/page_hva*.c and the architecture's part."""
    objects = [path for d in ("mm", "arch/s390/mm") for path in sorted((hva.BUILD / "obj/linux-on-kcsan" / d).glob("page_hva*.o"))]
    text = subprocess.run(["s390x-linux-gnu-nm", *objects], stdout=subprocess.PIPE, text=True, check=True).stdout
    names = set(re.findall(r"^[0-9a-f]+ [tT] ([a-z]\w+)", text, re.M))
    assert "scan_folio" in names and "__page_hva_make_stable" in names, names
    return names


@limit(3000)
def test_kcsan_eager_4_cpus(ctx):
    """Data races of ours; those of others are listed."""
    names = our_functions()
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-kcsan", mem=1024, timeout=1500, expect_splat=rb"BUG: KCSAN")
    console = (ctx.results / "console.log").read_text(errors="replace")
    reports = re.findall(r"BUG: KCSAN: ([^\r\n]*)(.*?)={20}", console, re.S)
    ours = [title for title, stacks in reports if names & set(re.findall(r"(\w+)(?:\.[\w.]+)?\+0x", stacks))]
    print(f"{len(reports)} reports, {len(ours)} of them ours")
    print("\n".join(sorted({title for title, _ in reports})))
    assert reports, "KCSAN finds some race in any kernel, but not here"
    assert not ours, ours[0]


@limit(700)
def test_kernels_have_them(ctx):
    """Control: they were built in and are on."""
    for name, sign, options in (("kasan", "KernelAddressSanitizer initialized", ("UBSAN_BOUNDS", "UBSAN_SHIFT", "FAILSLAB")),
                                ("kcsan", "kcsan: enabled early", ("KCSAN_EARLY_ENABLE",))):
        with hva.Guest(ctx.results / name, kernel=f"bzImage-{name}", mem=1024) as g:
            assert sign in g.console().decode(errors="replace"), f"{name} is not on"
            for option in options:
                g.check(f"zcat /proc/config.gz | grep -qx CONFIG_{option}=y")


# --- QEMU -----------------------------------------------------------------------------------


def sanitizer(ctx):
    """The environment for QEMU under ASan and UBSan, which write what they find below ctx.results."""
    return {key: f"{value}:log_path={ctx.results}/sanitizer" if "OPTIONS" in key else value for key, value in ENV.items()}


def sanitized(ctx, *command, **env):
    """A program of tests with such a QEMU; what the sanitizers find is a failure, too."""
    tap.run(ctx, command, env={**os.environ, **sanitizer(ctx), **env})
    nothing_found(ctx)


def nothing_found(ctx):
    logs = list(ctx.results.glob("sanitizer.*"))
    assert logs, "no QEMU was under ASan, which warns of coroutines at least"
    found = [m.group(0) for log in logs for m in COMPLAINT.finditer(log.read_text(errors="replace"))]
    print("\n".join(found))
    assert not found, found[0]


@limit(1200)
def test_qemu_bare_metal(ctx):
    sanitized(ctx, hva.TOP / "scripts/qemu-tests")


# Not: speed, memory, essa, which measure
@limit(1200)
def test_qemu_host(ctx):
    sanitized(ctx, hva.TOP / "scripts/qemu-host-tests", "12", "refusals", "reclaim", "client_dies", "limit", "paging", "paging_full", "migrate",
              "migrate_paging", "skipped", "back", "snapshot", "snapshot_paging", "postcopy", "to_unaware", "other_model", "hostile")


@limit(600)
def test_qemu_qtest(ctx):
    for name in "s390-cmm-test", "qmp-cmd-test", "test-hmp":
        sanitized(ctx, hva.BUILD / "obj/qemu/tests/qtest" / name, "--tap", "-k", QTEST_QEMU_BINARY=str(QEMU))


@limit(2400)
def test_qemu_runs_linux(ctx):
    os.environ.update(sanitizer(ctx))
    hva.QEMU = QEMU
    kselftests(ctx, cpus=4, discard="random,5", timeout=1200, short=True)
    nothing_found(ctx)
