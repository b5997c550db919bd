"""Programs that speak TAP, as parts of a test."""

import re
import subprocess


def report(ctx, text, status=0, program="the program"):
    """Every result line becomes a part; a plan that is not kept or a bad status, too."""
    plan, seen, failed = None, 0, 0
    for line in text.splitlines():
        m = re.match(r"(ok|not ok) (\d+)\s*(?:- )?(.*)", line)
        if not m:
            m = re.match(r"1\.\.(\d+)", line)
            if m:
                plan = int(m.group(1))
            continue
        name, _, directive = m.group(3).partition("# ")
        seen += 1
        result = "pass" if m.group(1) == "ok" else "fail"
        if directive.upper().startswith("SKIP"):
            result = "skip"
        failed += result == "fail"
        ctx.part(re.sub(r"[^A-Za-z0-9_.,:=+-]+", "_", name.strip() or m.group(2)).strip("_"), result,
                 directive.strip() if result == "skip" else "")
    assert plan is not None and seen, f"{program} reported no results (status {status}): {text[-300:]}"
    assert seen == plan, f"{program} announced {plan} results and gave {seen} (status {status})"
    assert status == 0 or failed, f"{program} ended with status {status}"


def run(ctx, command, **kwargs):
    """Run a program on the host."""
    res = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **kwargs)
    print(res.stdout)
    report(ctx, res.stdout, res.returncode)
