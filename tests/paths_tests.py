"""Every file system, every switch: what main job and kselftests do not come by."""

import contextlib
import json
import re
import subprocess

import hva
from hva import BUILD, PAGE, TOP, Guest
from run import Skip, limit
from guest_tests import KUNIT, KUNIT_MODES, Summary, nothing_to_test
import tap

# pylint: disable=missing-function-docstring

# A real tree that the series does not touch: some 300 files, 6 MiB
FILES = BUILD / "tree/linux/fs/xfs"
SCAN = "for i in 1 2 3 4 5; do echo 1 >/sys/kernel/debug/page_hva/scan; done"


def finish(guest):
    guest.shutdown()
    assert not guest.splats(), f"console: {guest.splats()[0]}"


def counts(guest):
    return {k.removeprefix("hva_"): v for k, v in guest.vmstat().items() if k.startswith("hva_")}


# --- file systems ------------------------------------------------------------------------

class FileSystem:
    """How the guest comes to the files on /mnt.

    make: commands of the host that make the image; {image} and {files} are replaced.
    mount: shell commands of the guest; {disk} is replaced by the image's device.
    fill: the file system is empty and the guest copies the files there.
    """

    def __init__(self, mount, make=None, fill=False, size=0):
        self.mount, self.make, self.fill, self.size = mount, make, fill, size

    def image(self, name, disk):
        """Made once, as long as the files are the same."""
        with hva.alone(f"disk-paths-{name}"):
            return self.made(name, disk)

    def made(self, name, disk):
        image = BUILD / f"disk/paths-{name}.img"
        stamp = image.with_suffix(".stamp")
        want = f"{disk.stamp.read_text()} {self.make} {self.size}"
        if image.exists() and stamp.exists() and stamp.read_text() == want:
            return image
        image.unlink(missing_ok=True)
        stamp.unlink(missing_ok=True)
        if self.size:
            with open(image, "wb") as f:
                f.truncate(self.size * 2**20)
        hva.command(self.make.format(image=image, files=FILES).split(), f"making {image.name}",
                    env=hva.SBIN, stdout=subprocess.DEVNULL)
        stamp.write_text(want)
        return image


SHARE = ("-fsdev", f"local,id=share,path={FILES},security_model=none,readonly=on",
         "-device", "virtio-9p-ccw,fsdev=share,mount_tag=share")

FILE_SYSTEMS = {
    "ext4_1k": FileSystem("mount -t ext4 {disk} /mnt",
                          "mke2fs -q -t ext4 -b 1024 -d {files} {image} 32m"),
    "btrfs": FileSystem("mount -t btrfs {disk} /mnt", "mkfs.btrfs -q --rootdir {files} {image}", size=256),
    "btrfs_compressed": FileSystem("mount -t btrfs -o compress-force=zlib {disk} /mnt",
                                   "mkfs.btrfs -q {image}", fill=True, size=256),
    "erofs": FileSystem("mount -t erofs {disk} /mnt", "mkfs.erofs {image} {files}"),
    "erofs_compressed": FileSystem("mount -t erofs {disk} /mnt", "mkfs.erofs -zlz4 {image} {files}"),
    "squashfs": FileSystem("mount -t squashfs {disk} /mnt",
                           "mksquashfs {files} {image} -quiet -no-progress -noappend -all-root"),
    "vfat": FileSystem("mount -t vfat {disk} /mnt", "mkfs.vfat {image}", fill=True, size=64),
    "xfs_1k": FileSystem("mount -t xfs {disk} /mnt", "mkfs.xfs -q -b size=1024 {image}", fill=True, size=320),
    "overlayfs": FileSystem("mkdir /scratch/upper /scratch/work; "
                            "mount -t overlay -o lowerdir=/files,upperdir=/scratch/upper,workdir=/scratch/work o /mnt; "
                            # One of them comes from the upper directory
                            "mv /mnt/Makefile /mnt/other && cp /mnt/other /mnt/Makefile && rm /mnt/other"),
    "loop": FileSystem("cp {disk} /scratch/image; mount -o loop,ro -t ext4 /scratch/image /mnt",
                       "mke2fs -q -t ext4 -d {files} {image} 32m"),
    # With less caching 9p keeps no inodes: no page cache without an open file
    "9p": FileSystem("mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=262144 share /mnt"),
}


