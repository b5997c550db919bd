"""Other kernels: one with checkers (lockdep, DEBUG_VM, sleeping in atomic context), a small one; make check-debug."""

import hva
from hva import TOP
import tap
from run import limit
from guest_tests import HOSTS, io_errors, kselftests, kunit
from paths_tests import boot_with

# pylint: disable=missing-function-docstring


@limit(2400)
def test_kselftest_eager_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-debug", mem=768, timeout=1200)


@limit(2400)
def test_kselftest_demand_xfs(ctx):
    kselftests(ctx, cpus=2, discard="demand", fs="xfs", kernel="bzImage-debug", mem=768, timeout=1200)


@limit(2400)
def test_kselftest_eager_4_cpus_unmapped(ctx):
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-debug", mem=768, timeout=1200, append="page_hva=on")


@limit(2400)
def test_kselftest_full_eager_4_cpus(ctx):
    """Memory without a file, too."""
    kselftests(ctx, cpus=4, discard="eager", kernel="bzImage-debug", mem=768, timeout=1200, append="page_hva=full", short=True)


@limit(2400)
def test_kselftest_full_demand_2_cpus(ctx):
    kselftests(ctx, cpus=2, discard="demand", fs="xfs", kernel="bzImage-debug", mem=768, timeout=1200, append="page_hva=full",
               short=True)


@limit(600)
def test_kselftest_small_kernel(ctx):
    """Without modules, memory cgroups, multi-generational LRU and huge pages."""
    kselftests(ctx, cpus=2, discard="eager", kernel="bzImage-small")


@limit(240, cores=1)
def test_boot_small_kernel(ctx):
    """And what page_hva= makes of it: KUnit, files right before and after a discard."""
    for mode in "on", "mapped", "full":
        for host in HOSTS:
            kunit(ctx, mode, *host, kernel="bzImage-small")
        if boot_with(ctx, mode, f"page_hva={mode}", mode, cpus=4, discard="eager", mem=256, kernel="bzImage-small") is not None:
            ctx.part(mode, "pass")


@limit(600)
def test_io_errors(ctx):
    io_errors(ctx, "ext4", cpus=4, discard="eager", kernel="bzImage-debug", mem=768)


@limit(900, cores=1)
def test_kselftest_whole_demand_1_cpu(ctx):
    """make check has these without the stress."""
    kselftests(ctx, cpus=1, discard="demand")


@limit(900, cores=1)
def test_kselftest_whole_eager_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="eager")


@limit(900, cores=1)
def test_kselftest_whole_random_1_cpu(ctx):
    kselftests(ctx, cpus=1, discard="random,1")


@limit(900, cores=1)
def test_kselftest_whole_demand_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="demand")


@limit(900, cores=1)
def test_kselftest_whole_random_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="random,2")


@limit(900, cores=1)
def test_kselftest_whole_eager_xfs(ctx):
    kselftests(ctx, cpus=2, discard="eager", fs="xfs")


@limit(900, cores=1)
def test_kselftest_full_demand_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="demand", append="page_hva=full", short=True)


@limit(900, cores=1)
def test_kselftest_lazyfree_eager_4_cpus(ctx):
    """make check has it with demand and one CPU, and these within page_hva=full."""
    kselftests(ctx, cpus=4, discard="eager", append="page_hva=lazyfree", only=("lazyfree_test", "-f lazyfree"))


@limit(900, cores=1)
def test_kselftest_lazyfree_random_4_cpus(ctx):
    kselftests(ctx, cpus=4, discard="random,3", append="page_hva=lazyfree", only=("lazyfree_test", "-f lazyfree"))


@limit(600)
def test_model_harmless(ctx):
    """What looks like a mistake in a model, and is none; make check has the mistakes."""
    tap.run(ctx, [TOP / "tests/model/run.sh", "--harmless"])


def test_the_checkers_are_awake(ctx):
    """Control: they see a fault, so they would see another."""
    with hva.Guest(ctx.results, kernel="bzImage-debug") as g:
        for name in "PROVE_LOCKING", "DEBUG_VM", "DEBUG_ATOMIC_SLEEP":
            g.check(f"zcat /proc/config.gz | grep -qx CONFIG_{name}=y")
        assert int(g.check("grep -c . /proc/lockdep_chains")) > 1000
        assert "debug_locks: 1" in " ".join(g.check("cat /proc/lockdep_stats").split()), "lockdep has given up"
        g.shutdown()
        assert not g.splats(), g.splats()[0]
