"""Builds: what the option must not change, and the scripts themselves."""

import re
import subprocess

from hva import BUILD, TOP
from run import limit
import tap

# pylint: disable=missing-function-docstring

TREE = BUILD / "tree/linux"


def sh(cmd, cwd=TOP):
    res = subprocess.run(["bash", "-o", "pipefail", "-c", cmd], cwd=cwd, text=True, check=False,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(f"$ {cmd}\n{res.stdout}-> {res.returncode}", flush=True)
    assert res.returncode == 0, f"{cmd}: {res.stdout.strip()[-300:]}"
    return res.stdout


def test_shell_scripts(_):
    sh("shellcheck scripts/lib.sh $(grep -lE '^#!/bin/(ba)?sh' scripts/* tests/* tests/*/* .ci/* 2>/dev/null)")


@limit(needs="guest.kernel_config_off")
def test_the_two_kernels_differ_in_one_option(_):
    configs = [set((BUILD / f"obj/linux-{v}/.config").read_text().splitlines()) for v in ("on", "off")]
    differ = [line for line in configs[0] ^ configs[1] if "CONFIG_" in line]
    assert differ and all("PAGE_HVA" in line for line in differ), differ
    assert "CONFIG_PAGE_HVA=y" in configs[0] and not any(re.match("CONFIG_PAGE_HVA=", c) for c in configs[1])


@limit(needs="guest.kernel_config_off")
def test_no_compiler_warnings_in_our_files(_):
    ours = set(sh("git diff --name-only refs/tags/base", TREE).split())
    for log in "linux-on.log", "linux-off.log":
        for line in (BUILD / "log" / log).read_text(errors="replace").splitlines():
            hit = re.match(r"\S*?([a-z][\w/.-]+\.[chS]):\d+:\d+: warning:", line)
            assert not hit or not any(hit.group(1).endswith(f) for f in ours), line


@limit(1500, cores=1, needs="guest.kernel_config_off")
def test_option_off_changes_no_code(ctx):
    """What the series touches, for s390 and x86_64: the code is that of the base."""
    tap.run(ctx, [TOP / "tests/same-object", "s390", "x86_64"])


def test_every_hook_has_a_switch(_):
    """A hook that tests/hooks does not know, or finds no more, has no negative control."""
    sh("tests/hooks -l")
