"""Memory is short: the guest's, so that it has to kill; the host's, which cannot page."""

import contextlib
import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

import hva
from hva import Guest, HvaError
from run import Skip, limit

# pylint: disable=missing-function-docstring

SCAN = "for i in 1 2 3 4 5; do echo 1 >/sys/kernel/debug/page_hva/scan; done"
DEVICE = "s390-storage_attributes-qemu"
MIB = 2**20


def check_files(guest, *names):
    """All pages are right, from the cache or discarded, and from the disk."""
    for before in SCAN, "echo 3 >/proc/sys/vm/drop_caches":
        guest.check(before)
        with contextlib.suppress(HvaError):
            guest.reclaim()
        for name in names:
            text = guest.check(f"oom check {name}", timeout=300)
            assert re.fullmatch(r"[1-9]\d+ pages 0 wrong\n", text), text


# --- the guest kills ----------------------------------------------------------------------------

GROUP = "/sys/fs/cgroup/oom"
GROUP_MIB = 64
FILE_MIB = 24
IN_GROUP, IN_GUEST = 3, 2         # kills


@contextlib.contextmanager
def host_takes_all(guest):
    """The host takes what it can all the time."""
    stop = threading.Event()

    def take():
        while not stop.wait(0.02):
            try:
                guest.reclaim()
            except (HvaError, OSError, ValueError):
                return
    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def oom_killed(guest):
    return int(re.search(r"^oom_kill (\d+)$", guest.check(f"cat {GROUP}/memory.events"), re.M).group(1))


def hog(guest, where, least):
    """Run the hog until it is killed; it must have got so many MiB before. What it said last."""
    status, text = guest.run(f"({where} exec oom hog /scratch/in /tmp/hog)", timeout=240)
    said = guest.check("cat /tmp/hog").strip()
    assert status == 128 + 9, f"the hog ended with status {status}: {text} {said}"
    mib, _, wrong = map(int, re.match(r"(\d+) MiB (\d+) pages (\d+) wrong", said).groups())
    assert wrong == 0, f"the hog saw wrong pages: {said}"
    assert mib >= least, f"the hog was killed when it had {mib} MiB, of {least} at least"
    return said


def reports_are_those_of_the_killer(guest, kills):
    """The console has nothing but the reports of the OOM killer, whose victims are the hogs."""
    guest.settle()
    console = guest.console().decode(errors="replace")
    victims = re.findall(r"(?:Memory cgroup out|Out) of memory: Killed process \d+ \((\w+)\)", console)
    assert victims == ["hog"] * kills, f"killed: {victims}"
    assert "leaked out to the #PF handler" not in console, "a fault handler did not wait for memory"
    traces, calls = console.count("Call Trace:"), console.count("invoked oom-killer")
    assert traces == calls, f"{calls} calls of the OOM killer, but {traces} traces on the console"
    guest.expect_splat = rb"Out of memory: Killed process \d+ \(hog\)|Call Trace:"
    assert not guest.splats(), guest.splats()[0]
    print(f"{kills} hogs killed; oom_reaper: {console.count('oom_reaper: reaped')}", flush=True)