def mount(guest, fs, disk):
    """The files on /mnt, read by nobody yet."""
    guest.check(fs.mount.format(disk=disk))
    if fs.fill:
        guest.check("cp -r /files/* /mnt/")
    guest.check("sync; echo 3 >/proc/sys/vm/drop_caches")


def read_discarded(guest, disk, how):
    """Make all volatile, have it dropped, read it again: (pages that are volatile, found discarded)."""
    guest.check(SCAN)
    before = counts(guest)
    # The scanner may have come by itself before
    volatile = before["volatile"] - before["stable"] - before["discarded"] - before["freed"]
    guest.reclaim()
    files, _, wrong, text = hva.verify(guest, how, jobs=1)
    after = counts(guest)
    assert (files, wrong) == (disk.files, 0), f"{how} after a discard: {text.strip()[-300:]}"
    return volatile, after["discarded"] - before["discarded"]


def one_file_system(guest, disk):
    """Read, discard, read by read() and mmap; figures as text."""
    pages = disk.bytes // PAGE                              # at least: files end within pages
    files, _, wrong, text = hva.verify(guest, "read", jobs=1)
    assert (files, wrong) == (disk.files, 0), text.strip()[-300:]
    told = []
    for how in "read", "mmap", "mmap", "read":
        volatile, discarded = read_discarded(guest, disk, how)
        told.append(f"{how}: {volatile} volatile, {discarded} discarded")
        assert volatile >= 0.9 * pages and discarded >= 0.9 * pages, f"of {pages} pages only {told[-1]}"
    return f"{pages} pages; " + "; ".join(told)


def file_systems(ctx, **guest):
    disk = hva.Disk(FILES, 32, name="paths")
    images = {name: fs.image(name, disk) for name, fs in FILE_SYSTEMS.items() if fs.make}
    with Guest(ctx.results, disks=[disk.image, disk.manifest, hva.scratch_disk("ext4"), *images.values()],
               extra=SHARE, **guest) as g:
        hva.mount_files(g, disk)
        g.check("umount /mnt; mkdir /files; mount -t ext4 -o ro /dev/disk0 /files; mount -t ext4 /dev/disk2 /scratch")
        for name, fs in FILE_SYSTEMS.items():
            nr = 3 + list(images).index(name) if fs.make else 0
            try:
                mount(g, fs, f"/dev/disk{nr}")
                print(name, one_file_system(g, disk), flush=True)
                # Control: a wrong checksum is noticed
                g.check("sed '1s/^0/1/;1t;1s/^./0/' /tmp/manifest >/tmp/wrong")
                status, text = g.run("files read /mnt /tmp/wrong")
                assert status == 1 and "WRONG" in text, text
                g.check("umount /mnt")
                ctx.part(name, "pass")
            except (AssertionError, hva.HvaError) as why:
                if g.process.poll() is not None:
                    raise
                ctx.part(name, "fail", str(why))
                g.run("umount /mnt")
        finish(g)


@limit(300, cores=1)
def test_file_systems_demand(ctx):
    file_systems(ctx, cpus=1, discard="demand")


@limit(300, cores=1)
def test_file_systems_eager(ctx):
    file_systems(ctx, cpus=1, discard="eager")


# --- the kselftests of reading and writing, on file systems that can be written ------------

# How the empty file system on the disk is mounted; xfs and ext4 have tests of their own
WRITABLE = {
    "ext4_1k": ("mke2fs -q -t ext4 -b 1024 {image}", "mount -t ext4 {disk} /mnt"),
    "btrfs": ("mkfs.btrfs -q {image}", "mount -t btrfs {disk} /mnt"),
    "vfat": ("mkfs.vfat {image}", "mount -t vfat {disk} /mnt"),
    "xfs_1k": ("mkfs.xfs -q -b size=1024 {image}", "mount -t xfs {disk} /mnt"),
}
WRITABLE_ON_OTHERS = {
    "overlayfs": (None, "mkdir /scratch/upper /scratch/work; mount -t overlay "
                        "-o lowerdir=/,upperdir=/scratch/upper,workdir=/scratch/work o /mnt"),
    "loop": ("mke2fs -q -t ext4 {image}", "cp {disk} /scratch/image; mount -o loop -t ext4 /scratch/image /mnt"),
    "9p": (None, "mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=262144 share /mnt"),
}
# Tests of mapped_test that a file system cannot have, and why
WITHOUT = {
    "9p": ("found_but_not_read",),                          # no RWF_NOWAIT
    "overlayfs": ("found_but_not_read",),                   # no RWF_NOWAIT
    "vfat": ("found_but_not_read",),                        # no RWF_NOWAIT
}


