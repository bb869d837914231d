"""`python -m bench.check`: have the micro benchmarks become slower? Compares with the saved medians, tells
noise from news.

Machines differ and are noisy, so no time is compared with a time. Each case is run in turns with a fixed
piece of work (`case.calibration`) and its figure is the ratio of the two, which a slow minute or another
machine of the kind leaves much as it was. A case counts as slower only if the whole confidence interval of
its median ratio lies more than TOLERANCE above the baseline's, in each of ATTEMPTS measurements on their own.
Exit code 1 if any does.

    python -m bench.check                 compare
    python -m bench.check --save          write bench/baseline.json anew
    python -m bench.check --only 'lookup*'
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.micro import union_cases, wire_cases
from bench.micro.case import Bench, Case, calibration
from unionfs.bench.report import number, table
from unionfs.bench.stats import Ratio, ratio

BASELINE = Path(__file__).with_name("baseline.json")

ROUNDS = 15
ATTEMPTS = 3

TOLERANCE = 0.25
"""The share by which a ratio may exceed the baseline's. Two runs of the same code on the same busy machine
differed by up to 15 % in their medians; smaller regressions are for a quiet machine and `make bench`."""


class Figure(NamedTuple):
    """A case's time as a multiple of the calibration's, with a 99 % interval, and the plain µs per
    operation.
    """

    ratio: Ratio
    micros: float


def measure(bench: Bench, calibrate: Bench, rounds: int = ROUNDS) -> Figure:
    """Runs the case and the calibration in turns; the first turn of each is for warming up."""
    bench.once()
    calibrate.once()
    turns = [(calibrate.once(), bench.once()) for _ in range(rounds)]
    ratios = [case / unit for unit, case in turns]
    return Figure(ratio(ratios, [1.0], confidence=0.99), statistics.median(case for _, case in turns))


def slower(seen: Ratio, baseline: float, tolerance: float = TOLERANCE) -> bool:
    """The interval as a whole lies above what the baseline allows."""
    return seen.low > baseline * (1 + tolerance)


def check(case: Case, baseline: float | None, directory: Path) -> tuple[Figure, bool]:
    """The case's figure, and whether it is slower than the baseline in every attempt."""
    directory.mkdir()
    calibrate, bench = calibration(directory), case.prepare(directory)
    try:
        figure = measure(bench, calibrate)
        for _ in range(ATTEMPTS - 1):
            if baseline is None or not slower(figure.ratio, baseline):
                return figure, False
            figure = measure(bench, calibrate)
        return figure, baseline is not None and slower(figure.ratio, baseline)
    finally:
        bench.close()
        calibrate.close()


def row(name: str, figure: Figure, baseline: float | None, bad: bool) -> list[str]:
    seen = figure.ratio
    change = "new" if baseline is None else f"{100 * (seen.value / baseline - 1):+.0f} %"
    interval = f"{number(seen.low)}..{number(seen.high)}"
    was = "" if baseline is None else number(baseline)
    return [name, number(figure.micros), number(seen.value), interval, was, change, "SLOWER" if bad else "ok"]


def progress(text: str) -> None:
    """Shows what was measured last, where somebody sits before it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--save", action="store_true", help=f"write {BASELINE.name} anew")
    parser.add_argument("--only", default="*", help="pattern of case names, as `group: name`")
    options = parser.parse_args(argv)
    baseline: dict[str, float] = json.loads(BASELINE.read_text())["ratios"] if BASELINE.exists() else {}
    cases = {f"{c.group}: {c.name}": c for c in [*wire_cases.CASES, *union_cases.CASES] if not c.slow}
    rows: list[list[str]] = []
    seen = dict(baseline)
    with tempfile.TemporaryDirectory(prefix="unionfs-bench-") as scratch:
        for name in fnmatch.filter(cases, options.only):
            known = None if options.save else baseline.get(name)
            figure, bad = check(cases[name], known, Path(scratch, str(len(rows))))
            rows.append(row(name, figure, baseline.get(name), bad))
            seen[name] = float(f"{figure.ratio.value:.4g}")
            progress(name)
    progress("")
    print(table(["case", "µs", "ratio", "99 % interval", "baseline", "change", ""], rows))
    if options.save:
        note = "time per operation as a multiple of bench/micro/case.py's calibration; made by bench.check --save"
        kept = {name: seen[name] for name in cases if name in seen}
        BASELINE.write_text(json.dumps({"note": note, "ratios": kept}, indent=1) + "\n")
    return int(any(line[-1] == "SLOWER" for line in rows))


if __name__ == "__main__":
    sys.exit(main())
