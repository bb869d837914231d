"""The comparison that `unionfs bench` runs: a few workloads at small sizes, or the user's own layers read."""

from __future__ import annotations

import fnmatch
import os
import random
from itertools import islice
from typing import TYPE_CHECKING

from unionfs.bench import report
from unionfs.bench.context import DENTRIES, EVERYTHING
from unionfs.bench.engines import Stack, select
from unionfs.bench.fixtures import SEED
from unionfs.bench.runner import Runner
from unionfs.bench.workloads import ALL
from unionfs.bench.workloads.base import READ, Workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unionfs.bench.context import Context
    from unionfs.bench.fixtures import Fixtures
    from unionfs.bench.results import Results

ENGINES = "ext4,kernel,unionfs,fuse-overlayfs"
WORKLOADS = ("mount", "stat-2", "read", "create", "whiteout", "data", "walk", "untar", "chmod", "copyup-many")
SAMPLE = 2000


def run(
    directory: Path,
    *,
    engines: str = ENGINES,
    lowers: list[Path] | None = None,
    only: str = "*",
    rounds: int = 2,
    progress: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measures; with `lowers` only reads of that stack. Raises ValueError where no workload or engine is
    left.
    """
    workloads = own_layers(lowers) if lowers else [w for w in ALL if w.name in WORKLOADS]
    workloads = [w for w in workloads if any(fnmatch.fnmatch(w.name, p) for p in only.split(","))]
    if not workloads:
        raise ValueError(f"no workload matches {only}; there are {', '.join(WORKLOADS)}")
    runner = Runner(directory, select(engines), quick=True, rounds=rounds, progress=progress)
    try:
        if not runner.engines:
            raise ValueError("no engine can run: " + "; ".join(runner.results.skipped.values()))
        return runner.run(workloads)
    finally:
        runner.close()


def own_layers(lowers: list[Path]) -> list[Workload]:
    """Workloads that read the given layers. Raises ValueError that names a layer which is no directory."""
    for lower in lowers:
        if not lower.is_dir():
            raise ValueError(f"{lower} is not a directory")
    names = tuple(_escaped(str(lower.resolve())) for lower in lowers)
    files: list[str] = []

    def stack(fixtures: Fixtures, _quick: bool) -> Stack:
        home = fixtures.home / "own"
        home.mkdir(parents=True, exist_ok=True)
        return Stack("own", home, names)

    def run_one(ctx: Context) -> None:
        if not files:
            files.extend(_sample(ctx.root))
        ctx.fresh(DENTRIES)
        ctx.operations("stat cold", "stat", "", files)
        ctx.operations("stat warm", "stat", "", files)
        ctx.operations("open+read+close", "read", "", files)
        ctx.fresh(EVERYTHING)
        ctx.command("find -ls cold", ["find", ".", "-ls"])
        ctx.command("find -ls warm", ["find", ".", "-ls"])

    return [Workload("layers", READ, stack, run_one, upper=False, skip=("ext4",))]


def _escaped(path: str) -> str:
    for special in "\\:,":
        path = path.replace(special, "\\" + special)
    return path


def _sample(root: Path) -> list[str]:
    """Regular files of the mount, the same for every engine. Raises ValueError where there are none."""
    walk = (
        os.path.relpath(os.path.join(place, name), root)
        for place, _, names in os.walk(root)
        for name in names
        if os.path.isfile(path := os.path.join(place, name)) and not os.path.islink(path) and path.isprintable()
    )
    found = sorted(islice(walk, 50 * SAMPLE))
    if not found:
        raise ValueError("the layers hold no file")
    return random.Random(SEED).sample(found, min(SAMPLE, len(found)))


def table(results: Results) -> str:
    """The readable outcome."""
    skipped = [f"{engine}: left out, {reason}" for engine, reason in results.skipped.items()]
    failed = [f"failed: {failure}" for failure in results.failures]
    notes = [
        "medians; in brackets the ratio to the kernel's overlay; ~ marks noise; MB/s: more is better",
        ", ".join([results.machine[key] for key in ("kernel", "cpu", "file system")]),
        f"took {results.seconds:.0f} s",
    ]
    return "\n".join(["", report.measurements(results), "", *notes, *skipped, *failed])
