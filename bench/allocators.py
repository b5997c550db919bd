"""bench/run allocators: programs whose allocators free memory lazily, while the host takes it; see churn.c, churn.go.

Guests in each mode take turns.  In each, every allocator does the same work, three times: it grows, churns, shrinks to
a tenth and idles; then the host takes what it can.  At last it churns while the host takes all the time.
"""

import collections
import json
import os
import re
import statistics
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import hva
from common import CROSS, HERE, finish, offered, sanity
from hva import BUILD, Guest, HvaError

MODES = "mapped", "lazyfree", "full"
PACKAGES = "libc6", "libjemalloc2", "libmimalloc3"
MEMORY, IN_USE = 384, 64    # MiB
IN_USE_GO = 24              # MiB; its collector makes two to three times as many of it, and work
ROUNDS = 3
THREADS = 2                 # as in churn.c, churn.go
IDLE = 8                    # s: the allocator's second, and the scanner's two intervals

LIBRARIES = "/usr/lib/s390x-linux-gnu"
JEMALLOC = f"LD_PRELOAD={LIBRARIES}/libjemalloc.so.2 MALLOC_CONF=background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:"
# As soon as a page is free: later it hardly ever comes to it
MIMALLOC = f"LD_PRELOAD={LIBRARIES}/libmimalloc.so.3 MIMALLOC_PURGE_DELAY=0 MIMALLOC_PURGE_DECOMMITS=0"

Allocator = collections.namedtuple("Allocator", "name lazy command in_use", defaults=[IN_USE])
ALLOCATORS = (
    Allocator("glibc", False, "/churn"),
    Allocator("jemalloc", True, f"{JEMALLOC}-1 /churn"),
    Allocator("jemalloc, MADV_DONTNEED", False, f"{JEMALLOC}0 /churn"),
    Allocator("mimalloc", True, f"{MIMALLOC} /churn"),
    Allocator("Go", True, "GODEBUG=madvdontneed=0 /churn-go", IN_USE_GO),
    Allocator("Go, MADV_DONTNEED", False, "/churn-go", IN_USE_GO),
)
SOME = 1000                 # pages; fewer are noise


# --- programs ---------------------------------------------------------------------------------


def packages():
    """Debian packages for the guest, with all that they depend on."""
    cache = BUILD / "dl/allocators"
    done, wanted = cache / "done", " ".join(PACKAGES)
    if not done.exists() or done.read_text() != wanted:
        print("== downloading allocators for the guest (4 MiB)", flush=True)
        (cache / "partial").mkdir(parents=True, exist_ok=True)
        hva.command(["apt-get", "-c", BUILD / "apt/etc/apt.conf", "-o", "APT::Architecture=s390x", "-o", "Debug::NoLocking=1",
                     "-o", f"Dir::Cache::archives={cache}", "-y", "-q", "--no-install-recommends", "--download-only",
                     "install", *PACKAGES], "getting the guest's packages", stdout=subprocess.DEVNULL)
        done.write_text(wanted)
    return sorted(cache.glob("*.deb"))


