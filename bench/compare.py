"""`python -m bench.compare`: all engines, all workloads, targets and figures side by side.

Writes report.md, results.json and plots to bench/results/DATE/. Needs root. A full run takes about 25
minutes, --quick 3.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from pathlib import Path

from unionfs.bench import plots, report
from unionfs.bench.engines import ENGINES, select
from unionfs.bench.runner import Runner
from unionfs.bench.targets import judge
from unionfs.bench.workloads import ALL, Workload

QUICK_ENGINES = "ext4,kernel,unionfs,fuse-overlayfs"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--engines", help="comma-separated, options after colons: unionfs:fsync=0 (default: "
                        f"all; with --quick {QUICK_ENGINES}). Known: " + ", ".join(ENGINES))  # fmt: skip
    parser.add_argument(
        "--only", default="*", help="comma-separated patterns of workloads: " + ", ".join(w.name for w in ALL)
    )
    parser.add_argument("--rounds", type=int, help="rounds of every workload (default: 3 or 5, with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="fewer workloads, smaller sizes")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where to work: the disk to measure")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"), help="where to write")
    return parser


def chosen(only: str, quick: bool) -> list[Workload]:
    patterns = only.split(",")
    return [
        w for w in ALL if any(fnmatch.fnmatch(w.name, p) for p in patterns) and (w.quick or not quick or only != "*")
    ]


def main(argv: list[str] | None = None) -> int:
    parser = arguments()
    options = parser.parse_args(argv)
    if os.geteuid():
        parser.error("mounting and dropping caches need root")
    try:
        engines = select(options.engines or (QUICK_ENGINES if options.quick else ",".join(ENGINES)))
    except ValueError as error:
        parser.error(str(error))
    workloads = chosen(options.only, options.quick)
    if not workloads:
        parser.error(f"no workload matches {options.only}")
    progress = time.monotonic()
    runner = Runner(
        options.dir,
        engines,
        quick=options.quick,
        rounds=options.rounds,
        progress=lambda line: print(f"{time.monotonic() - progress:6.0f} s  {line}", file=sys.stderr, flush=True),
    )
    try:
        results = runner.run(workloads)
    finally:
        runner.close()
    verdicts = judge(results)
    text = report.summary(results, verdicts)
    print(text)
    folder = options.results / time.strftime("%Y-%m-%d-%H%M%S")
    folder.mkdir(parents=True)
    results.save(folder / "results.json")
    (folder / "report.md").write_text(text)
    drawn = plots.draw(results, folder)
    print(f"written to {folder}" + ("" if drawn else " (no plots: matplotlib is missing; pip install unionfs[bench])"))
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
