"""The whole path: kernel, host and real files."""

import contextlib
import json
import os
import re
import socket
import subprocess

import hva
from hva import Guest, HvaError, TOP, BUILD
from run import limit
import tap

# pylint: disable=missing-function-docstring

# A real tree, small: some 1700 files, 30 MiB
SMALL = BUILD / "tree/linux/net"
SMALL_MIB = 128
# Cores that a test keeps busy which waits for the scanner most of the time
WAITS = 1 / 2
# All of our KUnit tests at boot
KUNIT = "kunit.enable=1 kunit.filter_glob=page_hva*"


def read_files(guest, disk):
    """Read all files, let them get cold, read them again: every byte right?"""
    hva.mount_files(guest, disk)
    for how in "read", "mmap", "read":
        files, _, wrong, text = hva.verify(guest, how)
        assert files == disk.files and wrong == 0, text
        guest.check("sleep 5")


def finish(guest):
    guest.shutdown()
    assert not guest.splats(), f"console: {guest.splats()[0]}"


def small_disk():
    return hva.Disk(SMALL, SMALL_MIB, name="small")


@limit(2700, cores=0)
def test_kernel_config_off(_):
    """Built beside the guests, which wait for the scanner half of the time; it must not starve where there is no autogroup."""
    subprocess.run(["nice", "-n", "5", TOP / "scripts/kernel", "off"], check=True)


# --- boots without the feature -------------------------------------------------------


class Summary:
    """Takes the place of a Context for one program: its parts as one result."""

    def __init__(self):
        self.count, self.failed, self.reasons = {"pass": 0, "fail": 0, "skip": 0}, [], set()

    def part(self, name, result, text=""):
        self.count[result] += 1
        if result == "fail":
            self.failed.append(name)
        if result == "skip":
            self.reasons.add(text)

    def __str__(self):
        return ", ".join(f"{n} {what}" for n, what in zip(self.count.values(), ("passed", "failed", "skipped")) if n)


def nothing_to_test(guest):
    """Where nothing can become volatile all kselftests skip, and say why, and so does KUnit, if the kernel has it."""
    programs = guest.check("ls /selftests/*_test").split()
    assert programs, "the guest image has no selftests"
    for program in programs:
        summary = Summary()
        status, text = guest.run(f"cd /selftests && PAGE_HVA_DIR=/tmp PAGE_HVA_DEV=/dev/disk1 {program}", timeout=60)
        tap.report(summary, text, status, program)
        print(f"{program}: status {status}, {summary}: {summary.reasons}")
        assert summary.count["skip"] == sum(summary.count.values()) and "SKIP" not in summary.reasons, f"{program}: {text[-300:]}"
    guest.settle()
    _, results, _ = kunit_results(guest)
    ran = [f"{name} {result}" for name, result, _ in results if result != "skip"]
    assert not ran, f"KUnit: {ran[0]}"
    return len(results)


@limit(120, cores=WAITS, needs="guest.kernel_config_off")
def test_boot_config_off(ctx):
    """CONFIG_PAGE_HVA=n: nothing of it is there, files are read as before."""
    disk = small_disk()
    with Guest(ctx.results, kernel="bzImage-off", disks=[disk.image, disk.manifest]) as g:
        assert g.mode() == "absent"
        assert not [k for k in g.vmstat() if k.startswith("hva_")]
        read_files(g, disk)
        states = g.states()
        assert states["volatile-resident"] + states["volatile-zero"] == 0 and states["unused-zero"] > 0, states
        finish(g)
    assert b"page_hva:" not in g.console()


@limit(120, cores=WAITS)
def test_boot_page_hva_off(ctx):
    """page_hva=off: unused and stable go on, nothing becomes volatile."""
    disk = small_disk()
    with Guest(ctx.results, page_hva="off", disks=[disk.image, disk.manifest]) as g:
        assert g.mode() == "off", g.mode()
        read_files(g, disk)
        states = g.states()
        assert states["volatile-resident"] + states["volatile-zero"] == 0 and states["unused-zero"] > 0, states
        assert g.vmstat()["hva_volatile"] == 0
        finish(g)


