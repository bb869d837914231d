"""What a workload works with: a mount that it may renew, the clients, and the book in which it records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unionfs.bench.client import TIMEOUT, Client, Failed, Sample
from unionfs.bench.fixtures import Fixtures, git_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionfs.bench.engines import Engine, Mount, Stack

DENTRIES = 2
"""drop_caches: dentries and inodes. The blocks of directories and inode tables stay cached, so what is
measured is the software's way to an object and not the disk's."""

EVERYTHING = 3
"""drop_caches: pages too; the disk is read again."""


@dataclass
class Record:
    """One measured value of one engine in one round, and what the daemon spent on it."""

    metric: str
    unit: str
    value: float
    cpu: float
    """Seconds of the daemon's CPU time."""
    rss: int
    """The daemon's resident KiB right after."""
    requests: dict[str, int] = field(default_factory=dict)
    detail: dict[str, float] = field(default_factory=dict)


def drop_caches(level: int) -> bool:
    """Writes dirty data back and empties the kernel's caches; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text(str(level))
    except OSError:
        return False
    return True


class Context:
    """One engine's turn in one round of a workload.

    `place` is a directory of its own, which the runner removes afterwards; `access` is how `Engine.mount` mounts.
    """

    def __init__(self, engine: Engine, stack: Stack, place: Path, access: dict[str, bool], client: Client,
                 fixtures: Fixtures, quick: bool) -> None:  # fmt: skip
        self.engine = engine
        self.stack = stack
        self.place = place
        self.access = access
        self.client = client
        self.fixtures = fixtures
        self.quick = quick
        self.records: list[Record] = []
        self._mount: Mount | None = engine.mount(stack, place, **access)

    @property
    def mount(self) -> Mount:
        if not self._mount:
            raise Failed("not mounted")
        return self._mount

    @property
    def root(self) -> Path:
        return self.mount.root

    def close(self) -> None:
        """Unmounts; may be called twice."""
        mount, self._mount = self._mount, None
        if mount:
            mount.unmount()

    def fresh(self, drop: int = 0) -> None:
        """Unmounts, drops caches as asked, and mounts the same layers and upper again."""
        self.close()
        if drop:
            drop_caches(drop)
        self._mount = self.engine.mount(self.stack, self.place, **self.access)

    # recording

    def record(self, metric: str, unit: str, measure: Callable[[], float], **detail: float) -> None:
        """Notes what `measure` returns, in `unit`, and the daemon's expenses meanwhile."""
        daemon = self.mount.daemon
        requests, cpu = self.engine.requests(self.mount), daemon.cpu()
        value = measure()
        spent, rss = daemon.cpu() - cpu, daemon.rss()
        counted = {name: count - requests.get(name, 0) for name, count in self.engine.requests(self.mount).items()}
        counted = {name: count for name, count in counted.items() if count}
        self.records.append(Record(metric, unit, value, spent, rss, counted, detail))

    def operations(self, metric: str, operation: str, directory: str, names: Sequence[str], *,
                   processes: int = 1, missing: bool = False, **options: int) -> None:  # fmt: skip
        """Records µs per operation of the client; with several processes, elapsed µs over all their
        operations.
        """
        samples: list[Sample] = []

        def measure() -> float:
            sample = self.client.run(operation, self.root / directory, names, processes, **options)
            if sample.missing != (sample.n if missing else 0):
                raise Failed(f"{metric}: {sample.missing} of {sample.n} names not found")
            samples.append(sample)
            return sample.per_op if processes == 1 else sample.rate_per_op

        self.record(metric, "µs", measure)
        self.records[-1].detail.update(p50=samples[0].p50 / 1000, p99=samples[0].p99 / 1000, n=samples[0].n)

    def command(
        self, metric: str, arguments: Sequence[str], cwd: Path | None = None, codes: tuple[int, ...] = (0,)
    ) -> None:
        """Records the seconds that a command takes, its output thrown away. It runs in the mount unless `cwd`
        says else.
        """
        self.record(metric, "s", lambda: run_command(arguments, cwd or self.root, codes))

    def fio(self, metric: str, path: Path, kind: str, size: int, block: int) -> None:
        """Records MB/s of fio (of the own client where fio is missing) for `kind`: read, write, randread or
        randwrite.
        """
        measure = self._fio if shutil.which("fio") else self._stream
        self.record(metric, "MB/s", lambda: measure(path, kind, size, block))

    def _fio(self, path: Path, kind: str, size: int, block: int) -> float:
        total = min(size, 64 << 20) if kind.startswith("rand") else size
        done = subprocess.run(
            ["fio", "--name=b", f"--filename={path}", f"--rw={kind}", f"--bs={block}", f"--size={size}",
             f"--io_size={total}", "--ioengine=psync", "--thread", "--invalidate=0", "--fallocate=none",
             "--norandommap", "--randrepeat=1", "--output-format=json",
             *(["--readonly"] if "read" in kind else [])],
            capture_output=True, text=True, timeout=TIMEOUT, check=False)  # fmt: skip
        if done.returncode:
            raise Failed(f"fio {kind}: {done.stderr.strip() or done.stdout.strip()[:200]}")
        job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        return float(job["read" if "read" in kind else "write"]["bw_bytes"]) / 1e6

    def _stream(self, path: Path, kind: str, size: int, block: int) -> float:
        operation = kind if kind.startswith("rand") else kind + "all"
        total = min(size, 64 << 20) if kind.startswith("rand") else size
        sample = self.client.run(operation, path.parent, [path.name], bytes=total, block=block)
        return total / 1e6 / (sample.sum / 1e9)


def run_command(arguments: Sequence[str], cwd: Path, codes: tuple[int, ...] = (0,)) -> float:
    """Seconds that the command took. Raises Failed on another exit code, or when it hangs."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            arguments, cwd=cwd, env=git_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"{arguments[0]} still running after {TIMEOUT} s") from None
    seconds = time.monotonic() - start
    if done.returncode not in codes:
        lines = done.stderr.strip().splitlines()
        raise Failed(f"{arguments[0]}: exit {done.returncode}: {lines[-1] if lines else ''}")
    return seconds
