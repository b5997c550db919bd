"""Tests of the test harness: it must notice what goes wrong."""

import os
import subprocess
import time

from run import Skip, limit, run_all
from hva import Guest, HvaError

# pylint: disable=missing-function-docstring


def collect(ctx, *functions, seconds=2):
    """Counts and lines of a nested run of some functions as tests, one after the other."""
    lines = []
    tests = [(f"{ctx.name}/{f.__name__}", limit(seconds)(f)) for f in functions]
    counts = run_all(tests, lines.append)
    return counts, "\n".join(lines)


def test_pass_fail_skip_are_told_apart(ctx):
    def good(_): pass
    def bad(_): assert False, "reason"
    def odd(_): raise KeyError("x")
    def skip(_): raise Skip("no machine")
    counts, text = collect(ctx, good, bad, odd, skip)
    assert counts == (1, 2, 1), text
    assert "reason" in text and "no machine" in text


def test_hang_is_a_failure_and_leaves_nothing(ctx):
    marker = ctx.results / "pid"
    def hang(_):
        pid = os.fork()
        if pid:
            marker.write_text(str(pid))
        time.sleep(60)
    counts, text = collect(ctx, hang, seconds=1)
    assert counts == (0, 1, 0) and "longer than" in text, text
    must_end(marker.read_text())


def test_hang_ends_what_its_shells_started(ctx):
    """In groups of their own, as step in scripts/lib.sh does."""
    marker = ctx.results / "pid"
    def hang(_):
        subprocess.run(["bash", "-c", f"set -m; sleep 60 & echo $! >{marker}; trap 'kill -- -$!' EXIT; wait"], check=False)
    counts, text = collect(ctx, hang, seconds=1)
    assert counts == (0, 1, 0), text
    must_end(marker.read_text().strip())


def must_end(pid):
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end, "a process was left"
        time.sleep(0.05)


def test_order_of_tests(ctx):
    """Whoever needs another test waits for it; nothing begins beside a test that wants the whole machine."""
    order = ctx.results / "order"
    def note(name, seconds=0.0):
        def function(_):
            with open(order, "a", encoding="utf-8") as out:
                out.write(name + " ")
            time.sleep(seconds)
            with open(order, "a", encoding="utf-8") as out:
                out.write(name.upper() + " ")
        return function
    run_all([("a", limit(9, cores=2)(note("a", 0.3))),
             ("b", limit(9, cores=0)(note("b", 0.9))),
             ("c", limit(9, cores=1, needs="b")(note("c"))),
             ("d", limit(9, cores=2)(note("d", 0.3)))], lambda _: None)
    assert order.read_text().split() in ("a A b d D B c C".split(), "a A d b D B c C".split()), order.read_text()


def alive(pid):
    """Neither gone nor a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().split()[2] != "Z"
    except OSError:
        return False


def test_crash_is_a_failure(ctx):
    def crash(_): os.kill(os.getpid(), 11)
    def leave(_): os._exit(0)
    counts, text = collect(ctx, crash, leave)
    assert counts == (0, 2, 0), text


def test_parts_are_counted(ctx):
    def parts(c):
        c.part("a", "pass")
        c.part("b", "fail", "why")
        c.part("c", "skip", "why not")
    assert collect(ctx, parts)[0] == (1, 1, 1)


def test_splat_on_console_is_seen(ctx):
    with Guest(ctx.results) as g:
        g.settle()
        assert not g.splats(), g.splats()
        g.check("echo '<4>WARNING: CPU: 0 PID: 1 at mm/x.c:1 f+0x1/0x2' >/dev/kmsg")
        g.settle()
        assert g.splats(), "a WARNING on the console went unnoticed"


def test_guest_panic_is_noticed(ctx):
    with Guest(ctx.results) as g:
        try:
            g.run("echo c >/proc/sysrq-trigger", timeout=20)
        except HvaError as err:
            assert "died" in str(err) and "panic" in str(err), err
        else:
            raise AssertionError("a panic went unnoticed")


def test_guest_that_hangs_is_given_up(ctx):
    with Guest(ctx.results) as g:
        try:
            g.run("sleep 1000", timeout=2)
        except HvaError as err:
            assert "in time" in str(err), err
        else:
            raise AssertionError("no timeout")


def test_failing_command_is_reported(ctx):
    with Guest(ctx.results) as g:
        assert g.run("echo out; exit 7") == (7, "out\n")
        try:
            g.check("false")
        except HvaError:
            return
        raise AssertionError("status ignored")
