"""bench/run lazyfree: what it costs to free a page with MADV_FREE and to use it again, see lazyfree.c.

One boot a mode under -icount counts instructions: the same on every machine. Guests with two CPUs, which take turns,
measure the time.
"""

import collections
import os
import statistics
import time

import hva
from common import CROSS, HERE, finish, offered, plugin, sanity
from hva import BUILD, Guest, HvaError

MODES = "mapped", "lazyfree", "full"
PAGES, ROUNDS = 2048, 5
MEMORY = 256                # MiB; what the scanner needs for all of it is subtracted

PATTERNS = {
    "kept": "control: not freed, stored to. Scan: three passes over all memory, as a share of each page",
    "dontneed": "for comparison: freed with MADV_DONTNEED, stored to",
    "reuse": "freed, stored to at once",
    "offered": "freed, the scanner makes it volatile, stored to, nothing was dropped",
    "dropped": "freed, the scanner makes it volatile, the host drops it, stored to",
    "unmapped": "freed, the scanner makes it volatile, unmapped",
    "exited": "freed, the scanner makes it volatile, the program exits (unmap: exit and wait)",
}
PHASES = "free", "scan", "store", "scan-again", "unmap"
COUNTS = "instructions", *(f"essa{n}" for n in range(8)), "iske", "sske", "rrbe", "ipte", "flush"
# Columns of the report: heading, figure, width, decimals
COLUMNS = (("instructions", "instructions", 14, 1), ("faults", "minflt", 8, 2), ("ESSA", "essa", 8, 2), ("ISKE", "iske", 8, 2),
           ("SSKE", "sske", 8, 2), ("RRBE", "rrbe", 8, 2), ("IPTE", "ipte", 8, 2), ("flushes", "flush", 9, 2), ("ns", "ns", 8, 0))


