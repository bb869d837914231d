"""The targets, one row each, and whether a run meets them."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionfs.bench.stats import Ratio, ratio

if TYPE_CHECKING:
    from unionfs.bench.results import Results, Series

K, F = "kernel", "fuse-overlayfs"

RATE = "MB/s"


@dataclass(frozen=True)
class Target:
    """`ours` against `reference`, for every metric that matches the pattern.

    `factor` bounds our time (or memory) as a multiple of the reference's; for rates (MB/s) and with
    `throughput` it is the least share of the reference's throughput. Without a reference it bounds the value
    itself, in the metric's unit.
    """

    metric: str
    reference: str | None
    factor: float
    throughput: bool = False


TARGETS = [
    *(Target(metric, K, 0.95, throughput=True) for metric in (
        "stat warm, * layers", "read warm", "sequential read, *", "sequential write", "random 4 KiB *")),
    Target("stat cold, 2 layers", F, 0.9),
    Target("stat negative, 2 layers", F, 0.9),
    Target("stat cold, 120 layers", K, 0.2),
    Target("stat negative, 120 layers", K, 0.2),
    Target("open+read+close warm", F, 0.7),
    *(Target(metric, reference, factor) for metric in ("create+write+close", "unlink")
      for reference, factor in ((F, 0.3), (K, 2.5))),
    *(Target(f"{metric} cold", reference, factor) for metric in ("find -ls", "tar c", "grep -r")
      for reference, factor in ((F, 0.6), (K, 1.6))),
    *(Target(metric, reference, factor) for metric in ("untar", "cp -a")
      for reference, factor in ((F, 0.4), (K, 1.5))),
    Target("rm -rf", K, 1.3),
    Target("chmod -R", F, 0.5),
    *(Target(metric, K, 1.3) for metric in ("git status", "git status cold", "git checkout", "compileall")),
    Target("mount", None, 150),
    Target("daemon memory after find *", F, 1.0),
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured."""

    metric: str
    unit: str
    target: str
    ours: float
    reference: float | None
    ratio: Ratio | None
    """Ours to the reference's, as the target counts it: time, or throughput."""
    met: bool


def judge(results: Results, engine: str = "unionfs", targets: list[Target] | None = None) -> list[Verdict]:
    """A verdict for every target whose metrics were measured, in the order of the targets."""
    verdicts = []
    for target in TARGETS if targets is None else targets:
        for metric in fnmatch.filter(results.metrics(), target.metric):
            ours = results.get(metric, engine)
            reference = results.get(metric, target.reference) if target.reference else None
            if ours and (reference or not target.reference):
                verdicts.append(_verdict(target, ours, reference))
    return verdicts


def _verdict(target: Target, ours: Series, reference: Series | None) -> Verdict:
    value = ours.summary.median
    if not reference:
        wanted = f"≤ {target.factor:g} {ours.unit}"
        return Verdict(ours.metric, ours.unit, wanted, value, None, None, value <= target.factor)
    name = "k" if target.reference == K else "f"
    theirs = reference.summary.median
    if target.throughput:
        faster, slower = (ours, reference) if ours.unit == RATE else (reference, ours)
        seen = ratio(faster.values, slower.values)
        wanted, met = f"≥ {target.factor:g} {name} (throughput)", seen.value >= target.factor
    else:
        seen = ratio(ours.values, reference.values)
        wanted, met = f"≤ {target.factor:g} {name}", seen.value <= target.factor
    return Verdict(ours.metric, ours.unit, wanted, value, theirs, seen, met)
