"""The protocol's model, and the host's half without Linux."""

import os
import sys

from hva import BUILD, TOP
from run import limit
import tap

# pylint: disable=missing-function-docstring


@limit(600)
def test_model(ctx):
    tap.run(ctx, [TOP / "tests/model/run.sh"])


@limit(120, cores=1)
def test_qtest(ctx):
    """QEMU's own tests of its QMP and HMP commands, ours among them."""
    env = {**os.environ, "QTEST_QEMU_BINARY": str(BUILD / "out/qemu-system-s390x")}
    for name in "s390-cmm-test", "qmp-cmd-test", "test-hmp":
        tap.run(ctx, [BUILD / "obj/qemu/tests/qtest" / name, "--tap", "-k"], env=env)


@limit(120, cores=1)
def test_functional(ctx):
    """QEMU's functional test of ours."""
    tree = BUILD / "tree/qemu"
    env = {**os.environ, "QEMU_TEST_QEMU_BINARY": str(BUILD / "out/qemu-system-s390x"),
           "QEMU_BUILD_ROOT": str(ctx.results), "PYTHONPATH": os.pathsep.join(str(p) for p in (
               tree / "python", tree / "tests/functional", BUILD / "host/python/usr/lib/python3/dist-packages"))}
    tap.run(ctx, [sys.executable, tree / "tests/functional/test_s390x_cmm.py"], env=env)


@limit(400, cores=1)
def test_bare_metal(ctx):
    """ESSA, access checks and the discard fault without an operating system."""
    tap.run(ctx, [TOP / "scripts/qemu-tests"])


# It measures how long the guest stands still: not beside the build of a kernel
@limit(400, needs="guest.kernel_config_off")
def test_qemu(ctx):
    """QMP, reclaim in a running guest, migration, resets, limits."""
    tap.run(ctx, [TOP / "scripts/qemu-host-tests"])


@limit(600)
def test_qemu_regressions(ctx):
    """Defects of QEMU that only a review has found: EXECUTE, dirty tracking, BARs, icount, KIMD, postcopy."""
    tap.run(ctx, [TOP / "tests/qemu/regressions"])
