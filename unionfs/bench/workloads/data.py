"""Bytes: sequential and random, read from a lower layer, read from and written to the upper."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionfs.bench.context import EVERYTHING, Context
from unionfs.bench.fixtures import Fixtures, big_file
from unionfs.bench.workloads.base import CREATE, Workload

if TYPE_CHECKING:
    from unionfs.bench.engines import Stack

MIB = 1 << 20


def _size(quick: bool) -> int:
    return (128 if quick else 512) * MIB


def _stack(fixtures: Fixtures, quick: bool) -> Stack:
    return fixtures.stack("big", 2, big_file(_size(quick)))


def _data(ctx: Context) -> None:
    size, lower, upper = _size(ctx.quick), ctx.root / "big", ctx.root / "new"
    ctx.fio("sequential write", upper, "write", size, MIB)
    os.sync()  # or the write-back goes on under the next measurements
    ctx.fio("sequential read, upper file", upper, "read", size, MIB)
    ctx.fio("random 4 KiB read, upper file", upper, "randread", size, 4096)
    ctx.fio("random 4 KiB write", upper, "randwrite", size, 4096)
    upper.unlink()
    ctx.fresh(EVERYTHING)
    ctx.fio("sequential read cold, lower file", lower, "read", size, MIB)
    ctx.fio("sequential read, lower file", lower, "read", size, MIB)
    ctx.fio("random 4 KiB read, lower file", lower, "randread", size, 4096)


WORKLOADS = [Workload("data", CREATE, _stack, _data, limit=90)]
