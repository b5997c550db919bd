"""Run a page host virtual assist guest: QEMU, QMP, console, commands, figures.

Used by scripts/run and by the tests.  Standard library only.

    with Guest(Path("results/x"), page_hva="on", discard="eager") as g:
        status, text = g.run("uname -r")
        g.reclaim()
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
OUT = BUILD / "out"
QEMU = OUT / "qemu-system-s390x"
PAGE = 4096

# What must never show on a console
SPLAT = re.compile(
    rb"WARNING: |BUG: |BUG at|kernel BUG|Oops|Call Trace|Kernel panic|panic: |(?<!RCU )lockdep|"
    rb"possible (?:recursive|circular) locking|INFO: task .* blocked|rcu: INFO|rcu_.* stall|"
    rb"Bad page|Unable to handle|Illegal instruction|specification exception|addressing exception|"
    rb"EXT4-fs error|XFS .*[Cc]orruption|BTRFS (?:critical|error)|I/O error|Out of memory|"
    rb"page_hva: .*(?:unexpected|bug)|User process fault|segfault")


class HvaError(Exception):
    """One clear sentence for the person at the keyboard."""


class QMP:
    """A QMP connection; collects events."""

    SECONDS = 120                                   # no command of ours takes so long

    def __init__(self, path, process):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.SECONDS)
        connect(self.sock, path, process)
        self.file = self.sock.makefile("rwb")
        self.events = []
        self.lock = threading.Lock()
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        """The result of a command; HvaError when QEMU refuses it, or does not answer."""
        with self.lock:
            msg = {"execute": name}
            if arguments:
                msg["arguments"] = arguments
            self.file.write(json.dumps(msg).encode() + b"\n")
            self.file.flush()
            while True:
                try:
                    line = self.file.readline()
                except TimeoutError:
                    raise HvaError(f"QEMU did not answer the QMP command {name} in {self.SECONDS} seconds") from None
                if not line:
                    raise HvaError(f"QEMU ended during the QMP command {name}")
                answer = json.loads(line)
                if "QMP" in answer:                 # the greeting; twice, if we are faster than the monitor's set-up
                    continue
                if "event" in answer:
                    self.events.append(answer)
                elif "error" in answer:
                    raise HvaError(f"QMP {name}: {answer['error']['desc']}")
                else:
                    return answer["return"]


def connect(sock, path, process, timeout=20):
    """Connect as soon as QEMU listens."""
    end = time.monotonic() + timeout
    while True:
        try:
            sock.connect(str(path))
            return
        except (FileNotFoundError, ConnectionRefusedError):
            if process.poll() is not None:
                raise HvaError(f"QEMU did not start (status {process.returncode})") from None
            if time.monotonic() > end:
                raise HvaError("QEMU does not listen on its sockets") from None
            time.sleep(0.05)


class Guest:
    """A booted guest.  `results` receives console.log, qemu.log and qemu.cmd."""

    BOOT_SECONDS = 60

    def __init__(self, results, *, kernel="bzImage", cpus=2, mem=512, cpu="max", page_hva=None,
                 discard=None, disks=(), append="", say=None, thread="multi", extra=(), movable=False, read_only=()):
        self.results = Path(results)
        self.results.mkdir(parents=True, exist_ok=True)
        self.console_path = self.results / "console.log"
        self.say = say or (lambda text: None)
        self.lines = []                             # what guest programs logged through the host port
        self.expect_splat = None                    # a test that provokes one sets a regex (bytes) for its lines
        self.known_splat = None                     # regex (bytes) of whole reports that are none of ours
        self.process = self.qmp = self.sockets = None
        self.cmdline = f"console=ttysclp0 panic=-1 hva.disks={len(disks)}"
        cmdline = f"{self.cmdline} {append}"
        if page_hva is not None:
            cmdline += f" page_hva={page_hva}"
        if discard and not discard.startswith("demand"):
            mode, _, seed = discard.partition(",")
            extra = [*extra, "-global", f"s390-storage_attributes-qemu.discard={mode}"]
            if seed:
                extra += ["-global", f"s390-storage_attributes-qemu.discard-seed={seed}"]
        self.args = [                               # SOCKETS: another directory after each migration
            str(QEMU), "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "s390-ccw-virtio", "-accel", f"tcg,thread={thread}", "-cpu", cpu,
            "-smp", str(cpus), "-m", str(mem),
            "-action", "panic=exit-failure,reboot=shutdown",
            "-kernel", str(OUT / kernel), "-initrd", str(OUT / "guest.cpio.gz"), "-append", cmdline.strip(),
            "-qmp", "unix:SOCKETS/qmp,server=on,wait=off",
            "-chardev", f"file,id=console,append=on,path={self.console_path}", "-device", "sclpconsole,chardev=console",
            "-device", "virtio-serial-ccw", "-device", "virtio-rng-ccw",
            "-chardev", "socket,id=control,path=SOCKETS/control,server=on,wait=off",
            "-device", "virtserialport,chardev=control,name=org.page_hva.control",
            "-chardev", "socket,id=host,path=SOCKETS/host,server=on,wait=off",
            "-device", "virtserialport,chardev=host,name=org.page_hva.host",
        ]
        for n, disk in enumerate(disks):
            # Writes of the guest go to a temporary file: an image can be used again. Not if two QEMUs need it.
            how = "readonly=on" if n in read_only else f"snapshot={'off' if movable else 'on'}"
            self.args += ["-drive", f"if=none,id=disk{n},file={disk},format=raw,{how}",
                          "-device", f"virtio-blk-ccw,drive=disk{n},serial=disk{n},id=device{n}"]
        self.args += extra

    # --- life -------------------------------------------------------------------

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc):
        self.kill()

    def start(self):
        for old in self.console_path, self.results / "qemu.log":
            old.unlink(missing_ok=True)
        self.launch()
        self.buffer = b""
        begin = time.monotonic()
        while self.readline(begin + self.BOOT_SECONDS, "the guest's boot") != b"ready":
            pass
        self.boot_seconds = time.monotonic() - begin

    def launch(self, *more):
        """Start a QEMU and connect to all its sockets."""
        self.sockets = Path(tempfile.mkdtemp(prefix="hva-"))
        args = [a.replace("SOCKETS", str(self.sockets)) for a in (*self.args, *more)]
        (self.results / "qemu.cmd").write_text(shlex.join(args) + "\n")
        with open(self.results / "qemu.log", "ab") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, "TMPDIR": str(self.results)})
        try:
            self.qmp = QMP(self.sockets / "qmp", self.process)
        except HvaError as err:
            tail = (self.results / "qemu.log").read_text(errors="replace").strip().split("\n")[-1]
            raise HvaError(f"{err}: {tail}") from None
        self.control = socket.socket(socket.AF_UNIX)
        connect(self.control, self.sockets / "control", self.process)
        host = socket.socket(socket.AF_UNIX)
        connect(host, self.sockets / "host", self.process)
        threading.Thread(target=self.serve_host, args=(host,), daemon=True).start()

    def move(self, timeout=120):
        """Migrate the guest, which is `movable` and between two commands, to a new QEMU; seconds it took."""
        begin = time.monotonic()
        process, qmp, sockets, control = self.process, self.qmp, self.sockets, self.control
        try:
            self.launch("-incoming", "unix:SOCKETS/migration")
            qmp.command("migrate-set-capabilities", capabilities=[{"capability": "auto-converge", "state": True}])
            qmp.command("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 2000})
            qmp.command("migrate", uri=f"unix:{self.sockets}/migration")
            while (status := qmp.command("query-migrate")["status"]) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > begin + timeout:
                    raise HvaError(f"migration: {status} after {time.monotonic() - begin:.0f} s")
                time.sleep(0.1)
            while self.qmp.command("query-status")["status"] != "running":
                if time.monotonic() > begin + timeout:
                    raise HvaError("migration: the target does not run")
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
            control.close()
            shutil.rmtree(sockets, ignore_errors=True)
        return time.monotonic() - begin

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.sockets:
            shutil.rmtree(self.sockets, ignore_errors=True)

    def shutdown(self, timeout=20):
        """Power off in the guest; HvaError if that does not work."""
        self.send("poweroff -f")
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise HvaError("the guest did not power off") from None

    # --- commands in the guest -----------------------------------------------------

    def send(self, command):
        self.control.sendall(base64.b64encode(command.encode()) + b"\n")

    def receive(self, deadline, what):
        """More bytes of the control port; ends when the guest does, or its kernel complains."""
        self.control.settimeout(0.5)
        while True:
            try:
                data = self.control.recv(65536)
            except TimeoutError:
                data = None
            if data:
                self.buffer += data
                return
            if data == b"" or self.process.poll() is not None:
                raise HvaError(f"the guest died during {what}" + self.why())
            if time.monotonic() > deadline:
                raise HvaError(f"no answer in time from the guest during {what}" + self.why())

    def why(self):
        """What there is to know about a guest that does not answer; all registers go to registers.log."""
        splats = self.splats()
        if splats:
            return f": {splats[0]}"
        last = self.console().decode(errors="replace").strip().rpartition("\n")[2]
        return f"; {self.where()}; the console ends with: {last}"

    def where(self):
        if self.process.poll() is not None:
            return f"QEMU ended with status {self.process.returncode}"
        try:
            text = self.qmp.command("human-monitor-command", **{"command-line": "info registers -a"})
        except (HvaError, OSError) as err:
            return str(err)
        (self.results / "registers.log").write_text(text)
        return "PSWs " + ", ".join(re.findall(r"PSW=mask (\w+ addr \w+)", text))

    def readline(self, deadline, what):
        while b"\n" not in self.buffer:
            self.receive(deadline, what)
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def run(self, command, timeout=120):
        """(status, output) of a shell command in the guest."""
        self.send(command)
        return self.answer(command, timeout)

    def answer(self, command, timeout=120):
        """(status, output) of the command that was sent."""
        deadline = time.monotonic() + timeout
        status, size = self.readline(deadline, command).split()
        while len(self.buffer) < int(size):
            self.receive(deadline, command)
        output, self.buffer = self.buffer[:int(size)], self.buffer[int(size):]
        return int(status), output.decode(errors="replace")

    def check(self, command, timeout=120):
        """Output of a command that must succeed."""
        status, output = self.run(command, timeout)
        if status:
            raise HvaError(f"in the guest, status {status}: {command}: {output.strip()[-300:]}")
        return output

    def serve_host(self, sock):
        """Port org.page_hva.host: a line asks, a line of JSON answers."""
        file = sock.makefile("rwb")
        for line in file:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            try:
                if word == "reclaim":
                    answer = self.reclaim(int(rest) if rest else None)
                elif word == "states":
                    answer = self.states()
                elif word == "log":
                    self.lines.append(rest)
                    self.say(rest)
                    answer = {}
                else:
                    answer = {"error": f"unknown request {word}"}
            except (HvaError, ValueError, OSError) as err:
                answer = {"error": str(err)}
            try:
                file.write(json.dumps(answer).encode() + b"\n")
                file.flush()
            except OSError:
                return

    # --- the next kernel ------------------------------------------------------------

    def load_kernel(self, disk, how, kernel, append=""):
        """Load a kernel from disk number `disk`, a kernels_disk(): "load" for next_kernel(), "panic" for a panic."""
        self.check(f"mkdir -p /kernels; mount -t ext4 -o ro /dev/disk{disk} /kernels && "
                   f"kexec {how} /kernels/{kernel} /kernels/guest.cpio.gz '{self.cmdline} {append}'")

    def next_kernel(self, command="kexec start", seconds=60):
        """Send a command that ends this kernel; back when the next one is ready."""
        self.send(command)
        self.await_kernel(command, seconds)

    def await_kernel(self, command="kexec start", seconds=60):
        """Back when the kernel that `command`, already sent, has started is ready."""
        deadline = time.monotonic() + seconds
        while (line := self.readline(deadline, "the boot of the next kernel")) != b"ready":
            if re.fullmatch(rb"\d+ \d+", line):
                raise HvaError(f"{command} failed: {self.readline(deadline, command).decode(errors='replace')}")

    # --- figures --------------------------------------------------------------------

    def reclaim(self, size=None):
        return self.qmp.command("x-s390-reclaim-pages", **({} if size is None else {"bytes": size}))

    def states(self):
        return self.qmp.command("x-query-s390-page-states")

    def rss(self):
        """Resident memory of the QEMU process in bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Rss: +(\d+) kB", text, re.M).group(1)) * 1024

    def vmstat(self):
        return {k: int(v) for k, v in (line.split() for line in self.check("cat /proc/vmstat").splitlines())}

    def meminfo(self):
        """/proc/meminfo in pages."""
        return {k: int(v) * 1024 // PAGE for k, v in
                re.findall(r"^(\S+): +(\d+) kB", self.check("cat /proc/meminfo"), re.M)}

    def mode(self):
        """page_hva/mode of the guest, or "absent"."""
        return self.check("cat /sys/kernel/debug/page_hva/mode 2>/dev/null || echo absent").strip()

    def console(self):
        return self.console_path.read_bytes() if self.console_path.exists() else b""

    def settle(self, timeout=10):
        """Wait until everything the kernel has said so far is in console.log."""
        mark = f"hva-mark-{time.monotonic_ns()}"
        self.check(f"echo '<6>{mark}' >/dev/kmsg")
        end = time.monotonic() + timeout
        while mark.encode() not in self.console():
            if time.monotonic() > end:
                raise HvaError("the guest's console does not follow")
            time.sleep(0.05)

    def splats(self):
        """Lines of the console that must not be there."""
        console = re.sub(self.known_splat, b"", self.console()) if self.known_splat else self.console()
        return [line.decode(errors="replace").strip() for line in console.split(b"\n")
                if SPLAT.search(line) and not (self.expect_splat and re.search(self.expect_splat, line))]