@limit(120, cores=WAITS)
def test_boot_host_without_essa(ctx):
    """-cpu max,cmm=off: the kernel finds no ESSA, the host refuses the queries."""
    disk = small_disk()
    with Guest(ctx.results, cpu="max,cmm=off,cmmnt=off", disks=[disk.image, disk.manifest], append=KUNIT) as g:
        assert g.mode() == "absent", g.mode()
        assert nothing_to_test(g) > 50, "KUnit did not run"
        read_files(g, disk)
        assert g.vmstat().get("hva_volatile", 0) == 0
        for query in g.states, g.reclaim:
            try:
                query()
            except HvaError:
                continue
            raise AssertionError("a host without ESSA answers")
        finish(g)


# --- the main job on a small tree --------------------------------------------------------


def main_job(ctx, *args, timeout=170):
    """(exit status, output, report.json) of scripts/run."""
    small_disk()
    cmd = [TOP / "scripts/run", "--dir", SMALL, "--disk-mib", str(SMALL_MIB), "--disk-name", "small",
           "--results", ctx.results / "run", *args]
    res = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=timeout)
    print(res.stdout)
    return res.returncode, res.stdout, json.loads((ctx.results / "run/report.json").read_text())


@limit(180, cores=WAITS)
def test_main_job_demand(ctx):
    status, out, report = main_job(ctx)
    assert status == 0, report["failures"]
    assert "PASSED" in out and report["volatile_fraction"] >= 0.9


@limit(180, cores=WAITS)
def test_main_job_demand_1_cpu(ctx):
    status, _, report = main_job(ctx, "--cpus", "1")
    assert status == 0, report["failures"]


@limit(180, cores=WAITS)
def test_main_job_eager(ctx):
    status, _, report = main_job(ctx, "--discard", "eager")
    assert status == 0, report["failures"]


@limit(180, cores=WAITS)
def test_main_job_random_4_cpus(ctx):
    status, _, report = main_job(ctx, "--discard", "random,4711", "--cpus", "4")
    assert status == 0, report["failures"]


@limit(180, cores=WAITS)
def test_main_job_notices_wrong_bytes(ctx):
    """Negative control: every checksum changed."""
    status, out, report = main_job(ctx, "--break-manifest")
    assert status == 1 and "WRONG" in out and any("WRONG" in f for f in report["failures"]), report["failures"]


@limit(180, cores=WAITS)
def test_main_job_notices_that_nothing_is_volatile(ctx):
    """Negative control: the feature switched off."""
    status, _, report = main_job(ctx, "--page-hva", "off")
    assert status == 1 and any("volatile" in f for f in report["failures"]), report["failures"]


