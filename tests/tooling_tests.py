"""Tests of the scripts: patches <-> commits, and bad input."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import hva
from hva import TOP, BUILD
from run import limit

# pylint: disable=missing-function-docstring

GIT = {"GIT_AUTHOR_NAME": "A Developer", "GIT_AUTHOR_EMAIL": "dev@example.org",
       "GIT_COMMITTER_NAME": "A Developer", "GIT_COMMITTER_EMAIL": "dev@example.org"}


def sh(cmd, cwd, *, env=None, ok=True, timeout=100):
    """Run a shell command; ok: must it succeed?  Returns its output."""
    res = subprocess.run(["bash", "-c", cmd], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**os.environ, **GIT, **(env or {})}, check=False, timeout=timeout)
    print(f"$ {cmd}\n{res.stdout}-> {res.returncode}")
    assert (res.returncode == 0) == ok, f"{cmd}: status {res.returncode}: {res.stdout.strip()[-300:]}"
    return res.stdout


def sentence(text, *words):
    """The output ends with one error sentence that has these words in it, and no traceback."""
    errors = [line for line in text.splitlines() if "error:" in line]
    assert len(errors) == 1 and "Traceback" not in text, f"not one clear sentence: {text}"
    for word in words:
        assert word in errors[0], f"{word!r} is not in: {errors[0]}"


class Repo:
    """A copy of this repository's scripts around a tiny "kernel" of three files."""

    def __init__(self, ctx):
        self.top = ctx.results / "repo"
        (self.top / "build/tree").mkdir(parents=True)
        for item in ".gitignore", "scripts", "sources.mk", "configs", "Makefile", "tests":
            src = TOP / item
            (shutil.copytree if src.is_dir() else shutil.copy)(src, self.top / item)
        sh("git init -q . && git add . && git commit -q -m project", self.top)
        self.tree = self.top / "build/tree/linux"
        (self.tree / "mm").mkdir(parents=True)
        (self.tree / "mm/filemap.c").write_text("".join(f"line {n}\n" for n in range(100)))
        (self.tree / "mm/Kconfig").write_text("config A\n")
        (self.tree / "old.c").write_text("old\n")
        sh("git init -q -b page-hva . && git config core.excludesfile /dev/null && git add -A -f && "
           "git commit -q -m 'base: tiny 1' && git tag base", self.tree)

    def write(self, path, text, executable=False):
        target = self.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        if executable:
            target.chmod(0o755)

    def edit(self, number, text):
        lines = (self.tree / "mm/filemap.c").read_text().splitlines()
        lines[number] = text
        (self.tree / "mm/filemap.c").write_text("\n".join(lines) + "\n")

    def commit(self, subject, body="Why.\n\nSigned-off-by: A Developer <dev@example.org>"):
        message = f"{subject}\n\n{body}\n"
        (self.top / "build/message").write_text(message)
        sh("git add -A -f && git commit -q -F ../../message", self.tree)

    def series(self, command, ok=True, **env):
        return sh(f"scripts/series {command} linux", self.top, ok=ok, env=env)

    def three_commits(self):
        self.write("mm/new.c", "int new;\n")
        self.write("mm/Kconfig", "config A\nconfig B\n")
        self.commit("mm: add the option")
        self.edit(10, "hook")
        self.write("tools/check.sh", "#!/bin/sh\n", executable=True)
        self.commit("mm: hook it up: \"quotes\", umlauts äöü, 50 %", "Two\nparagraphs.\n\n  indented --- text\n\n"
                    "Link: https://example.org/\nSigned-off-by: A Developer <dev@example.org>")
        self.edit(50, "another hook")
        (self.tree / "old.c").unlink()
        self.commit("mm: and the other place")
        self.series("refresh")

    def snapshot(self):
        return sh("git add -A . && git write-tree", self.top)

    def tree_id(self):
        return sh("git rev-parse 'HEAD^{tree}'", self.tree)


@limit(120, cores=1)
def test_round_trip_is_the_identity(ctx):
    r = Repo(ctx)
    r.three_commits()
    tree, repo = r.tree_id(), r.snapshot()
    assert (r.top / "mm/new.c").read_text() == "int new;\n"
    assert os.access(r.top / "tools/check.sh", os.X_OK), "the executable bit was lost"
    patch = (r.top / "patches/linux/0002-mm-hook-it-up-quotes-umlauts-50.patch").read_text()
    assert "New-file: tools/check.sh\n---\n" in patch and "index " not in patch, patch
    assert "tools/check.sh" not in patch.split("\n---\n")[1], "content of a new file is stored twice"
    r.series("tree")
    assert r.tree_id() == tree
    assert "New-file" not in sh("git log", r.tree)
    tip = sh("git rev-parse HEAD", r.tree)
    r.series("refresh")
    assert r.snapshot() == repo, "refresh after tree changed the repository"
    r.series("tree")
    assert sh("git rev-parse HEAD", r.tree) == tip, "the same patches give another commit"