def refill_on_file_systems(ctx, mounts, **guest):
    images = {name: FileSystem(None, make, size=320 if make else 0) for name, (make, _) in mounts.items() if make}
    if "loop" in images:
        images["loop"].size = 128                           # it is copied, in the guest
    images = {name: empty_image(f"empty-{name}-{fs.size}", fs) for name, fs in images.items()}
    share = ctx.results / "share"
    share.mkdir()
    with Guest(ctx.results, disks=[hva.scratch_disk("ext4"), *images.values()],
               extra=("-fsdev", f"local,id=share,path={share},security_model=none",
                      "-device", "virtio-9p-ccw,fsdev=share,mount_tag=share"), **guest) as g:
        g.check("mount -t ext4 /dev/disk0 /scratch")
        for name, (make, how) in mounts.items():
            nr = 1 + list(images).index(name) if make else 0
            g.check(how.format(disk=f"/dev/disk{nr}"))
            for program in "refill_test", "access_test", "mapped_test":
                options = ""
                if program == "mapped_test":                # a private mapping has the reads of a shared one, and copies
                    options = " ".join(f"-T {test}" for test in WITHOUT.get(name, ())) + " -v private"
                status, text = g.run(f"cd /selftests && PAGE_HVA_DIR=/mnt ./{program} {options}", timeout=280)
                print(name, text)
                summary = Summary()
                tap.report(summary, text, status, program)
                ctx.part(f"{name}.{program}", "fail" if summary.failed else "pass", " ".join(summary.failed) or str(summary))
            g.check("umount /mnt")
        finish(g)


def empty_image(name, fs):
    image = BUILD / f"disk/{name}.img"
    if not image.exists():
        new = image.with_suffix(".new")
        with open(new, "wb") as f:
            f.truncate(fs.size * 2**20)
        hva.command(fs.make.format(image=new).split(), f"making {image.name}", env=hva.SBIN, stdout=subprocess.DEVNULL)
        new.replace(image)
    return image


@limit(600, cores=1)
def test_refill_on_file_systems(ctx):
    refill_on_file_systems(ctx, WRITABLE, cpus=1, discard="eager")


@limit(600, cores=1)
def test_refill_on_other_file_systems(ctx):
    refill_on_file_systems(ctx, WRITABLE_ON_OTHERS, cpus=1, discard="eager")


# --- boots: every value of page_hva=, every switch of the kernel that meets it ---------------

VALUES = {
    # words of the command line: mode of the guest
    "page_hva=off": "off",
    "page_hva=on": "on",
    "page_hva=mapped": "mapped",
    "page_hva=lazyfree": "lazyfree",
    "page_hva=full": "full",
    "page_hva=force": "mapped",
    "page_hva=force,on": "on",
    "page_hva=off,on": "on",
    "page_hva=on,off": "off",
    "page_hva=on,mapped": "mapped",
    "page_hva=full,mapped": "mapped",
    "page_hva=on,lazyfree": "lazyfree",
    "page_hva=full,lazyfree": "lazyfree",
    "page_hva=nonsense": "mapped",
    "page_hva=nonsense,off": "off",
    "page_hva=": "mapped",
    "page_hva": "mapped",
}
SWITCHES = {
    # words of the command line, and what a shell does after the boot
    "one_cpu": ("nosmp", "test $(nproc) = 1"),
    "mglru": ("", "echo y >/sys/kernel/mm/lru_gen/enabled && grep -q '[1-7]$' /sys/kernel/mm/lru_gen/enabled"),
    "no_mglru": ("", "echo n >/sys/kernel/mm/lru_gen/enabled && grep -q 0x0000 /sys/kernel/mm/lru_gen/enabled"),
    # TCG has no EDAT1, so there are none; the word must do no harm
    "huge_pages": ("transparent_hugepage=always", ""),
    "no_memory_cgroups": ("cgroup_disable=memory", "! grep -q memory /sys/fs/cgroup/cgroup.controllers"),
    "init_on_free": ("init_on_free=1", ""),
    "init_on_alloc": ("init_on_alloc=1", ""),
    "panic_on_warn": ("panic_on_warn=1 slab_nomerge", ""),
}