def test_odd_files(ctx):
    """Names and kinds of files a real DIR may have."""
    odd = ctx.results / "odd"
    (odd / "sub dir/deep").mkdir(parents=True)
    (odd / "lost+found").mkdir()
    for name in "new\nline", "blank s", "-dash", "qu'ote\"", "umlaut-ä", "back\\slash", "sub dir/deep/.hidden":
        (odd / name).write_text(name * 1000)
    (odd.joinpath(os.fsdecode(b"not-utf8-\xff"))).write_text("x" * 4097)
    (odd / "empty").touch()
    with open(odd / "holes", "wb") as f:
        f.seek(3 * 2**20)
        f.write(b"end")
    os.link(odd / "blank s", odd / "second name")
    (odd / "loop").symlink_to("loop")
    (odd / "outside").symlink_to("/etc/passwd")
    os.mkfifo(odd / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        os.chdir(odd)                                       # a socket's path must be short
        sock.bind("socket")
    disk = hva.Disk(odd, 32, name="test-odd")
    with Guest(ctx.results, disks=[disk.image, disk.manifest]) as g:
        hva.mount_files(g, disk)
        for how in "read", "mmap":
            files, _, wrong, text = hva.verify(g, how)
            assert (files, wrong) == (disk.files, 0), text
            g.check("for i in 1 2 3; do echo 1 >/sys/kernel/debug/page_hva/scan; done")
            assert g.reclaim()["volatile"] > 0
        finish(g)


# --- KUnit -----------------------------------------------------------------------------------


def kunit_results(guest):
    """What KUnit said at boot: suites, [(name, result, why it was skipped)], [(test, what the host had done to its folio)]."""
    console = guest.console().decode(errors="replace")
    results = []
    for bad, text in re.findall(r"\] +(not )?ok \d+ (.*?)\r?$", console, re.M):
        name, _, why = text.partition(" # SKIP")
        results.append((name, "fail" if bad else "skip" if "# SKIP" in text else "pass", why.strip()))
    return (re.findall(r"\] +# Subtest: (page_hva\w*)", console), results,
            re.findall(r"\] +# (\w+): found (discarded|intact)", console))


# Why a test may be skipped, and whose folios have been with the host, in each mode
KUNIT_MODES = {
    "on": ({"booted with page_hva=on", "boot with page_hva=lazyfree or full"}, {"lookup_test"}),
    "mapped": ({"boot with page_hva=lazyfree or full"}, {"lookup_test", "mapped_lookup_test"}),
    "lazyfree": ({"boot with page_hva=full"}, {"lookup_test", "mapped_lookup_test", "use_test"}),
    "full": (set(), {"lookup_test", "mapped_lookup_test", "use_test"}),
}


def kunit(ctx, mode, discard, cpus, **guest):
    name = f"{mode}_{discard.partition(',')[0]}_{cpus}_cpus"
    with Guest(ctx.results / name, append=KUNIT, page_hva=mode, discard=discard, cpus=cpus, mem=256, **guest) as g:
        assert g.mode() == mode, g.mode()
        g.settle()
        suites, results, found = kunit_results(g)
        finish(g)
    may_skip, looked_at = KUNIT_MODES[mode]
    if guest.get("kernel") == "bzImage-small":
        may_skip = may_skip | {"no large folios"}
    assert suites == ["page_hva", "page_hva_anon"], f"KUnit suites: {suites}"
    count = {what: sum(1 for _, result, _ in results if result == what) for what in ("pass", "fail", "skip")}
    why = [f"{case} failed" for case, result, _ in results if result == "fail"]
    why += [f"{case}: {reason}" for case, result, reason in results if result == "skip" and reason and reason not in may_skip]
    # An eager host has dropped what it may by then, and one that nobody asks has not
    want = {"eager": {"discarded"}, "demand": {"intact"}}.get(discard, {"discarded", "intact"})
    why += [f"{case} found its folio {what}" for case, what in found if what not in want]
    why += [f"{case} did not say what it found" for case in looked_at - {case for case, _ in found}]
    print(f"{name}: {count}, {found}", flush=True)
    ctx.part(name, "fail" if why or count["pass"] < 30 else "pass", "; ".join(why) or f"{count['pass']} cases")


HOSTS = ("demand", 1), ("eager", 1), ("eager", 4), ("random,5", 4)


@limit(120, cores=1)
def test_kunit(ctx):
    """The kernel's own unit tests, run at boot: state, conditions, lookups of what was dropped."""
    kunit(ctx, "mapped", "demand", 1)
    kunit(ctx, "mapped", "eager", 4)
    kunit(ctx, "on", "eager", 1)
    kunit(ctx, "lazyfree", "random,6", 4)


@limit(120, cores=1)
def test_kunit_full(ctx):
    """And for memory without a file; this mode has all of the others."""
    for host in HOSTS:
        kunit(ctx, "full", *host)


# --- kselftests in the guest --------------------------------------------------------------


# They wait for the scanner most of the time, whatever the number of CPUs: two at a time
def kselftests(ctx, *, cpus, discard, fs="ext4", mem=512, append="", only=None, short=False, kernel="bzImage",
               timeout=400, expect_splat=None):
    """The programs of tools/testing/selftests/page_hva; only: one program, and a test of it or its options.

    short: without stress, and without the minute that the scanner is watched, for the time that make check takes.
    These run whole in eager_4_cpus below, and in make check-debug with every other policy and number of CPUs, on xfs
    (debug.kselftest_whole_*), and with page_hva=on (debug.kselftest_eager_4_cpus_unmapped).  With page_hva=full, short
    is what only that mode can do; there is no run of the rest with it, but torture has legs with it.
    """
    scratch = hva.scratch_disk(fs)
    with Guest(ctx.results, kernel=kernel, cpus=cpus, discard=discard, disks=[scratch], say=print, mem=mem,
               append=append) as g:
        g.expect_splat = expect_splat
        g.check(f"mount -t {fs} /dev/disk0 /scratch")
        programs = [p for p in g.check("ls /selftests").split() if p.endswith("_test")]
        assert programs, "the guest image has no selftests"
        programs.remove("error_test")                       # has a guest of its own, below
        if "page_hva=on" in append:
            programs.remove("mapped_test")
            programs.remove("pgste_test")
        if "page_hva=full" not in append:
            programs.remove("swapcache_test")
            if "page_hva=lazyfree" not in append:
                programs.remove("lazyfree_test")
        elif short:
            programs = ["lazyfree_test", "pgste_test", "shared_free_test", "swapcache_test"]
        if short and "stress_test" in programs:
            programs.remove("stress_test")
            if "pgste_test" in programs:                    # unlike the others it does not depend on the host
                programs.remove("pgste_test")
        # Memory goes offline in a guest that has some to spare, below; xfs of 6.12 has no fs-verity
        select = "-T memory_offline" + (" -T discarded_hashes_are_not_trusted_again" if fs == "xfs" else "")
        if "page_hva=lazyfree" not in append and "page_hva=full" not in append:
            select += " -T freed_memory_stays"
        if short:
            select += " -T scanner_covers_cold_pages_in_10s_then_sleeps"
        runs = [(p, select) for p in programs] if only is None else [(only[0], only[1] if only[1].startswith("-") else f"-t {only[1]}")]
        for program, select in runs:
            status, text = g.run(f"cd /selftests && PAGE_HVA_DIR=/scratch ./{program} {select}", timeout=timeout)
            print(text)
            tap.report(ctx, text, status, program)
        finish(g)


@limit(300, cores=1)
def test_kselftest_memory_offline(ctx):
    kselftests(ctx, cpus=2, discard="eager", mem=1024, append="movablecore=512M",
               only=("stress_test", "memory_offline"))


@limit(600, cores=1)
def test_kselftest_demand_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="demand", short=True)


