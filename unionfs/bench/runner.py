"""Runs workloads over engines in interleaved rounds, so that a slow minute of the machine hits all engines
alike.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from unionfs.bench import machine
from unionfs.bench.client import Client, Failed
from unionfs.bench.context import Context, drop_caches
from unionfs.bench.engines import unmount
from unionfs.bench.fixtures import Fixtures, spread
from unionfs.bench.results import Results
from unionfs.bench.workloads.base import READ

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unionfs.bench.engines import Engine, Stack
    from unionfs.bench.workloads.base import Workload

SLOW = 20.0
"""Seconds of a first round after which an engine that no target refers to is not asked again for the
workload.
"""

REFERENCES = ("ext4", "kernel", "unionfs", "fuse-overlayfs")
"""Engines that always get all rounds."""


class Runner:
    """One run in a scratch directory below `directory`, which is gone again after `close`."""

    def __init__(
        self,
        directory: Path,
        engines: Sequence[Engine],
        *,
        quick: bool = False,
        rounds: int | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="unionfs-bench-", dir=directory.resolve()))
        spread(self.base)
        self.turns = 0
        self.fixtures = Fixtures(self.base / "layers")
        self.client = Client(self.base)
        self.engines = [engine for engine in engines if not engine.missing()]
        self.quick = quick
        self.rounds = rounds
        self.progress = progress
        self.results = Results(
            machine=machine.describe(directory),
            versions={engine.name: engine.version() for engine in self.engines},
            settings=self._settings(),
            skipped={engine.name: reason for engine in engines if (reason := engine.missing())},
        )

    def _settings(self) -> dict[str, str]:
        droppable = os.access("/proc/sys/vm/drop_caches", os.W_OK)
        return {
            "client": self.client.kind,
            "size": "quick" if self.quick else "full",
            "rounds": str(self.rounds or "by workload"),
            "caches": "dropped where cold" if droppable else "kept (dropping them needs root)",
            "data": "fio" if shutil.which("fio") else "own client (fio is not installed)",
        }

    def close(self) -> None:
        """Removes the scratch directory; the mounts are gone already."""
        _remove(self.base)

    def run(self, workloads: Sequence[Workload]) -> Results:
        """All workloads, one after the other. Failures are noted in the results, never raised."""
        start = time.monotonic()
        for number, workload in enumerate(workloads, 1):
            self.progress(f"[{number}/{len(workloads)}] {workload.name}")
            self._workload(workload)
        self.results.seconds = time.monotonic() - start
        return self.results

    def _workload(self, workload: Workload) -> None:
        engines = [engine for engine in self.engines if workload.fits(engine)]
        stack = workload.stack(self.fixtures, self.quick)
        start = time.monotonic()
        for round_number in range(self.rounds or (2 if self.quick else workload.rounds)):
            if round_number and time.monotonic() - start > workload.limit:
                break
            turn = round_number % max(len(engines), 1)
            for engine in engines[turn:] + engines[:turn]:
                begun = time.monotonic()
                worked = self._once(workload, engine, stack)
                slow = time.monotonic() - begun > SLOW and engine.name not in REFERENCES
                if slow or not worked:
                    engines.remove(engine)

    def _once(self, workload: Workload, engine: Engine, stack: Stack) -> bool:
        """One engine's turn. False: it failed, and need not be tried again."""
        self.turns += 1
        place = self.base / f"turn-{self.turns}"
        context = None
        if workload.kind != READ:
            even_out(stack)
        try:
            access = {"upper": workload.upper, "private": workload.kind != READ}
            context = Context(engine, stack, place, access, self.client, self.fixtures, self.quick)
            workload.run(context)
            self.results.add(engine.name, context.records)
            return True
        except (Failed, OSError, subprocess.SubprocessError) as error:
            self.results.failures.append(f"{workload.name}, {engine.name}: {error}")
            self.progress(f"    {engine.name} failed: {error}")
            return False
        finally:
            self._clean(context, place)

    def _clean(self, context: Context | None, place: Path) -> None:
        try:
            if context:
                context.close()
            unmount(place / "mnt")  # what a failed mount or a hung daemon may have left
        except Failed as error:
            self.results.failures.append(str(error))
        if not os.path.ismount(place / "mnt"):
            _remove(place)
        os.sync()  # what this turn wrote must not be written back during the next one


def even_out(stack: Stack) -> None:
    """Before a turn that writes: nothing of what the turns before removed is in memory, all of the layers is.

    For minutes after a file is removed ext4 steps over its inode, one by one, to find a free one, as long as the block
    with it is in memory: a new file then takes 590 µs instead of 29.
    """
    drop_caches(1)
    reading = ["find", str(stack.home), "-type", "f", "-exec", "cat", "{}", "+"]
    subprocess.run(reading, check=True, stdout=subprocess.DEVNULL)


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True)