def build():
    """The program, as a disk."""
    program = BUILD / "bench/lazyfree"
    program.parent.mkdir(exist_ok=True)
    hva.command([f"{CROSS}gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-march=z13", "-o", program,
                 HERE / "lazyfree.c"], "building lazyfree.c")
    with open(program, "ab") as file:
        file.truncate(-(-program.stat().st_size // 4096) * 4096)
    return program


def run(report, results, mode, program, **kwargs):
    """What the program says: [(pattern, phase, {figure: value})], [(pattern, when, {kind: pages})]"""
    with Guest(results, kernel=report.kernel, page_hva=mode, mem=MEMORY, disks=[program], **kwargs) as g:
        g.check("cat /dev/disk0 >/tmp/lazyfree; chmod +x /tmp/lazyfree")
        text = g.check(f"/tmp/lazyfree {PAGES} {ROUNDS}", timeout=1200)
        (results / "lazyfree.out").write_text(text)
        finish(g)
    phases, looks = [], []
    for line in text.splitlines():
        kind, pattern, _, name, *rest = line.split()
        (phases if kind == "phase" else looks).append((pattern, name, {k: int(v) for k, v in (w.split("=") for w in rest)}))
    return phases, looks


def counted(report, mode, program, library):
    """The same under -icount, with what the plugin has counted."""
    results = report.results / f"lazyfree-{mode}"
    counts = results / "counts"
    results.mkdir()
    phases, looks = run(report, results, mode, program, cpus=1, thread="single", append="norandmaps nokaslr",
                        extra=["-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-plugin", f"{library},out={counts}"])
    lines = [list(map(int, line.split())) for line in counts.read_text().splitlines()]
    if [PHASES[line[0]] for line in lines] != [name for _, name, _ in phases]:
        raise HvaError(f"the plugin has seen {len(lines)} phases, the program {len(phases)}: {counts}")
    for line, (_, _, figures) in zip(lines, phases):
        figures.update(zip(COUNTS, line[1:]))
        figures["essa"] = sum(figures[f"essa{n}"] for n in range(8))
    return phases, looks


def of_a_page(phases, middle=statistics.median):
    """{(pattern, phase): {figure: of one page}}; of the rounds, the one in the middle"""
    rounds = collections.defaultdict(lambda: collections.defaultdict(list))
    for pattern, phase, figures in phases:
        for key, value in figures.items():
            rounds[pattern, phase][key].append(value / PAGES)
    return {which: {key: middle(values) for key, values in figures.items()} for which, figures in rounds.items()}


def without_scanner(seen):
    """The scanner looks at all memory: what it does then is no page's fault."""
    result = {}
    for (pattern, phase), figures in seen.items():
        base = seen["kept", phase] if phase.startswith("scan") and pattern != "kept" else {}
        result[pattern, phase] = {key: value - base.get(key, 0) for key, value in figures.items()}
    return result


def total(seen, pattern):
    """All phases of a pattern."""
    sums = collections.Counter()
    for (of, phase), figures in seen.items():
        if of == pattern and not (of == "kept" and phase.startswith("scan")):
            sums.update(figures)
    return sums


def wrong(mode, phases, looks):
    """What must not be, in a mode: lines of text."""
    drops = mode != "mapped"                                # here the host may have lazily freed memory
    for pattern, when, pages in looks:
        what = f"page_hva={mode}, {pattern}, {when}: {pages}"
        if pages["wrong"] or sum(pages.values()) != PAGES:
            yield f"content, {what}"
        gone = pattern == "dontneed" or drops and "dropped" in (pattern, when)
        if gone and pages["zero"] < PAGES * 0.9:
            yield f"nearly all should be gone, {what}"
        if not gone and pages["zero"]:
            yield f"nothing should be gone, {what}"
    for pattern, phase, figures in phases:
        if "hva_lazyfree" not in figures:
            continue
        many = figures["hva_lazyfree"] >= PAGES * 0.9
        freed = phase == "scan" and pattern not in ("kept", "dontneed")
        if mode == "lazyfree" and many != freed or mode == "mapped" and figures["hva_lazyfree"]:
            yield f"hva_lazyfree {figures['hva_lazyfree']}, page_hva={mode}, {pattern}, {phase}"


def table(report, seen):
    """One block a pattern, one row a phase and mode."""
    for pattern, what in PATTERNS.items():
        report.say(f"\n   {pattern}: {what}")
        report.say(f"   {'':12}{'':10}" + "".join(f"{head:>{width}}" for head, _, width, _ in COLUMNS))
        for phase in (*PHASES, "all"):
            for mode, of_mode in seen.items():
                figures = total(of_mode, pattern) if phase == "all" else of_mode.get((pattern, phase))
                if figures:
                    report.say(f"   {phase:12}{mode:10}" + "".join(f"{figures.get(key, 0):{width}.{decimals}f}"
                                                                   for _, key, width, decimals in COLUMNS))


def summary(report, seen):
    """All phases of each pattern, in short."""
    report.say(f"\n   {'instructions (faults, flushes)':32}" + "".join(f"{mode:>20}" for mode in seen))
    for pattern in PATTERNS:
        cells = (total(of_mode, pattern) for of_mode in seen.values())
        report.say(f"   {pattern:32}" + "".join(f"{c['instructions']:11.0f} ({c['minflt']:.0f}, {c['flush']:.0f})".rjust(20) for c in cells))


def picture(report, seen):
    """Instructions of a page in each pattern."""
    data = report.results / "lazyfree.dat"
    with open(data, "w", encoding="utf-8") as out:
        print("pattern", *seen, file=out)
        for pattern in PATTERNS:
            print(pattern, *(f"{total(of_mode, pattern)['instructions']:.1f}" for of_mode in seen.values()), file=out)
    hva.command(["gnuplot", "-e", f"set term pngcairo size 900,500; set output '{report.results}/lazyfree.png'; set style data histogram; "
                 "set style fill solid 0.8; set key autotitle columnhead; set yrange [0:]; "
                 "set ylabel 'guest instructions of a page, all phases'; "
                 "plot " + ", ".join(f"'{data}' using {n + 2}:xtic(1)" for n in range(len(seen)))], "drawing the picture")
    report.say(f"   picture: {os.path.relpath(report.results)}/lazyfree.png")


def lazyfree(report):
    """A page's way through MADV_FREE."""
    report.say("\n== MADV_FREE: guest instructions and time of a page")
    asked = list(report.asked or MODES)
    modes = offered(report, asked)
    if not modes:
        return False
    program, library = build(), plugin()
    seen, found = {}, []
    for mode in modes:
        begin = time.monotonic()
        phases, looks = counted(report, mode, program, library)
        found += wrong(mode, phases, looks)
        seen[mode] = of_a_page(phases)
        print(f"   ({mode}: {time.monotonic() - begin:.0f} s)", flush=True)
    timed = collections.defaultdict(list)
    for number in range(report.runs):
        for mode in modes:
            phases, looks = run(report, report.results / f"lazyfree-{mode}-time-{number}", mode, program)
            found += wrong(mode, phases, looks)
            timed[mode] += phases
    for mode in modes:
        for which, figures in of_a_page(timed[mode], min).items():
            seen[mode][which]["ns"] = figures["ns"]
        seen[mode] = without_scanner(seen[mode])
    report.say(f"   {PAGES} pages, {ROUNDS} rounds, one CPU and -icount; flushes: instructions for which TCG flushes a whole TLB")
    report.say("   (a fault has two, as entry and exit of the kernel load control registers); ns: the fastest round with two CPUs,")
    report.say(f"   no -icount, of {report.runs} alternating boots. Scan: three passes, without what they cost in \"kept\"; scan-again: after the stores")
    table(report, seen)
    summary(report, seen)
    picture(report, seen)
    report.figures["lazyfree"] = {mode: {f"{pattern} {phase}": figures for (pattern, phase), figures in of_mode.items()}
                                  for mode, of_mode in seen.items()}
    return sanity(report, found) and modes == asked