def guest_kills(ctx, **options):
    with Guest(ctx.results, disks=[hva.scratch_disk("ext4")], mem=256, **options) as g, contextlib.ExitStack() as stack:
        g.check("mount -t ext4 /dev/disk0 /scratch; "
                f"for f in in out; do oom make /scratch/$f {FILE_MIB} || exit 1; done; "
                "echo +memory >/sys/fs/cgroup/cgroup.subtree_control; "
                f"mkdir {GROUP}; echo {GROUP_MIB}M >{GROUP}/memory.max")
        check_files(g, "/scratch/in", "/scratch/out")
        before = g.vmstat(), g.meminfo()
        g.check("(while :; do echo 1 >/sys/kernel/debug/page_hva/scan; usleep 20000; done) >/dev/null 2>&1 &")
        if options["discard"] == "demand":
            stack.enter_context(host_takes_all(g))
        # Two who must not be hurt: one in the group, on the hog's own file. That one says so: while a hog that has ended
        # still gives its memory back, the killer does not see it in the group any more (mem_cgroup_scan_tasks() skips it)
        # and, for those who wait for memory, takes the next.
        for name, where in ("in", f"echo 0 >{GROUP}/cgroup.procs; echo -1000 >/proc/self/oom_score_adj;"), ("out", ""):
            g.check(f"({where} exec oom watch /scratch/{name}) >/tmp/watch-{name} 2>&1 & echo $! >/tmp/pid-{name}")
        # What the files take can be had; the rest of the group is the two programs
        for n in range(IN_GROUP):
            print("group:", hog(g, f"echo 0 >{GROUP}/cgroup.procs;", GROUP_MIB * 3 // 4), flush=True)
            assert oom_killed(g) == n + 1, f"{oom_killed(g)} kills in the group, not {n + 1}"
        for _ in range(IN_GUEST):
            least = (g.meminfo()["MemAvailable"] - FILE_MIB * 2 * MIB // hva.PAGE) * hva.PAGE * 3 // 4 // MIB
            print("guest:", hog(g, "", least), flush=True)
        assert oom_killed(g) == IN_GROUP, "a kill in the guest was counted in the group"
        for name in "in", "out":
            text = g.check(f"kill $(cat /tmp/pid-{name}); while [ -e /proc/$(cat /tmp/pid-{name}) ]; do usleep 100000; done; "
                           f"cat /tmp/watch-{name}")
            print(f"watch {name}:", text.strip(), flush=True)
            pages, wrong = map(int, re.fullmatch(r"(\d+) pages (\d+) wrong\n", text).groups())
            assert pages > 1000 and wrong == 0, f"{name}: {text}"
        reports_are_those_of_the_killer(g, IN_GROUP + IN_GUEST)
        after = g.vmstat(), g.meminfo()
        seen = {k: after[0][k] - before[0][k] for k in ("hva_volatile", "hva_discarded", "hva_fault", "oom_kill")}
        print(seen, f"available {before[1]['MemAvailable']} -> {after[1]['MemAvailable']} pages", flush=True)
        assert seen["hva_discarded"] > 1000 and seen["hva_fault"] > 100, f"too few discarded pages: {seen}"
        assert seen["oom_kill"] == IN_GROUP + IN_GUEST, seen
        assert after[1]["MemAvailable"] > 0.9 * before[1]["MemAvailable"], "memory is missing after the kills"
        check_files(g, "/scratch/in", "/scratch/out")
        # Control: a wrong byte is noticed
        assert g.run("printf x | dd of=/scratch/in bs=1 seek=99999 conv=notrunc 2>/dev/null; oom check /scratch/in")[0] == 1
        g.shutdown()
        assert not g.splats(), g.splats()[0]


@limit(400, cores=1)
def test_guest_kills_eager(ctx):
    guest_kills(ctx, cpus=2, discard="eager")


@limit(400, cores=1)
def test_guest_kills_demand_4_cpus_full(ctx):
    guest_kills(ctx, cpus=4, discard="demand", page_hva="full")


# --- the host cannot page -------------------------------------------------------------------------

HOST_MIB = 448                  # of the host's memory cgroup
CODE_MIB = 48                   # for translated code: a part of what QEMU needs for itself
LIMIT_MIB = 192                 # what the guest may have
CHUNK_MIB, CHUNKS = 48, 10      # the guest's files: together more than the group may have


class HostGroup:
    """A memory cgroup of the host, version 1 or 2, for QEMU."""

    def __init__(self, mib, swap_mib):
        self.v2, top = self.find()
        self.path = top / f"page-hva-{os.getpid()}"
        for old in top.glob("page-hva-*"):                  # of a test that was interrupted
            with contextlib.suppress(OSError):
                old.rmdir()
        try:
            if self.v2:
                (top / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir()
            self.limits(mib, swap_mib)
        except OSError as err:
            self.remove()
            raise Skip(f"no memory cgroup of our own: {err}") from None

    @staticmethod
    def find():
        if os.geteuid():
            raise Skip("memory cgroups need root")
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, options, *_ = line.split()
            where = Path(where)
            if kind == "cgroup" and "memory" in options.split(","):
                return False, where
            if kind == "cgroup2" and "memory" in (where / "cgroup.controllers").read_text().split():
                return True, where
        raise Skip("the host has no memory cgroups")

    def limits(self, mib, swap_mib):
        """With swap, not more than so much of it."""
        if self.v2:
            (self.path / "memory.max").write_text(f"{mib}M")
            swap, size = "memory.swap.max", swap_mib
        else:
            (self.path / "memory.limit_in_bytes").write_text(f"{mib}M")
            swap, size = "memory.memsw.limit_in_bytes", mib + swap_mib
        if (self.path / swap).exists():
            (self.path / swap).write_text(f"{size}M")
        elif has_swap():
            raise Skip("the host has swap that cannot be limited")

    def inside(self, *command):
        """A command that is to run in it."""
        return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]

    @contextlib.contextmanager
    def at_its_limit(self, results):
        """Somebody else in it wants page cache all the time."""
        file = results / "sparse"
        with open(file, "wb") as f:
            f.truncate(2 * HOST_MIB * MIB)
        read = self.inside("sh", "-c", f"while cat {shlex.quote(str(file))} >/dev/null; do sleep 1; done")
        with subprocess.Popen(["nice", "-n", "19", *read]) as reader:
            try:
                yield
            finally:
                reader.kill()

    def events(self):
        """(was at its limit, kills)"""
        if self.v2:
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
            return int(events["max"]) > 0, int(events["oom_kill"])
        most = int((self.path / "memory.max_usage_in_bytes").read_text())
        kills = re.search(r"^oom_kill (\d+)$", (self.path / "memory.oom_control").read_text(), re.M).group(1)
        return most > (HOST_MIB - 1) * MIB, int(kills)

    def swapped(self):
        if self.v2:
            path = self.path / "memory.swap.current"
            return int(path.read_text()) if path.exists() else 0
        return int(re.search(r"^swap (\d+)$|\Z", (self.path / "memory.stat").read_text(), re.M).group(1) or 0)

    def remove(self):
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.path.rmdir()
            if not self.path.exists():
                return
            time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


def has_swap():
    return len(Path("/proc/swaps").read_text().splitlines()) > 1


@contextlib.contextmanager
def some_swap(results, mib):
    """The host has swap, that much at least. It goes with this process, however that ends."""
    if not mib or has_swap():
        yield
        return
    file = results / "swap"
    file.write_bytes(bytes(mib * MIB))
    file.chmod(0o600)
    hva.command(["mkswap", file], "making swap", env=hva.SBIN, stdout=subprocess.DEVNULL)
    name = shlex.quote(str(file))
    with subprocess.Popen(["setsid", "sh", "-c", f"swapon {name} && echo on && read wait; swapoff {name}; rm -f {name}"], env=hva.SBIN,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as keeper:
        if keeper.stdout.readline() != b"on\n":
            raise Skip("no swap file on this host")
        yield
        keeper.stdin.close()


def fill(guest):
    """More files than the host's group has memory: each is cold by the time of the next."""
    for n in range(CHUNKS):
        guest.check(f"oom make /scratch/{n} {CHUNK_MIB}; {SCAN}; sleep 1")


def host_guest(ctx, group, *options):
    guest = Guest(ctx.results, disks=[hva.scratch_disk("ext4")], cpus=2, mem=1024, extra=options)
    guest.args = [a + f",tb-size={CODE_MIB}" if a.startswith("tcg,") else a for a in guest.args]
    guest.args = group.inside(*guest.args)
    return guest


def host_cannot_page(ctx, swap_mib, *options):
    """Unused and volatile blocks go instead; the guest survives, and its files are right. What the host did."""
    with some_swap(ctx.results, swap_mib), HostGroup(HOST_MIB, swap_mib) as group:
        with host_guest(ctx, group, *options) as g, group.at_its_limit(ctx.results):
            g.check("mount -t ext4 /dev/disk0 /scratch")
            fill(g)
            for _ in range(2):
                for n in range(CHUNKS):
                    text = g.check(f"oom check /scratch/{n} && {SCAN}", timeout=300)
                    assert re.fullmatch(r"[1-9]\d+ pages 0 wrong\n", text), text
            states, cached = g.states(), g.meminfo()["Cached"]
            full, killed = group.events()
            print(f"group was at its limit: {full}, kills {killed}, swapped {group.swapped()}; QEMU {hva.mib(g.rss())}; "
                  f"the guest has {hva.mib(cached * hva.PAGE)} page cache", states, flush=True)
            g.shutdown()
            assert not g.splats(), g.splats()[0]
        assert full and not killed, f"at its limit: {full}, kills {killed}"
        assert group.swapped() <= swap_mib * MIB
        assert cached * hva.PAGE > HOST_MIB * MIB, "the guest's page cache would have found place"
        assert states["discarded-volatile"] * hva.PAGE > HOST_MIB * MIB and states["discarded-unused"] > 0, states
        return states


def without_help(ctx, swap_mib):
    """Control: nobody drops blocks; the host has to kill."""
    with some_swap(ctx.results, swap_mib), HostGroup(HOST_MIB, swap_mib) as group:
        try:
            with host_guest(ctx, group) as g:
                g.check("mount -t ext4 /dev/disk0 /scratch")
                fill(g)
        except HvaError as err:
            full, killed = group.events()
            print(f"{err}; at its limit: {full}, kills {killed}")
            assert "died" in str(err) and full and killed, err
        else:
            raise AssertionError(f"the guest has survived without help: {group.events()}")


LIMIT = ("-global", f"{DEVICE}.resident-limit={LIMIT_MIB}M")


@limit(400, cores=1)
def test_host_without_swap(ctx):
    host_cannot_page(ctx, 0, *LIMIT)


@limit(400, cores=1)
def test_host_swap_is_full(ctx):
    host_cannot_page(ctx, 16, *LIMIT)


@limit(400, cores=1)
def test_host_without_help_kills(ctx):
    without_help(ctx, 16)


@limit(400, cores=1)
def test_host_paging_file_is_full(ctx):
    """What finds no place there stays in memory."""
    place = ctx.results / "paging"
    place.mkdir()
    if os.geteuid():
        raise Skip("a small file system for the paging file needs root")
    hva.command(["mount", "-t", "tmpfs", "-o", "size=16m", "paging", place], "making a small file system", env=hva.SBIN)
    try:
        file = os.open(place / "file", os.O_RDWR | os.O_CREAT, 0o600)
    finally:
        subprocess.run(["umount", "-l", place], env=hva.SBIN, check=True)   # it lasts as long as the file is open
    states = host_cannot_page(ctx, 0, "-global", f"{DEVICE}.resident-limit=64M",
                              "-global", f"{DEVICE}.paging-file=/proc/{os.getpid()}/fd/{file}")
    assert 1000 < states["paged-out"] and states["stable-preserved"] <= 16 * MIB // hva.PAGE, states
