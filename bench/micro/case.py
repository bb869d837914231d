"""What a micro benchmark is, and the measure of the machine that makes figures of different days
comparable.
"""

from __future__ import annotations

import os
from time import process_time_ns
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Bench:
    """A prepared benchmark: `run` does `count` operations, `reset` comes before each run and is not timed."""

    def __init__(
        self,
        run: Callable[[], None],
        count: int,
        reset: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.run = run
        self.count = count
        self.reset = reset
        self.close = close

    def once(self) -> float:
        """µs of CPU time per operation of one run, in this process and in the kernel for it.

        CPU time and not elapsed: with neighbours on the same cores, elapsed times of one case differed
        threefold from run to run. Nothing measured here waits for anything else.
        """
        self.reset()
        start = process_time_ns()
        self.run()
        return (process_time_ns() - start) / self.count / 1000


class Case(NamedTuple):
    """A named benchmark; `prepare` gets a directory of its own."""

    group: str
    name: str
    prepare: Callable[[Path], Bench]
    slow: bool = False
    """Takes long to prepare or much disk: measured by `make bench`, left out of `make bench-check`."""


def calibration(directory: Path) -> Bench:
    """A fixed mixture of interpreter and kernel work, like that of a request: unpacking, tables, a few calls
    on files.
    """
    target = os.fspath(directory / "calibration")
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    table: dict[int, tuple[int, str]] = {}

    def run() -> None:
        for i in range(200):
            key = (i * 7919) & 255
            table[key] = (i, target)
            number, path = table[key]
            st = os.lstat(path)
            fd = os.open(path, os.O_RDONLY)
            os.close(fd)
            bytearray(128)[8:16] = (st.st_ino ^ number).to_bytes(8, "little")

    return Bench(run, 200, close=lambda: os.unlink(target))