def read_twice(guest, disk):
    """Are files right before and after a discard?  How many pages were found discarded."""
    hva.mount_files(guest, disk)
    files, _, wrong, text = hva.verify(guest, "read", jobs=1)
    assert (files, wrong) == (disk.files, 0), text
    before = counts(guest)
    if guest.mode() not in ("absent", "off", "unused"):
        guest.check(SCAN)
    guest.reclaim()
    files, _, wrong, text = hva.verify(guest, "mmap", jobs=1)
    assert (files, wrong) == (disk.files, 0), text
    return counts(guest).get("discarded", 0) - before.get("discarded", 0)


def boot_with(ctx, name, append, want, do="", **guest):
    """One boot: the mode is that one, files are right, and discarded if the mode says so."""
    disk = hva.Disk(FILES, 32, name="paths")
    try:
        with Guest(ctx.results / name, disks=[disk.image, disk.manifest], append=append, **guest) as g:
            mode = g.mode()
            assert mode == want, f"mode {mode}"
            if callable(do):
                do(g)
            elif do:
                g.check(do)
            discarded = read_twice(g, disk)
            pages = disk.bytes // PAGE
            g.settle()
            console = g.console().decode(errors="replace")
            finish(g)
        print(f"{name}: mode {mode}, {discarded} of {pages} pages discarded", flush=True)
        if mode in ("off", "unused", "absent"):
            assert discarded == 0, f"{discarded} pages were discarded"
        else:
            assert discarded >= 0.9 * pages, f"only {discarded} of {pages} pages were discarded"
        return console
    except (AssertionError, hva.HvaError) as why:
        ctx.part(name, "fail", str(why))
        return None


def values(ctx, chosen, **guest):
    for append, want in chosen.items():
        name = append.replace("page_hva", "value").replace(",", "_") + ("empty" if append.endswith("=") else "")
        console = boot_with(ctx, name.replace("=", "_"), append, want, mem=256, **guest)
        if console is None:
            continue
        unknown = [w for w in append.partition("=")[2].split(",") if f"ignoring unknown option '{w}'" in console]
        known = [w for w in append.partition("=")[2].split(",") if w and w not in unknown]
        ok = set(known) <= {"on", "off", "force", "mapped", "lazyfree", "full"}
        ok = ok and ("nonsense" in unknown) == ("nonsense" in append)
        ctx.part(name.replace("=", "_"), "pass" if ok else "fail", "" if ok else f"understood {known}, ignored {unknown}")


@limit(240, cores=1)
def test_boot_values(ctx):
    """A value of page_hva= is either understood or refused aloud."""
    values(ctx, VALUES, cpus=1)


@limit(240, cores=1)
def test_boot_values_eager_4_cpus(ctx):
    """Those that make a difference after the boot."""
    values(ctx, {append: want for append, want in VALUES.items() if append[9:] in KUNIT_MODES},
           cpus=4, discard="eager")


def switches(ctx, **guest):
    for name, (append, do) in SWITCHES.items():
        if boot_with(ctx, name, append, "mapped", do, mem=256, **guest) is not None:
            ctx.part(name, "pass")


@limit(240, cores=1)
def test_boot_switches_eager(ctx):
    switches(ctx, cpus=1, discard="eager")


@limit(240, cores=1)
def test_boot_switches_random_4_cpus(ctx):
    switches(ctx, cpus=4, discard="random,3")


@limit(60, cores=1)
def test_boot_page_poison(ctx):
    """Volatile pages are stable again before they are freed and poisoned.

    Poisoning expects that free pages keep their content, so it does not go with a
    host that drops unused blocks, with or without the assist.  This one drops none.
    """
    disk = hva.Disk(FILES, 32, name="paths")
    with Guest(ctx.results, disks=[disk.image, disk.manifest], append="page_poison=1", cpus=1, mem=256) as g:
        hva.mount_files(g, disk)
        for how in "read", "mmap":
            files, _, wrong, text = hva.verify(g, how, jobs=1)
            assert (files, wrong) == (disk.files, 0), text
            before = counts(g)
            g.check(f"{SCAN}; echo 3 >/proc/sys/vm/drop_caches")
            after = counts(g)
            assert after["freed"] - before["freed"] >= 0.9 * disk.bytes // PAGE, f"{before} {after}"
        finish(g)


