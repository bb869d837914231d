"""Copy-up: many small files, and one byte changed in ever larger ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionfs.bench.fixtures import Fixtures, big_file, flat_names, one_directory, shuffled
from unionfs.bench.workloads.base import CHANGE, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from unionfs.bench.context import Context
    from unionfs.bench.engines import Stack

SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "64 MiB": 64 << 20, "1 GiB": 1 << 30, "4 GiB": 4 << 30}
QUICK_SIZES = ("4 KiB", "1 MiB", "64 MiB")


def _count(quick: bool) -> int:
    return 1000 if quick else 10_000


def _many(fixtures: Fixtures, quick: bool) -> Stack:
    return fixtures.stack("small", 2, one_directory(_count(quick), size=2000))


def _change_many(ctx: Context) -> None:
    ctx.operations("copy-up, small files", "change", "d", shuffled(flat_names(_count(ctx.quick))))


def _sized(fixtures: Fixtures, quick: bool) -> Stack:
    def fill(layers: list[Path]) -> None:
        for label in _labels(quick):
            big_file(SIZES[label], label.replace(" ", ""))(layers)

    return fixtures.stack("sized", 2, fill, flat=False)


def _labels(quick: bool) -> tuple[str, ...]:
    return QUICK_SIZES if quick else tuple(SIZES)


def _change_one(ctx: Context) -> None:
    for label in _labels(ctx.quick):
        ctx.operations(f"one byte in {label}", "change", "", [label.replace(" ", "")])


WORKLOADS = [
    Workload("copyup-many", CHANGE, _many, _change_many, rounds=3, limit=75),
    Workload("copyup-size", CHANGE, _sized, _change_one, rounds=3, skip=("ext4",), limit=75),
]
