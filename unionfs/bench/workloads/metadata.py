"""Names and attributes: mount, stat, open, create, unlink, readdir, one process and several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionfs.bench.context import DENTRIES, Context
from unionfs.bench.fixtures import (
    Fixtures,
    flat_names,
    listings,
    missing_names,
    nothing,
    one_directory,
    shuffled,
)
from unionfs.bench.workloads.base import CHANGE, CREATE, READ, Workload

if TYPE_CHECKING:
    from unionfs.bench.engines import Stack

FILES = 2000
LAYERS = (2, 8, 50, 120)
PROCESSES = (2, 8)


def _stack(layers: int) -> Workload:
    def stack(fixtures: Fixtures, _quick: bool) -> Stack:
        return fixtures.stack(f"stat{layers}", layers, one_directory(FILES))

    def run(ctx: Context) -> None:
        label = f"{layers} layers"
        names, absent = shuffled(flat_names(FILES)), missing_names(FILES)
        ctx.fresh(DENTRIES)
        ctx.operations(f"stat cold, {label}", "stat", "d", names)
        ctx.operations(f"stat warm, {label}", "stat", "d", names, repeat=3)
        ctx.operations(f"stat negative, {label}", "stat", "d", absent, missing=True)
        ctx.operations(f"stat negative again, {label}", "stat", "d", absent, missing=True, repeat=3)

    return Workload(f"stat-{layers}", READ, stack, run, quick=layers in (2, 120))


def _two_layers(fixtures: Fixtures, _quick: bool) -> Stack:
    return fixtures.stack("stat2", 2, one_directory(FILES))


def _mount(ctx: Context) -> None:
    for _ in range(5):
        ctx.fresh()
        ctx.record("mount", "ms", lambda: ctx.mount.seconds * 1000)


def _read_readonly(ctx: Context) -> None:
    names = shuffled(flat_names(FILES))
    ctx.fresh(DENTRIES)
    ctx.operations("open+read+close cold, read-only mount", "read", "d", names)
    ctx.operations("open+read+close warm, read-only mount", "read", "d", names, repeat=3)


def _read(ctx: Context) -> None:
    names = shuffled(flat_names(FILES))
    ctx.fresh(DENTRIES)
    ctx.operations("open+read+close cold", "read", "d", names)
    ctx.operations("open+read+close warm", "read", "d", names, repeat=3)
    ctx.operations("read warm", "pread", "d", names, repeat=3)
    for processes in PROCESSES:
        label = f"{processes} processes"
        ctx.operations(f"open+read+close warm, {label}", "read", "d", names, processes=processes, repeat=3)


def _parallel_stat(ctx: Context) -> None:
    names = shuffled(flat_names(FILES))
    for processes in PROCESSES:
        ctx.fresh(DENTRIES)
        ctx.operations(f"stat cold, {processes} processes", "stat", "d", names, processes=processes)


def _create(ctx: Context) -> None:
    # first all creation, then all removal: see fixtures.spread on ext4 and inodes freed a moment ago
    names, runs = flat_names(FILES), {"": 1} | {f", {n} processes": n for n in PROCESSES}
    for label, processes in runs.items():
        (ctx.root / f"new{processes}").mkdir()
        ctx.operations(f"create+write+close{label}", "create", f"new{processes}", names, processes=processes)
    ctx.operations("rename, upper file", "rename", "new1", names)
    for label, processes in runs.items():
        left = [name + ".renamed" for name in names] if processes == 1 else names
        ctx.operations(f"unlink{label}", "unlink", f"new{processes}", left, processes=processes)


def _whiteout(ctx: Context) -> None:
    names = shuffled(flat_names(FILES))
    ctx.operations("unlink, lower file", "unlink", "d", names[: FILES // 2])


def _empty(fixtures: Fixtures, _quick: bool) -> Stack:
    return fixtures.stack("empty", 2, nothing)


def _sizes(quick: bool) -> list[int]:
    return [10, 1000, 10_000] if quick else [10, 1000, 10_000, 100_000]


def _listings(fixtures: Fixtures, quick: bool) -> Stack:
    return fixtures.stack("listings", 2, listings(_sizes(quick)))


def _readdir(ctx: Context) -> None:
    for size in _sizes(ctx.quick):
        ctx.fresh(DENTRIES)
        ctx.operations(f"readdir cold, {size:,} entries", "list", "", [f"n{size}"])
        ctx.operations(f"readdir warm, {size:,} entries", "list", "", [f"n{size}"], repeat=max(3, 5000 // size))


WORKLOADS = [
    Workload("mount", CREATE, _empty, _mount, skip=("ext4",)),
    *(_stack(layers) for layers in LAYERS),
    Workload("stat-parallel", READ, _two_layers, _parallel_stat),
    Workload("read", READ, _two_layers, _read),
    Workload("read-only", READ, _two_layers, _read_readonly, upper=False),
    Workload("create", CREATE, _empty, _create),
    Workload("whiteout", CHANGE, _two_layers, _whiteout),
    Workload("readdir", READ, _listings, _readdir, rounds=3),
]