@limit(600, cores=1)
def test_kselftest_eager_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="eager", short=True)


@limit(600, cores=1)
def test_kselftest_random_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="random,1", short=True)


@limit(600, cores=1)
def test_kselftest_demand_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="demand", short=True)


@limit(600, cores=1)
def test_kselftest_eager_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="eager")


@limit(600, cores=1)
def test_kselftest_random_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="random,2", short=True)


@limit(600, cores=1)
def test_kselftest_unmapped_eager_4_cpus(ctx):
    """Only what is not mapped."""
    kselftests(ctx, cpus=4, discard="eager", append="page_hva=on", short=True)


@limit(900, cores=1)
def test_kselftest_lazyfree_demand_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="demand", append="page_hva=lazyfree", only=("lazyfree_test", "-f lazyfree"))


@limit(900, cores=1)
def test_kselftest_full_eager_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="eager", append="page_hva=full", short=True)


@limit(900, cores=1)
def test_kselftest_full_random_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="random,4", append="page_hva=full", short=True)


@limit(600, cores=1)
def test_kselftest_eager_xfs(ctx):
    """xfs: large folios."""
    kselftests(ctx, cpus=2, discard="eager", fs="xfs", short=True)


# --- what programs see when a discarded page cannot be read ---------------------------------


def io_errors(ctx, fs, **kwargs):
    with Guest(ctx.results, disks=[hva.scratch_disk(fs)], say=print, **kwargs) as g:
        injection = g.run("[ -d /sys/kernel/debug/failslab ]")[0] == 0
        select = "" if injection else "-T allocations_fail_now_and_then"        # in make check-sanitizers
        status, text = g.run("cd /selftests && PAGE_HVA_DIR=/tmp PAGE_HVA_DEV=/dev/disk0 "
                             f"PAGE_HVA_FS={fs} ./error_test {select}", timeout=200)
        print(text)
        tap.report(ctx, text, status, fs)
        finish(g)


