"""The kernel's sanitizers (KASAN, UBSAN, KCSAN), and QEMU's (ASan, UBSan); make check-sanitizers."""

import os
import re

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


@limit(3000)
def test_kcsan_eager_4_cpus(ctx):
    """Data races of ours; those of others are listed."""
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-kcsan", mem=1024, timeout=1500, expect_splat=rb"BUG: KCSAN")
    console = (ctx.results / "console.log").read_text(errors="replace")
    reports = re.findall(r"BUG: KCSAN: ([^\r\n]*)(.*?)={20}", console, re.S)
    ours = [title for title, stacks in reports if "page_hva" in title + stacks]
    print(f"{len(reports)} reports, {len(ours)} of them ours")
    print("\n".join(sorted({title for title, _ in reports})))
    assert not ours, ours[0]


@limit(120)
def test_kernels_have_them(ctx):
    """Control: they were built in and are on."""
    for name, sign in ("kasan", "KernelAddressSanitizer initialized"), ("kcsan", "kcsan: enabled early"):
        with hva.Guest(ctx.results / name, kernel=f"bzImage-{name}", mem=1024) as g:
            assert sign in g.console().decode(errors="replace"), f"{name} is not on"


# --- QEMU -----------------------------------------------------------------------------------


def sanitized(ctx, *command):
    """A program of tests with QEMU under ASan and UBSan; what these find is a failure, too."""
    logs = ctx.results / "sanitizer"
    env = {key: f"{value}:log_path={logs}" if "OPTIONS" in key else value for key, value in ENV.items()}
    tap.run(ctx, [hva.TOP / command[0], *command[1:]], env={**os.environ, **env})
    nothing_found(ctx)


def nothing_found(ctx):
    found = [m.group(0) for log in (*ctx.results.glob("sanitizer*"), *ctx.results.glob("qemu.log"))
             for m in COMPLAINT.finditer(log.read_text(errors="replace"))]
    print("\n".join(found))
    assert not found, found[0]


@limit(1200)
def test_qemu_bare_metal(ctx):
    sanitized(ctx, "scripts/qemu-tests")


# Not: speed, memory, essa, which measure
@limit(1200)
def test_qemu_host(ctx):
    sanitized(ctx, "scripts/qemu-host-tests", "12", "refusals", "reclaim", "client_dies", "limit", "paging", "paging_full", "migrate",
              "migrate_paging", "skipped", "back", "snapshot", "snapshot_paging", "postcopy", "to_unaware", "other_model", "hostile")


@limit(2400)
def test_qemu_runs_linux(ctx):
    os.environ.update(ENV)
    hva.QEMU = QEMU
    kselftests(ctx, cpus=4, discard="random,5", timeout=1200, short=True)
    nothing_found(ctx)