@limit(120, cores=1)
def test_tree_only_touches_changed_files(ctx):
    r = Repo(ctx)
    r.three_commits()
    os.utime(r.tree / "mm/Kconfig", (1, 1))
    (r.top / "mm/new.c").write_text("int newer;\n")
    r.series("tree")
    assert (r.tree / "mm/new.c").read_text() == "int newer;\n"
    assert (r.tree / "mm/Kconfig").stat().st_mtime == 1, "an unchanged file was written"


@limit(120, cores=1)
def test_mbox_gives_the_same_tree_with_git_am(ctx):
    r = Repo(ctx)
    r.three_commits()
    (r.top / "patches/linux/cover-letter").write_text("The cover\n\nAll of it.\n")
    r.series("mbox")
    mbox = (r.top / "build/series/linux.mbox").read_text()
    assert "[PATCH 0/3] The cover" in mbox and "New-file" not in mbox and "All of it." in mbox
    sh(f"git clone -q {r.tree} am && cd am && git reset -q --hard refs/tags/base && "
       "git mailsplit -o.. ../build/series/linux.mbox && git am -q ../0002 ../0003 ../0004", r.top)
    assert sh("git rev-parse 'HEAD^{tree}'", r.top / "am") == r.tree_id()


@limit(120, cores=1)
def test_patch_that_does_not_apply(ctx):
    r = Repo(ctx)
    r.three_commits()
    path = r.top / "patches/linux/0003-mm-and-the-other-place.patch"
    good, head = path.read_text(), r.tree_id()
    path.write_text(good.replace(" line 51\n", " line 51 other\n"))         # context: fuzz would accept it
    sentence(r.series("tree", ok=False), "0003-mm-and-the-other-place.patch", "does not apply", "mm/filemap.c")
    assert r.tree_id() == head and not sh("git status --porcelain", r.tree), "the old state did not stay"
    path.write_text(good)
    r.series("tree")


@limit(120, cores=1)
def test_work_in_the_worktree_is_never_lost(ctx):
    r = Repo(ctx)
    r.three_commits()
    r.edit(70, "work")
    sentence(r.series("tree", ok=False), "uncommitted")
    sentence(r.series("refresh", ok=False), "uncommitted")
    r.commit("mm: more work")
    sentence(r.series("tree", ok=False), "make refresh first")
    assert "as it is" in r.series("ensure")
    r.series("refresh")
    r.series("tree")
    assert "work" in (r.tree / "mm/filemap.c").read_text()


@limit(120, cores=1)
def test_hand_changes_in_the_repository_are_never_lost(ctx):
    r = Repo(ctx)
    r.three_commits()
    (r.top / "mm/new.c").write_text("int by_hand;\n")
    r.edit(70, "work")
    r.commit("mm: more work")
    assert "mm/new.c" in r.series("refresh")                                # other files: goes on, tells
    assert (r.top / "mm/new.c").read_text() == "int by_hand;\n"
    r.write("mm/new.c", "int both;\n")
    r.commit("mm: the same file")
    repo = r.snapshot()
    sentence(r.series("refresh", ok=False), "mm/new.c", "by hand")
    assert r.snapshot() == repo, "something was written"
    r.series("refresh", FORCE="1")
    assert (r.top / "mm/new.c").read_text() == "int both;\n"


@limit(120, cores=1)
def test_commits_that_cannot_be_patches(ctx):
    r = Repo(ctx)
    r.three_commits()
    r.edit(70, "work")
    r.commit("fixup! mm: add the option")
    sentence(r.series("refresh", ok=False), "squash")
    sh("git reset -q --hard HEAD^", r.tree)
    r.write("scripts/tool", "x\n")
    r.commit("scripts: a new file where our own scripts lie")
    sentence(r.series("refresh", ok=False), "scripts/tool")


@limit(120, cores=1)
def test_stale_files_go_with_their_patch(ctx):
    r = Repo(ctx)
    r.three_commits()
    sh("git reset -q --hard HEAD~2", r.tree)
    r.series("refresh")
    assert [p.name for p in (r.top / "patches/linux").glob("*.patch")] == ["0001-mm-add-the-option.patch"]
    assert not (r.top / "tools/check.sh").exists() and (r.top / "mm/new.c").exists()


