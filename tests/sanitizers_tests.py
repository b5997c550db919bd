"""The kernel's sanitizers (KASAN, UBSAN, KCSAN), and QEMU's (ASan, UBSan, TSan); make check-sanitizers."""

import collections
import functools
import os
import re
import subprocess

import hva
from run import limit
from guest_tests import io_errors, kselftests
from paths_tests import torture
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


@limit(3000)
def test_kasan_full_eager_4_cpus(ctx):
    """Memory without a file, too."""
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-kasan", mem=1024, timeout=2400, append="page_hva=full", short=True)


@limit(3000)
def test_kasan_full_random_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="random,8", kernel="bzImage-kasan", mem=1024, timeout=2400, append="page_hva=full", short=True)


@limit(3600)
def test_kasan_torture_full(ctx):
    """Three minutes, and what the last round takes, with all programs."""
    status, report = torture(ctx, "--kernel", "bzImage-kasan", "--minutes", "3", "--fs", "ext4", "--discard", "eager", "--cpus", "2",
                             "--page-hva", "full")
    figures = ", ".join(f"{k} {v}" for k, v in report["total"].items())
    assert status == 0 and not report["failures"], f"{report['failures'] or status} ({figures})"
    ctx.part("full", "pass", figures)


@limit(600)
def test_kasan_io_errors_and_failing_allocations(ctx):
    io_errors(ctx, "ext4", cpus=2, discard="eager", kernel="bzImage-kasan", mem=1024)


KCSAN_OBJ = hva.BUILD / "obj/linux-on-kcsan"
OUR_SOURCE = re.compile(r"(?:include/linux/page_hva\.h|mm/page_hva\w*\.[ch]|arch/s390/include/asm/page_hva\.h):")


@functools.cache
def our_functions():
    """Of the objects of mm/page_hva*.c and the architecture's part."""
    objects = [path for d in ("mm", "arch/s390/mm") for path in sorted((KCSAN_OBJ / d).glob("page_hva*.o"))]
    text = subprocess.run(["s390x-linux-gnu-nm", *objects], stdout=subprocess.PIPE, text=True, check=True).stdout
    names = set(re.findall(r"^[0-9a-f]+ [tT] ([A-Za-z_]\w+)", text, re.M))
    # Not the copies of what others have inlined, too
    names = {name for name in names if len(kcsan_symbols()[name]) <= 1}
    assert "scan_all" in names and "page_hva_make_volatile" in names, names
    return names


@functools.cache
def kcsan_symbols():
    """Addresses of the functions; those of one name are all taken."""
    text = subprocess.run(["s390x-linux-gnu-nm", KCSAN_OBJ / "vmlinux"], stdout=subprocess.PIPE, text=True, check=True).stdout
    symbols = collections.defaultdict(list)
    for address, name in re.findall(r"^([0-9a-f]+) [tTwW] (\w+)", text, re.M):
        symbols[name].append(int(address, 16))
    return symbols


def lines_of(*addresses):
    """The lines of source that the instructions are from; several for one where functions were inlined."""
    res = subprocess.run(["s390x-linux-gnu-addr2line", "-i", "-e", KCSAN_OBJ / "vmlinux", *map(hex, addresses)],
                         stdout=subprocess.PIPE, text=True, check=True)
    return res.stdout


@functools.cache
def has_lines():
    """Whether vmlinux says so (CONFIG_DEBUG_INFO); without, a hook that is inlined is not seen."""
    return bool(re.search(r"mm/filemap\.c:\d", lines_of(*kcsan_symbols()["filemap_read"])))


def accesses(stacks):
    """The frame that made each of the two accesses, as (function, offset): the first that is none of KCSAN's, of each stack."""
    for stack in re.split(r"(?:read|write|read-write)[^\n]* to 0x[0-9a-f]+ of \d+ bytes by ", stacks)[1:]:
        frames = re.findall(r"([\w.]+)\+0x([0-9a-f]+)/0x[0-9a-f]+", stack)
        yield from frames[:1]


def is_ours(stacks):
    """A function of ours in a stack, or an access in a hook of ours that was inlined."""
    if our_functions() & set(re.findall(r"(\w+)(?:\.[\w.]+)?\+0x", stacks)):
        return True
    if not has_lines():
        return False
    # A frame says where the call of KCSAN returns to; the access comes before
    addresses = [start + int(offset, 16) - 1 for name, offset in accesses(stacks) for start in kcsan_symbols()[name.partition(".")[0]]]
    return bool(addresses and OUR_SOURCE.search(lines_of(*addresses)))


