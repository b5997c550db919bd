"""What the guest side costs, where that can be told exactly."""

import json
import os
import subprocess

from hva import BUILD, TOP
from run import limit

# pylint: disable=missing-function-docstring


def count_instructions():
    """(exit status, {operation: [[instructions, ESSA] of CONFIG=n, off, on, mapped]})"""
    res = subprocess.run([TOP / "bench/run", "ops"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(res.stdout)
    assert "goal" in res.stdout, res.stdout.strip().splitlines()[-1]
    newest = max((BUILD / "results").glob("bench-*/figures.json"), key=os.path.getmtime)
    return res.returncode, json.loads(newest.read_text())["ops"]


@limit(120, cores=1, needs="guest.kernel_config_off")
def test_instructions_per_operation(_):
    """Hot paths keep to the goal, execute no ESSA of ours, and the counter counts."""
    status, ops = count_instructions()
    assert status == 0, "an operation takes more instructions than the goal allows"
    for name, (base, _, *active) in ((n, f) for n, f in ops.items() if isinstance(f, list) and f[0]):
        for figure in active:
            assert figure[1] == base[1], f"{name} executes ESSA: {figure[1]}, without the option {base[1]}"
    for which in 2, 3:
        assert ops["volatile_4k"][which][1] == 1 and ops["discarded_4k"][which][1] > 1, ops