@limit(120, cores=1)
def test_check_finds_files_no_patch_names(ctx):
    r = Repo(ctx)
    r.three_commits()
    (r.top / "mm/forgotten.c").write_text("x\n")
    (r.top / "patches/linux/0009-forgotten.patch").write_text("x\n")
    out = r.series("check", ok=False)
    assert "new file mm/forgotten.c is named by no patch" in out, out
    assert "0009-forgotten.patch is not in the series" in out, out


# --- the real series ---------------------------------------------------------------


@limit(300, cores=1)
def test_linux_series_is_in_order(_):
    sh("scripts/series check linux", TOP, timeout=290)


@limit(300, cores=1)
def test_qemu_series_is_in_order(_):
    sh("scripts/series check qemu", TOP, timeout=290)


# --- set-up: bad input ----------------------------------------------------------------


class Fresh:
    """A copy of the scripts without anything built; programs can be replaced."""

    def __init__(self, ctx):
        self.top = ctx.results / "fresh"
        self.bin = ctx.results / "bin"
        self.top.mkdir()
        self.bin.mkdir()
        for item in "scripts", "sources.mk", "configs", "tests", "bench":
            src = TOP / item
            (shutil.copytree if src.is_dir() else shutil.copy)(src, self.top / item)

    def replace(self, program, script):
        path = self.bin / program
        path.write_text("#!/bin/bash\n" + script)
        path.chmod(0o755)

    def setup(self, **env):
        """scripts/setup must fail; its output."""
        out = sh("scripts/setup", self.top, ok=False, timeout=100,
                 env={"PATH": f"{self.bin}:{os.environ['PATH']}", **env})
        assert not (self.top / "build/tree/linux").exists() and not (self.top / "build/stamp/apt").exists()
        return out


@limit(120, cores=1)
def test_setup_wrong_architecture(ctx):
    f = Fresh(ctx)
    f.replace("dpkg", "echo arm64\n")
    sentence(f.setup(), "amd64", "arm64")


@limit(120, cores=1)
def test_setup_wrong_distribution(ctx):
    f = Fresh(ctx)
    release = ctx.results / "os-release"
    release.write_text('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"\n')
    sentence(f.setup(OS_RELEASE=str(release)), "Debian 12 or 13", "Ubuntu 24.04")


@limit(120, cores=1)
def test_setup_no_network(ctx):
    f = Fresh(ctx)
    # A machine whose mirror does not answer: nobody listens on port 9
    f.replace("apt-get", 'exec /usr/bin/apt-get -o Acquire::http::Proxy=http://127.0.0.1:9 '
              '-o Acquire::https::Proxy=http://127.0.0.1:9 -o Acquire::Retries=0 "$@"\n')
    sentence(f.setup(), "no network", "log")


@limit(120, cores=1)
def test_setup_no_space(ctx):
    f = Fresh(ctx)
    f.replace("df", "echo Avail; echo 12\n")
    sentence(f.setup(), "no space", "12 MiB")


@limit(120, cores=1)
def test_wrong_source_versions(ctx):
    f = Fresh(ctx)
    linux, qemu = ctx.results / "linux", ctx.results / "qemu"
    linux.mkdir()
    (linux / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 7\n")
    qemu.mkdir()
    (qemu / "VERSION").write_text("9.2.0\n")
    sentence(f.setup(LINUX_SRC=str(linux)), "6.1.7", "LINUX_SRC")
    sentence(f.setup(QEMU_SRC=str(qemu)), "9.2.0", "QEMU_SRC")
    sentence(f.setup(LINUX_SRC="/nonexistent"), "LINUX_SRC", "readable")


# --- a step that fails, or is interrupted ------------------------------------------------

STEP = "source scripts/lib.sh; step 'a step (1 minute)' step.log "


@limit(120, cores=1)
def test_failed_step_names_its_log(ctx):
    f = Fresh(ctx)
    sentence(sh(STEP + "bash -c 'echo cause; exit 3'", f.top, ok=False), "build/log/step.log", "a step")
    assert (f.top / "build/log/step.log").read_text() == "cause\n"
    sentence(sh(STEP + "bash -c 'echo cc1: No space left on device; exit 1'", f.top, ok=False), "no space")


@limit(120, cores=1)
def test_interrupted_step_leaves_no_process(ctx):
    f = Fresh(ctx)
    # A function with a child, as kbuild is one
    with subprocess.Popen(["bash", "-c", "source scripts/lib.sh; job() { sleep 61.5; echo; }; "
                           "step 'a step (1 minute)' step.log job"], cwd=f.top) as p:
        assert becomes(1), "the step does not begin"
        p.send_signal(signal.SIGTERM)
    assert becomes(0), "the step's processes run on"


def becomes(number):
    """Is there soon this number of processes "sleep 61.5"?"""
    end = time.monotonic() + 10
    while sleepers() != number:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def sleepers():
    count = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):                  # it may have ended
            count += Path(f"/proc/{process}/cmdline").read_bytes() == b"sleep\x0061.5\0"
    return count