def test_boot_lying_host(ctx):
    """A host that changes states and never delivers a discard fault is found out."""
    text = subprocess.run([hva.OUT / "qemu-system-s390x", "-device", "s390-storage_attributes-qemu,help"],
                          stdout=subprocess.PIPE, text=True, check=False).stdout
    if "x-discard-fault=" not in text:
        raise Skip("this QEMU cannot lie (s390-storage_attributes-qemu.x-discard-fault)")
    lie = ("-global", "s390-storage_attributes-qemu.x-discard-fault=off")
    console = boot_with(ctx, "found_out", KUNIT, "unused", nothing_to_test, extra=lie)
    if console is not None:
        ok = "no proof of the discard fault" in console
        ctx.part("found_out", "pass" if ok else "fail", "" if ok else "the log does not say so")
    # Control: it is the fault that makes the difference
    if boot_with(ctx, "honest", "", "mapped") is not None:
        ctx.part("honest", "pass")
    # Lookups ask the host with each ESSA, so a guest that trusts it all the same has its files right, unmapped
    if boot_with(ctx, "forced", "page_hva=force,on", "on", extra=lie) is not None:
        ctx.part("forced", "pass")


# --- the next kernel -----------------------------------------------------------------------

def volatile_blocks(guest):
    states = guest.states()
    return states["volatile-resident"] + states["volatile-zero"]


@contextlib.contextmanager
def guest_with_discards(ctx, name, *images, **options):
    """A guest most of whose page cache has been discarded, with a disk of kernels to go on with."""
    disk = hva.Disk(FILES, 32, name="paths")
    ctx = type(ctx)(f"{ctx.name}/{name}")
    ctx.results.mkdir()
    with Guest(ctx.results, disks=[disk.image, disk.manifest, hva.kernels_disk(ctx.results, *images)], **options) as g:
        hva.mount_files(g, disk)
        assert hva.verify(g, "mmap")[2] == 0
        yield g, disk


def discard_all(guest):
    guest.check(SCAN)
    guest.reclaim()
    gone = guest.states()["volatile-zero"]
    assert gone > 1000, f"only {gone} blocks are discarded"


def kexec_to(ctx, kernel, want, append=""):
    name = kernel.lower() + append.replace("=", "_").replace(" ", "_")
    try:
        with guest_with_discards(ctx, name, kernel, mem=384) as (g, disk):
            g.load_kernel(2, "load", kernel, append)
            discard_all(g)
            g.next_kernel()
            left = volatile_blocks(g)
            assert left < 100, f"{left} blocks were left volatile to the next kernel"
            mode = g.mode()
            assert mode == want, f"mode {mode}"
            discarded = read_twice(g, disk)
            print(f"{name}: {left} blocks left volatile, mode {mode}, then {discarded} pages discarded", g.states())
            finish(g)
        ctx.part(name, "pass")
    except (AssertionError, hva.HvaError) as why:
        ctx.part(name, "fail", str(why))


@limit(200, cores=1, needs="guest.kernel_config_off")
def test_kexec(ctx):
    """The next kernel finds all blocks stable, knows of the assist or does not, and reads its files right."""
    kexec_to(ctx, "bzImage", "mapped")
    kexec_to(ctx, "bzImage", "off", "page_hva=off")
    kexec_to(ctx, "bzImage-off", "absent")