def go_root():
    """Debian's Go compiler, unpacked and not installed."""
    root = BUILD / "host/go"
    if not root.is_dir():
        cache = BUILD / "dl/allocators/go"
        depends = subprocess.run(["apt-cache", "depends", "golang-go"], stdout=subprocess.PIPE, text=True, check=True).stdout
        found = re.search(r"Depends: (golang-1\.\d+-go)$", depends, re.M)
        if not found:
            raise HvaError("this machine's apt does not know golang-go")
        cache.mkdir(parents=True, exist_ok=True)
        if len(list(cache.glob("golang-*.deb"))) < 2:
            print("== downloading the Go compiler (80 MiB)", flush=True)
            hva.command(["apt-get", "-o", "APT::Sandbox::User=", "download", found[1], found[1].removesuffix("go") + "src"],
                        "downloading Go", cwd=cache, stdout=subprocess.DEVNULL)
        new = root.with_suffix(".new")
        new.mkdir(parents=True, exist_ok=True)
        for deb in sorted(cache.glob("golang-*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as tar:
                hva.command(["tar", "-x", "-C", new, "--exclude=*/test", "--exclude=*/testdata", "--exclude=*_test.go"],
                            f"unpacking {deb.name}", stdin=tar.stdout)
        new.rename(root)
    return next(root.glob("usr/lib/go-*"))


def build_go(program):
    go = go_root()
    cache = BUILD / "bench/go"
    environ = {**os.environ, "GOROOT": str(go), "GOCACHE": str(cache), "GOPATH": str(cache), "GO111MODULE": "off",
               "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": "s390x"}
    hva.command([go / "bin/go", "build", "-o", program, HERE / "churn.go"], "building churn.go", env=environ)


def build(report):
    """(disk, allocators): a tar file for the guest's tmpfs, and what is in it."""
    top = BUILD / "bench"
    top.mkdir(exist_ok=True)
    hva.command([f"{CROSS}gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-march=z13", "-o", top / "churn", HERE / "churn.c",
                 "-lm", "-lpthread"], "building churn.c")
    programs, there = [top / "churn"], ALLOCATORS
    try:
        build_go(top / "churn-go")
        programs.append(top / "churn-go")
    except (HvaError, OSError, subprocess.CalledProcessError) as err:
        report.say(f"   NOTE: without Go: {err}")
        there = [a for a in ALLOCATORS if "churn-go" not in a.command]
    disk = top / "allocators.tar"
    with tarfile.open(disk, "w") as tar:
        for name, target in ("lib", "usr/lib"), ("lib64", "usr/lib"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for program in programs:
            tar.add(program, program.name)
        for deb in packages():
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpack:
                with tarfile.open(fileobj=unpack.stdout, mode="r|") as package:
                    for member in package:
                        if re.match(r"\./usr/lib/(s390x-linux-gnu/)?[^/]+\.so", member.name) and (member.issym() or member.isfile()):
                            tar.addfile(member, package.extractfile(member) if member.isfile() else None)
    return disk, there


# --- one allocator in one guest -------------------------------------------------------------------


class Churn:
    """The program, running in the guest."""

    def __init__(self, guest, allocator, errors):
        self.guest, self.errors = guest, errors
        self.verified = self.wrong = 0
        guest.check("rm -rf /tmp/churn; mkdir /tmp/churn; mkfifo /tmp/churn/cmd /tmp/churn/answer")
        # If it dies, whoever waits for an answer has to be told
        guest.check(f"(cd /tmp/churn; env {allocator.command} /tmp/churn {allocator.in_use} 2>errors; echo $? >status; "
                    "timeout 5 sh -c 'echo dead >answer') >/dev/null 2>&1 &")

    def do(self, command, timeout=1200):
        """Its answer to a command."""
        try:
            text = self.guest.check(f"cd /tmp/churn; timeout {timeout} sh -c 'echo {command} >cmd' & timeout {timeout} cat answer",
                                    timeout=timeout + 60)
            figures = {k: int(v) for k, v in (word.split("=") for word in text.split())}
            self.verified += figures["verified"]
            self.wrong += figures["wrong"]
        except (HvaError, ValueError, KeyError) as err:
            self.say_why()
            raise HvaError(f"churn, {command}: {err}") from None
        return figures

    def say_why(self):
        """What it has said goes into a file."""
        try:
            self.errors.write_text(self.guest.run("cat /tmp/churn/errors; cat /tmp/churn/status 2>/dev/null")[1])
        except (HvaError, OSError) as err:
            self.errors.write_text(f"{err}\n")

    def quit(self):
        """It looks at all it has, and ends."""
        before = self.wrong
        if self.do("prove")["wrong"] != THREADS:
            raise HvaError("churn does not notice a wrong word")
        self.wrong = before
        self.do("quit")
        self.guest.check("while [ ! -e /tmp/churn/status ]; do sleep 0.1; done; exit $(cat /tmp/churn/status)")
        self.say_why()


def resident(guest):
    """The part of the guest's memory that the host holds, in bytes; QEMU's translations would hide it."""
    text = Path(f"/proc/{guest.process.pid}/smaps").read_text(encoding="utf-8")
    found = re.search(rf"^Size: +{MEMORY * 1024} kB\n(?:.+\n)*?Rss: +(\d+) kB$", text, re.M)
    if not found:
        raise HvaError(f"QEMU has no mapping of {MEMORY} MiB")
    return int(found[1]) * 1024


def counters(guest):
    """Of guest and host, in pages."""
    vmstat, states = guest.vmstat(), guest.states()
    return {"lazyfree": vmstat.get("hva_lazyfree", 0), "discard faults": states["discard-faults"],
            **{f"dropped {kind}": states[f"discarded-{kind}"] for kind in ("unused", "volatile", "potentially-volatile")}}


def one_round(guest, churn):
    """{figure: value}"""
    grown, churned = churn.do("grow"), churn.do("churn")
    churn.do("shrink")
    churn.do(f"idle {IDLE}")
    before, rss = counters(guest), resident(guest)
    guest.reclaim()
    after, rss_after = counters(guest), resident(guest)
    churn.do("check")
    return {
        "grow": grown["allocated"] / grown["ns"] * 1e9 / 2**20, "churn": churned["allocated"] / churned["ns"] * 1e9 / 2**20,
        "grow cpu": grown["cpu_us"] / 1e6, "churn cpu": churned["cpu_us"] / 1e6,
        "grow faults": grown["minflt"], "churn faults": churned["minflt"], "major faults": grown["majflt"] + churned["majflt"],
        "rss": rss_after / 2**20, "given back": (rss - rss_after) / 2**20,
        **{key: (after[key] - before[key]) / 256 for key in before if key.startswith("dropped")},
    }


def storm(guest, churn):
    """It churns while the scanner runs and the host takes, all the time."""
    over = threading.Event()

    def take():
        while not over.wait(0.1):
            guest.reclaim()

    taker = threading.Thread(target=take, daemon=True)
    guest.check("touch /tmp/storm; (while [ -e /tmp/storm ]; do echo 1 >/sys/kernel/debug/page_hva/scan; done) >/dev/null 2>&1 &")
    before = counters(guest)
    taker.start()
    try:
        for command in "grow", "churn", "shrink", "idle 2", "grow", "churn", "check":
            churn.do(command)
    finally:
        over.set()
        taker.join()
        guest.run("rm -f /tmp/storm")
    after = counters(guest)
    return {f"storm {key}": after[key] - before[key] for key in before}


def one_allocator(guest, allocator, results):
    """{figure: value}: of the rounds but the first, medians"""
    before = counters(guest)
    churn = Churn(guest, allocator, results / f"{allocator.name.replace(', ', '-')}.errors")
    rounds = [one_round(guest, churn) for _ in range(ROUNDS)]
    figures = {key: statistics.median(r[key] for r in rounds[1:]) for key in rounds[0]}
    figures["first grow"] = rounds[0]["grow"]
    figures["lazyfree"] = counters(guest)["lazyfree"] - before["lazyfree"]
    figures |= storm(guest, churn)
    churn.quit()
    figures |= {"verified": churn.verified / 2**20, "wrong": churn.wrong}
    guest.reclaim()
    return figures


def one_guest(report, mode, results, disk, which):
    """{allocator: figures}"""
    with Guest(results, kernel=report.kernel, page_hva=mode, mem=MEMORY, disks=[disk]) as g:
        g.check("tar -x -C / -f /dev/disk0")
        figures = {a.name: one_allocator(g, a, results) for a in which}
        (results / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        finish(g)
    return figures


# --- all of them ------------------------------------------------------------------------------------

# Heading, figure, width, decimals
COLUMNS = (("resident", "rss", 10, 1), ("taken", "given back", 8, 1), ("unused", "dropped unused", 8, 1),
           ("volatile", "dropped volatile", 10, 1), ("pot. vol.", "dropped potentially-volatile", 11, 1),
           ("grow", "grow", 9, 1), ("churn", "churn", 9, 1), ("grow", "grow cpu", 9, 2), ("churn", "churn cpu", 8, 2),
           ("grow", "grow faults", 10, 0), ("churn", "churn faults", 9, 0), ("lazyfree", "lazyfree", 11, 0),
           ("verified", "verified", 10, 0), ("wrong", "wrong", 7, 0))


def wrong(mode, runs, which):
    """What must not be, in a mode: lines of text."""
    for allocator in which:
        for figures in (run[allocator.name] for run in runs):
            what = f"{allocator.name}, page_hva={mode}"
            if figures["wrong"]:
                yield f"content: {figures['wrong']} objects, {what}"
            if figures["verified"] < allocator.in_use * ROUNDS:
                yield f"only {figures['verified']:.0f} MiB verified, {what}"
            lazy = allocator.lazy and mode != "mapped"
            taken = 256 * (figures["dropped volatile"] + figures["dropped potentially-volatile"])
            if lazy and mode == "lazyfree" and figures["lazyfree"] < SOME:
                yield f"hva_lazyfree rose by {figures['lazyfree']} pages only, {what}: is MADV_FREE used?"
            if lazy and taken < SOME:
                yield f"the host took {taken:.0f} volatile pages only, {what}"
            if not lazy and figures["lazyfree"] > SOME:
                yield f"hva_lazyfree rose by {figures['lazyfree']} pages, {what}"


def allocators(report):
    """What the host gets from programs that free memory."""
    report.say("\n== allocators: memory for the host, faults and throughput; medians")
    asked = list(report.asked or MODES)
    modes = offered(report, asked)
    if not modes:
        return False
    disk, which = build(report)
    seen = collections.defaultdict(list)
    for number in range(report.runs):
        for mode in modes:
            begin = time.monotonic()
            seen[mode].append(one_guest(report, mode, report.results / f"allocators-{mode}-{number}", disk, which))
            print(f"   ({mode} {number + 1} of {report.runs}: {time.monotonic() - begin:.0f} s)", flush=True)
    report.say(f"   {report.runs} alternating boots of each mode, 2 CPUs, {MEMORY} MiB; 2 threads, objects of 64 bytes to 64 KiB, {IN_USE} MiB in use (Go: {IN_USE_GO});")
    report.say(f"   a tenth of it after the {IDLE} s idle, when the host takes. Rounds after the first: reuse of what was freed")
    report.say(f"\n   {'':36}" + f"{'--- MiB of the host --------------------------':47}{'--- MiB/s --------':>18}"
               f"{'--- CPU s ------':>17}{'--- faults --------':>19}{'pages':>11}{'MiB':>10}{'objects':>8}")
    report.say(f"   {'':36}" + "".join(f"{head:>{width}}" for head, _, width, _ in COLUMNS))
    figures = report.figures["allocators"] = {}
    for allocator in which:
        for mode in modes:
            runs = [run[allocator.name] for run in seen[mode]]
            cells = figures[f"{allocator.name} {mode}"] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            cells["verified"], cells["wrong"] = sum(run["verified"] for run in runs), sum(run["wrong"] for run in runs)
            report.say(f"   {allocator.name:26}{mode:10}" + "".join(f"{cells[key]:{width}.{decimals}f}"
                                                                    for _, key, width, decimals in COLUMNS))
    report.say("\n   while the scanner runs and the host takes all the time:")
    for what, cells in figures.items():
        report.say(f"   {what:36}lazyfree {cells['storm lazyfree']:8.0f}   volatile dropped {cells['storm dropped volatile']:8.0f}   "
                   f"potentially volatile {cells['storm dropped potentially-volatile']:8.0f}   discard faults {cells['storm discard faults']:8.0f}")
    report.figures["allocators, runs"] = seen
    found = [line for mode in modes for line in wrong(mode, seen[mode], which)]
    return sanity(report, found) and modes == asked
