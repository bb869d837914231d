"""The load generator in Python, for machines without a C compiler: same arguments and answer as client.c.

Run as a script by path, so it imports nothing of the package. Python adds about 1 µs to every call that it
times; nothing is subtracted, the report names the client used.
"""

from __future__ import annotations

import json
import os
import sys
from time import monotonic_ns, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Run:
    """One run: the open directory, the options, and what was counted."""

    def __init__(self, root: int, options: dict[str, int]) -> None:
        self.root = root
        self.block = options.get("block", 4096)
        self.bytes = options.get("bytes", 4096)
        self.buffer = b"x" * self.block
        self.entries = 0

    def stat(self, name: str) -> int:
        start = monotonic_ns()
        try:
            os.stat(name, dir_fd=self.root, follow_symlinks=False)
        except FileNotFoundError as error:
            error.ns = monotonic_ns() - start  # type: ignore[attr-defined]
            raise
        return monotonic_ns() - start

    def read(self, name: str) -> int:
        start = monotonic_ns()
        fd = os.open(name, os.O_RDONLY, dir_fd=self.root)
        os.read(fd, self.block)
        os.close(fd)
        return monotonic_ns() - start

    def pread(self, name: str) -> int:
        fd = os.open(name, os.O_RDONLY, dir_fd=self.root)
        start = monotonic_ns()
        os.pread(fd, self.block, 0)
        spent = monotonic_ns() - start
        os.close(fd)
        return spent

    def create(self, name: str) -> int:
        start = monotonic_ns()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=self.root)
        os.write(fd, self.buffer)
        os.close(fd)
        return monotonic_ns() - start

    def change(self, name: str) -> int:
        start = monotonic_ns()
        fd = os.open(name, os.O_WRONLY, dir_fd=self.root)
        os.pwrite(fd, b"x", 0)
        os.close(fd)
        return monotonic_ns() - start

    def unlink(self, name: str) -> int:
        start = monotonic_ns()
        os.unlink(name, dir_fd=self.root)
        return monotonic_ns() - start

    def rename(self, name: str) -> int:
        start = monotonic_ns()
        os.rename(name, name + ".renamed", src_dir_fd=self.root, dst_dir_fd=self.root)
        return monotonic_ns() - start

    def list(self, name: str) -> int:
        start = monotonic_ns()
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.root)
        self.entries += len(os.listdir(fd)) + 2  # readdir() of C shows "." and ".." too
        os.close(fd)
        return monotonic_ns() - start

    def readall(self, name: str) -> int:
        start = monotonic_ns()
        fd = os.open(name, os.O_RDONLY, dir_fd=self.root)
        view, done = bytearray(self.block), 0
        while done < self.bytes and (got := os.readv(fd, [view])):
            done += got
        os.close(fd)
        return monotonic_ns() - start

    def writeall(self, name: str) -> int:
        start = monotonic_ns()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=self.root)
        for _ in range(0, self.bytes, self.block):
            os.write(fd, self.buffer)
        os.close(fd)
        return monotonic_ns() - start

    def randread(self, name: str) -> int:
        return self._random(name, os.O_RDONLY, lambda fd, at: os.pread(fd, self.block, at))

    def randwrite(self, name: str) -> int:
        return self._random(name, os.O_WRONLY, lambda fd, at: os.pwrite(fd, self.buffer, at))

    def _random(self, name: str, flags: int, call: Callable[[int, int], object]) -> int:
        fd = os.open(name, flags, dir_fd=self.root)
        state, blocks, mask = 88172645463325252, self.bytes // self.block, (1 << 64) - 1
        start = monotonic_ns()
        for _ in range(blocks):
            state ^= state << 13 & mask
            state ^= state >> 7
            state ^= state << 17 & mask
            call(fd, state % blocks * self.block)
        spent = monotonic_ns() - start
        os.close(fd)
        return spent


def measure(run: Run, operation: str, names: list[str], repeat: int) -> dict[str, int]:
    """Times the operation on every name, `repeat` times over."""
    call: Callable[[str], int] = getattr(run, operation)
    times, missing, failed = [], 0, 0
    begin = monotonic_ns()
    for _ in range(repeat):
        for name in names:
            start = monotonic_ns()
            try:
                times.append(call(name))
            except FileNotFoundError as error:
                missing += 1
                times.append(getattr(error, "ns", monotonic_ns() - start))
            except OSError:
                failed += 1
                times.append(monotonic_ns() - start)
    end = monotonic_ns()
    times.sort()
    return {
        "n": len(times), "missing": missing, "failed": failed, "entries": run.entries,
        "begin": begin, "end": end, "sum": sum(times), "p50": times[len(times) // 2] if times else 0,
        "p99": times[len(times) * 99 // 100] if times else 0,
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    operation, directory, listing, *rest = arguments
    options = {key: int(value) for key, _, value in (item.partition("=") for item in rest)}
    with open(listing, encoding="utf-8") as file:
        names = file.read().splitlines()
    run = Run(os.open(directory, os.O_RDONLY | os.O_DIRECTORY), options)
    if wait := options.get("start", 0) - monotonic_ns():
        sleep(max(wait, 0) / 1e9)
    print(json.dumps(measure(run, operation, names, options.get("repeat", 1))))


if __name__ == "__main__":
    main(sys.argv[1:])