@limit(200, cores=1)
def test_kdump(ctx):
    """After a panic with most of the page cache discarded every byte of the dump can be read."""
    with guest_with_discards(ctx, "guest", "bzImage", mem=384, append="crashkernel=160M") as (g, disk):
        g.load_kernel(2, "panic", "bzImage")
        # Something to look for in the dump
        g.check("for i in $(seq 2000); do echo page_hva_needle_$i; done >/tmp/needles")
        discard_all(g)
        g.expect_splat = rb"."
        g.next_kernel("echo c >/proc/sysrq-trigger")
        crashed = len(g.console())
        left = volatile_blocks(g)
        assert left < 100, f"{left} blocks were left volatile to the kdump kernel"
        size = int(g.check("stat -c %s /proc/vmcore"))
        assert size > 192 * 2**20, f"/proc/vmcore has {size} bytes"
        assert g.check("head -c 4 /proc/vmcore | tail -c 3").strip() == "ELF"
        read, found = map(int, re.match(r"(\d+) bytes (\d+) found", g.check(
            "kexec search /proc/vmcore page_hva _needle_", timeout=150)).groups())
        print(f"{size} bytes, {read} read, {found} lines found", g.states())
        assert read == size, f"{read} of {size} bytes of /proc/vmcore could be read"
        # A line may be cut in two where the file's pages are not side by side
        assert found >= 1990, f"{found} of 2000 lines of a file were found in the dump"
        g.expect_splat = rb"^$"
        assert b"page_hva: unexpected" not in g.console()
        assert not [line for line in g.console()[crashed:].split(b"\n") if hva.SPLAT.search(line)]


# --- torture, short ---------------------------------------------------------------------------

def torture(ctx, *args):
    """(exit status, report.json) of scripts/torture."""
    res = subprocess.run([TOP / "scripts/torture", "--results", ctx.results / "run", *args], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, check=False)
    print(res.stdout)
    report = ctx.results / "run/report.json"
    assert report.exists(), f"status {res.returncode}: {res.stdout.strip()[-300:]}"
    return res.returncode, json.loads(report.read_text())


@limit(1500)
def test_torture(ctx):
    """Twelve minutes with all, as three guests at once: every program goes on after the kexec, and has verified something."""
    status, report = torture(ctx, "--minutes", "12", "--at-once", "3", "--divide")
    figures = ", ".join(f"{k} {v}" for k, v in report["total"].items())
    assert not report["failures"], f"{report['failures'][0]} ({figures})"
    assert status == 0 and report["total"]["mismatches"] == 0, figures
    assert len(report["legs"]) == 3, report["legs"].keys()
    for name, leg in report["legs"].items():
        seldom = {"mismatches", "migrations", "memory offline", "faults in the kernel", "reclaimed",
                  *(["CPUs offline"] if "-1-" in name else []),
                  # Each mode has its own; what it must have, torture itself asks for
                  "lazily freed", "potentially volatile", "in the swap cache",
                  # And has a share of these; which of its own verified nothing, torture says
                  "fio", "sqlite", "postgres", "git", "tree", "build", "stress"}
        assert not [k for k, v in leg.items() if v == 0 and k not in seldom], f"{name}: {leg}"
    assert not [load for load in BREAKABLE if not report["total"][load]], figures
    assert not [k for k in ("memory offline", "migrations", "reclaimed") if not report["total"][k]], figures
    ctx.part("three_guests", "pass", figures)


# stress-ng's files have no names
BREAKABLE = "fsx", "churn", "freed", "fio", "sqlite", "postgres", "git", "tree", "build"


@limit(900, cores=1)
def test_torture_notices_wrong_bytes(ctx):
    """Negative control: a byte of each program's files changes, and one between two kernels."""
    status, report = torture(ctx, "--minutes", "1", "--fs", "ext4", "--discard", "demand", "--cpus", "2", "--load", ",".join(BREAKABLE),
                             "--break-bytes")
    text = "\n".join(report["failures"])
    assert status == 1 and report["total"]["mismatches"] > 3, f"{text or report['total']}"
    assert re.search(r"after kexec: WRONG", text), text
    unnoticed = [load for load in BREAKABLE if f": {load}: status" not in text]
    assert not unnoticed, f"not noticed by {' '.join(unnoticed)}"


@limit(300, cores=1)
def test_torture_notices_that_nothing_is_dropped(ctx):
    """Negative control: the loads run with less than the leg says."""
    status, report = torture(ctx, "--minutes", "0.5", "--fs", "ext4", "--discard", "demand", "--cpus", "2", "--load", "fsx,freed",
                             "--page-hva", "full", "--append", "page_hva=off")
    assert status == 1 and any("nothing was tried" in f for f in report["failures"]), report["failures"]