def judge_races(consoles):
    """Data races of ours are a failure; those of others are listed, with the reason."""
    text = "\n".join(path.read_text(errors="replace") for path in consoles)
    reports = re.findall(r"BUG: KCSAN: ([^\r\n]*)(.*?)={20}", text, re.S)
    assert reports, "KCSAN finds some race in any kernel, but not here"
    ours = [title for title, stacks in reports if is_ours(stacks)]
    print(f"{len(reports)} reports, {len(ours)} of them ours")
    if not has_lines():
        print("bzImage-kcsan has no line numbers (CONFIG_DEBUG_INFO): a hook that is inlined counts as its caller")
    for title, count in sorted(collections.Counter(title for title, _ in reports).items()):
        print(f"{count} times {title}: {'OURS' if title in ours else 'not looked at, no frame of ours'}")
    assert not ours, ours[0]


@limit(3000)
def test_kcsan_eager_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-kcsan", mem=1024, timeout=1500, expect_splat=rb"BUG: KCSAN")
    judge_races([ctx.results / "console.log"])


@limit(3000)
def test_kcsan_full_eager_4_cpus(ctx):
    """Memory without a file, too."""
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-kcsan", mem=1024, timeout=2400, expect_splat=rb"BUG: KCSAN",
               append="page_hva=full", short=True)
    judge_races([ctx.results / "console.log"])


@limit(3600)
def test_kcsan_torture_full(ctx):
    status, report = torture(ctx, "--kernel", "bzImage-kcsan", "--minutes", "3", "--fs", "ext4", "--discard", "random", "--cpus", "4",
                             "--page-hva", "full")
    judge_races((ctx.results / "run").glob("*/console.log"))
    assert status == 0 and not report["failures"], report["failures"] or status


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
              "migrate_paging", "migrate_shared", "skipped", "back", "snapshot", "snapshot_paging", "background_snapshot", "postcopy",
              "to_unaware", "other_model", "hostile", "interlocked")


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


# --- QEMU's data races ----------------------------------------------------------------------

TSAN = hva.OUT / "qemu-system-s390x-tsan"
# Deadlocks: TSan ends QEMU at once when it looks for them (QEMU's tests/docker/test-tsan). Addresses: it wants them where they
# are without randomization
TSAN_OPTIONS = f"suppressions={hva.BUILD}/tree/qemu/tests/tsan/suppressions.tsan:detect_deadlocks=0:history_size=7:exitcode=0:" \
               "report_signal_unsafe=0:ignore_noninstrumented_modules=1"
# A frame of ours: by its file, or its function in a file of others
OUR_FRAME = re.compile(r"^ +#\d+ (?:\S+ \S*/(?:s390-(?:stattrib(?:-tcg)?|pager|reclaim|skeys)\.c|page-states\.h|storage-(?:keys|attributes)\.h):"
                       r"|(?:helper_(?:essa|iske|sske|rrbe)|essa_\w+|do_sske|skey_is_changed|tlb_flush_exclusive\w*) )", re.M)
# Races with a frame of ours that are none, or not ours: what the report says, and why
KNOWN_RACES = {
}


def tsan_env(ctx):
    return {"TSAN_OPTIONS": f"{TSAN_OPTIONS}:log_path={ctx.results}/tsan"}


def races(ctx):
    """The two stacks of each race."""
    for log in sorted(ctx.results.glob("tsan.*")):
        for report in re.findall(r"WARNING: ThreadSanitizer: (data race.*?)\n={18}", log.read_text(errors="replace"), re.S):
            yield re.split(r"\n\n? +(?:Location is|Mutex |As if|Thread T|SUMMARY)", report)[0]


def our_races(ctx):
    """Ours are a failure, unless they are known; those of others are counted."""
    count, ours = collections.Counter(), {}
    for stacks in races(ctx):
        tops = re.findall(r"^ +#0 (\S+)", stacks, re.M)
        known = next((why for sign, why in KNOWN_RACES.items() if re.search(sign, stacks)), None)
        if not OUR_FRAME.search(stacks):
            count["of others"] += 1
        elif known:
            count[known] += 1
        else:
            ours.setdefault(" and ".join(tops), stacks)
    for title, stacks in ours.items():
        print(f"--- {title}\n{stacks}\n")
    print(f"{len(ours)} different ones of ours; " + "; ".join(f"{n} {why}" for why, n in count.items()))
    assert sum(count.values()) + len(ours), "TSan finds some race in any QEMU, but not here"
    assert not ours, f"{len(ours)} data races, {next(iter(ours))}"


@limit(3000)
def test_tsan_host(ctx):
    """Four busy CPUs, a reclaimer, a pager, migration, snapshots."""
    tap.run(ctx, ["setarch", "-R", hva.TOP / "scripts/qemu-host-tests", "20", "reclaim", "limit", "paging", "migrate", "migrate_paging",
                  "snapshot_paging"], env={**os.environ, **tsan_env(ctx), "QEMU": str(TSAN)})
    our_races(ctx)


@limit(3000)
def test_tsan_runs_linux(ctx):
    os.environ.update(tsan_env(ctx))
    hva.QEMU = TSAN
    kselftests(ctx, cpus=2, discard="random,6", timeout=1500, short=True)
    our_races(ctx)