@limit(240, cores=1)
def test_io_errors_ext4(ctx):
    io_errors(ctx, "ext4", cpus=4, discard="eager")


@limit(240, cores=1)
def test_io_errors_xfs(ctx):
    io_errors(ctx, "xfs", cpus=2, discard="demand")


@limit(240, cores=1)
def test_io_errors_ext4_unmapped(ctx):
    io_errors(ctx, "ext4", cpus=2, discard="eager", page_hva="on")


@limit(240, cores=1)
def test_io_errors_full(ctx):
    """Swap slots, too."""
    io_errors(ctx, "ext4", cpus=4, discard="eager", page_hva="full")


@limit(120, cores=WAITS)
def test_disk_is_pulled(ctx):
    """The device is gone, with a file system on it that is in use: reads fail, nothing hangs, nothing stays behind."""
    disk = small_disk()
    with Guest(ctx.results, disks=[disk.image, disk.manifest]) as g:
        hva.mount_files(g, disk)
        assert hva.verify(g, "read")[2] == 0
        g.check("for i in 1 2 3; do echo 1 >/sys/kernel/debug/page_hva/scan; done")
        g.reclaim()
        assert g.states()["volatile-zero"] > 1000
        g.expect_splat = rb"I/O error|EXT4-fs"
        g.qmp.command("device_del", id="device0")
        g.check("for i in $(seq 100); do [ -e /sys/block/vda ] || exit 0; usleep 100000; done; exit 1")
        for how in "read", "mmap":
            status, text = g.run(f"files {how} /mnt /tmp/manifest 1", timeout=60)
            assert status and "WRONG" not in text, f"{how}: status {status}: {text[-300:]}"
        g.check("umount /mnt; echo 3 >/proc/sys/vm/drop_caches")
        states = g.states()
        assert states["volatile-zero"] + states["volatile-resident"] < 100, states
        finish(g)


# --- the tool ----------------------------------------------------------------------------------


@limit(120, cores=WAITS)
def test_page_hva_stat(ctx):
    """Its columns are the counters of /proc/vmstat."""
    # Titles that are not the name of their counter
    counters = {"discard": "discarded", "writeb": "writeback", "swapc": "swapcache", "potent": "potential"}
    disk = small_disk()
    with Guest(ctx.results, disks=[disk.image, disk.manifest]) as g:
        hva.mount_files(g, disk)
        assert hva.verify(g, "read")[2] == 0
        scan = "for i in 1 2 3; do echo 1 >/sys/kernel/debug/page_hva/scan; done"
        g.check(scan)
        g.reclaim()
        assert hva.verify(g, "mmap")[2] == 0
        g.check(scan)
        for option, prefix in ("", "hva_"), ("-r", "hva_refused_"), ("-s", "hva_"):
            before = g.vmstat()
            title, line = (text.split() for text in g.check(f"page_hva_stat {option}").splitlines())
            after = g.vmstat()
            print(title, line)
            for name, value in list(zip(title, line))[1:]:
                if name.startswith("resident"):
                    break
                counter = prefix + counters.get(name, name)
                assert before[counter] <= int(value) <= after[counter], f"{name} is {value}, {counter} {before[counter]}"
            if option == "-s":                              # four usages follow
                states = [list(map(int, word.split("/"))) for word in line[-4:]]
                assert sum(map(sum, states)) == g.states()["blocks"], f"{states} {g.states()}"
        now = int(line[0])
        left = g.vmstat()
        left = left["hva_volatile"] - left["hva_stable"] - left["hva_discarded"] - left["hva_freed"]
        assert abs(now - left) <= 64 and left > 1000, f"now is {now}, {left} pages should be volatile"
        # With an interval: what happened in it
        lines = g.check("page_hva_stat 1 2").splitlines()
        assert len(lines) == 3 and int(lines[1].split()[title.index("discard")]) == 0, lines
        for wrong in "0", "x", "1 2 3", "-z":
            status, _ = g.run(f"page_hva_stat {wrong}")
            assert status == 2, f"page_hva_stat {wrong}: status {status}"
        finish(g)