STATES = ("stable", ("resident", "preserved", "zero")), ("unused", ("resident", "zero")), \
         ("volatile", ("resident", "zero")), ("potentially-volatile", ("resident",))


def state_table(states):
    """The eight states, in blocks, as lines of text."""
    lines = [f"{'':22}{'resident':>10}{'preserved':>11}{'zero':>10}"]
    for usage, contents in STATES:
        cells = [str(states.get(f"{usage}-{c}", 0)) if c in contents else "-"
                 for c in ("resident", "preserved", "zero")]
        lines.append(f"{usage:22}{cells[0]:>10}{cells[1]:>11}{cells[2]:>10}")
    return lines


def mib(size):
    return f"{size / 2**20:.1f} MiB"


# --- the guest's disk ---------------------------------------------------------------

# Without DIR=: these parts of the unpacked kernel source
DEFAULT_DIR = BUILD / "disk/default"
DEFAULT_PARTS = "drivers/net", "drivers/media", "fs", "net", "sound", "kernel", "mm"


def default_files():
    """A few hundred MiB of kernel source in DEFAULT_DIR, as hard links: no space, no time."""
    tree = BUILD / "tree/linux"
    if DEFAULT_DIR.is_dir():
        return
    if not tree.is_dir():
        raise HvaError("build/tree/linux is missing: run make tree first, or give DIR=")
    new = DEFAULT_DIR.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    for part in DEFAULT_PARTS:
        (new / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(tree / part, new / part, symlinks=True, copy_function=os.link)
    new.rename(DEFAULT_DIR)


@contextlib.contextmanager
def alone(what):
    """Tests that run side by side want the same disk at the same time: one of them makes it."""
    (BUILD / "lock").mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock" / what, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Disk:
    """An ext4 image with the files of a directory, and their manifest.

    Made once: as long as names, sizes and times in the directory are the same,
    the image is used again.
    """

    def __init__(self, source, size_mib, name="run", say=print):
        self.source, self.size_mib = Path(source), size_mib
        self.image = BUILD / "disk" / f"{name}.img"
        self.manifest = BUILD / "disk" / f"{name}.manifest"
        self.stamp = BUILD / "disk" / f"{name}.stamp"
        key, self.files, self.bytes = self.listing()
        with alone(f"disk-{name}"):
            if (self.stamp.exists() and self.stamp.read_text() == key
                    and self.image.exists() and self.manifest.exists()):
                return
            say(f"== making the guest's disk from {self.files} files, {mib(self.bytes)}, of {self.source}")
            self.make()
            if self.listing()[0] != key:
                raise HvaError(f"files in {self.source} changed while they were copied: run it again")
            self.stamp.write_text(key)

    def listing(self):
        """(key, files, bytes) of the directory; stops early when it cannot fit."""
        if not self.source.is_dir():
            raise HvaError(f"DIR={self.source} is not a directory")
        key = hashlib.sha256(f"{self.source.resolve()} {self.size_mib}".encode())
        files = total = blocks = 0
        for path, entry in walk(self.source):
            stat = entry.stat(follow_symlinks=False)
            key.update(f"{path}\0{stat.st_mode} {stat.st_size} {stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
            blocks += 1                                     # about what an inode and its name take
            if entry.is_file(follow_symlinks=False):
                if not os.access(entry.path, os.R_OK):
                    raise HvaError(f"DIR={self.source}: {path} cannot be read")
                files, total = files + 1, total + stat.st_size
                blocks += -(-stat.st_size // PAGE)
            if blocks * PAGE > 0.93 * self.size_mib * 2**20:
                raise HvaError(f"DIR={self.source} is larger than the guest's disk of {self.size_mib} MiB "
                               f"(DISK_MIB= makes the disk larger)")
        if not files:
            raise HvaError(f"DIR={self.source} has no files to read")
        self.entries = blocks
        return key.hexdigest(), files, total

    def make(self):
        self.stamp.unlink(missing_ok=True)
        self.image.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.image.parent).free
        if free < self.bytes * 1.1 + 64 * 2**20:
            raise HvaError(f"no space: the guest's disk needs {mib(self.bytes * 1.1)} in build/, {mib(free)} are free")
        try:
            with open(self.manifest, "wb") as out:
                command([OUT / "files", "sum", self.source], f"reading DIR={self.source}", stdout=out)
            self.image.unlink(missing_ok=True)
            # As many inodes as files need; -d copies without being root
            inodes = max(self.size_mib * 64, int(self.files * 1.2) + 1000)
            command(["mke2fs", "-q", "-t", "ext4", "-O", "verity", "-N", inodes, "-E", "root_owner=0:0",
                     "-d", self.source, self.image, f"{self.size_mib}m"], "making the guest's disk",
                    env=SBIN, stdout=subprocess.DEVNULL)
        except BaseException:
            self.image.unlink(missing_ok=True)
            self.manifest.unlink(missing_ok=True)
            raise


def scratch_disk(fs, size_mib=1024):
    """An empty file system for tests; made once, it stays empty."""
    image = BUILD / "disk" / f"scratch-{fs}-{size_mib}.img"
    image.parent.mkdir(parents=True, exist_ok=True)
    with alone(f"disk-{image.stem}"):
        if image.exists():
            return image
        new = image.with_suffix(".new")
        with open(new, "wb") as f:
            f.truncate(size_mib * 2**20)
        make = {"ext4": ["mke2fs", "-q", "-t", "ext4", "-O", "verity"], "xfs": ["mkfs.xfs", "-q"],
                "btrfs": ["mkfs.btrfs", "-q"]}[fs]
        command([*make, new], f"making an empty {fs}", env=SBIN, stdout=subprocess.DEVNULL)
        new.replace(image)
    return image


def kernels_disk(results, *images):
    """Kernels and the guest image, to be loaded by kexec."""
    top = results / "kernels"
    top.mkdir(parents=True)
    for name in (*images, "guest.cpio.gz"):
        (top / name).hardlink_to(OUT / name)
    image = results / "kernels.img"
    command(["mke2fs", "-q", "-t", "ext4", "-d", top, image, "64m"], "making kernels.img", env=SBIN,
            stdout=subprocess.DEVNULL)
    return image


SBIN = {**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"}


def command(args, what, **kwargs):
    """Run a program of the host; its last line explains a failure."""
    res = subprocess.run([str(a) for a in args], stderr=subprocess.PIPE, check=False, **kwargs)
    if res.returncode:
        text = res.stderr.decode(errors="replace").strip().split("\n")[-1]
        if "o space left" in text or "write block" in text:
            text = "no space left on device"
        raise HvaError(f"{what} failed: {text}")


def walk(top, below=""):
    """(relative path, DirEntry) of everything under a directory, in order."""
    try:
        entries = sorted(os.scandir(os.path.join(top, below)), key=lambda e: e.name)
    except OSError as err:
        raise HvaError(f"DIR={top}: {below or 'it'} cannot be read ({err.strerror})") from None
    for entry in entries:
        path = os.path.join(below, entry.name)
        yield path, entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(top, path)


def mount_files(guest, disk, broken=False):
    """Mount disk 0 on /mnt and put the manifest, disk 1, into /tmp/manifest."""
    guest.check("mount -t ext4 /dev/disk0 /mnt")
    guest.check(f"head -c {disk.manifest.stat().st_size} /dev/disk1 >/tmp/manifest; echo 3 >/proc/sys/vm/drop_caches")
    if broken:                                              # the negative control
        guest.check("sed -i 's/^0/1/;t;s/^./0/' /tmp/manifest")


def verify(guest, how, jobs=2, timeout=300, where="/mnt", manifest="/tmp/manifest"):
    """Compare all files with the manifest, by "read" or "mmap": (files, bytes, wrong, text)."""
    status, text = guest.run(f"files {how} {where} {manifest} {jobs}", timeout)
    found = re.search(r"^files (\d+) bytes (\d+) wrong (\d+)$", text, re.M)
    if not found or status > 1:
        raise HvaError(f"the guest could not read its files: {text.strip()[-300:]}")
    files, size, wrong = map(int, found.groups())
    return files, size, wrong, text