@limit(120, cores=1)
def test_interrupted_build_goes_on(ctx):
    f = Fresh(ctx)
    (f.top / "build").mkdir()
    for shared in "dl", "tree", "apt":
        (f.top / "build" / shared).symlink_to(BUILD / shared)
    # Who runs the tests in the background may have them ignore SIGINT
    with subprocess.Popen(["env", "--default-signal=INT", "scripts/guest"], cwd=f.top, start_new_session=True) as p:
        while not (f.top / "build/guest/root").exists() and p.poll() is None:
            time.sleep(0.01)                                # it has begun
        while p.poll() is None:
            p.send_signal(signal.SIGINT)
            time.sleep(0.1)
    assert not (f.top / "build/stamp/guest").exists(), "too slow to interrupt it"
    sh("scripts/guest", f.top)
    assert (f.top / "build/out/guest.cpio.gz").stat().st_size > 2**20
    assert "up to date" in sh("scripts/guest", f.top)


# --- the files of DIR ------------------------------------------------------------------------


def disk_error(ctx, source, size=64, **kwargs):
    """The sentence hva.Disk says to this directory; nothing may be left."""
    name = f"test-{ctx.results.name}"
    try:
        hva.Disk(source, size, name=name, **kwargs)
    except hva.HvaError as err:
        left = [p.name for p in (BUILD / "disk").glob(name + "*")]
        assert not left, f"left behind: {left}"
        assert "\n" not in str(err)
        return str(err)
    raise AssertionError("accepted")


@limit(120, cores=1)
def test_dir_that_cannot_be_used(ctx):
    file = ctx.results / "file"
    file.write_text("x")
    assert "not a directory" in disk_error(ctx, file)
    assert "not a directory" in disk_error(ctx, ctx.results / "none")
    empty = ctx.results / "empty"
    empty.mkdir()
    assert "no files" in disk_error(ctx, empty)


@limit(120, cores=1)
def test_dir_larger_than_the_disk(ctx):
    big = ctx.results / "big"
    big.mkdir()
    with open(big / "sparse", "wb") as f:
        f.truncate(70 * 2**20)
    assert "larger than" in disk_error(ctx, big)
    (big / "sparse").unlink()
    for n in range(20000):
        (big / str(n)).touch()
    assert "larger than" in disk_error(ctx, big)


@limit(120, cores=1)
def test_unreadable_dir(ctx):
    with tempfile.TemporaryDirectory() as tmp:              # where nobody can go, too
        os.chmod(tmp, 0o755)
        shutil.copytree(TOP / "scripts", f"{tmp}/scripts", ignore=shutil.ignore_patterns("__pycache__"))
        for name, mode in ("file", 0o000), ("dir", 0o000):
            top = Path(tmp, f"unreadable-{name}")
            top.mkdir()
            (top / "sub").mkdir()
            (top / "sub/x").write_text("x")
            os.chmod(top / ("sub/x" if name == "file" else "sub"), mode)
            code = (f"import sys; sys.path.insert(0, '{tmp}/scripts'); import hva\n"
                    f"try: hva.Disk('{top}', 64)\nexcept hva.HvaError as e: sys.exit('error: ' + str(e))")
            drop = ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []
            res = subprocess.run([*drop, hva_python(), "-c", code], capture_output=True, text=True, check=False)
            assert res.returncode == 1, res
            sentence(res.stderr, "cannot be read", "sub")
            os.chmod(top / ("sub/x" if name == "file" else "sub"), 0o755)


def hva_python():
    return "/usr/bin/python3"


@limit(120, cores=1)
def test_manifest_program_is_xxh64_and_finds_a_changed_byte(ctx):
    files = ctx.results / "files"
    files.mkdir()
    (files / "empty").touch()
    (files / "abc").write_text("abc")
    data = bytes(range(256)) * 1031 + b"odd"
    (files / "big").write_bytes(data)
    program, manifest = hva.OUT / "files", ctx.results / "manifest"
    sh(f"{program} sum {files} >{manifest}", ctx.results)
    text = manifest.read_text()
    assert "ef46db3751d8e999 0 empty" in text and "44bc2cf5ad770999 3 abc" in text, text     # published values
    for how in "read", "mmap":
        assert "files 3" in sh(f"{program} {how} {files} {manifest} 2", ctx.results)
    for position in 0, 4095, 65536, len(data) - 1:
        (files / "big").write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1:])
        for how in "read", "mmap":
            assert "WRONG big" in sh(f"{program} {how} {files} {manifest}", ctx.results, ok=False)
