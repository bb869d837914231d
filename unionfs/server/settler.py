"""Copies whose sync the union may put off, made safe together, shortly after, by a thread of their own.

See `unionfs.union.settle`. The thread is there only while copies wait.
"""

from __future__ import annotations

import os
from threading import Event, Thread

from unionfs.server.pacing import release_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.union import Union

# How long a copy waits for others to be synced with. One sync costs 2 ms or more here, a `chmod -R` makes a
# thousand copies in this time, and nobody else's data is older than the kernel's own 5 s on a crash.
DELAY = 0.2  # s
# From so many on it is not worth waiting any longer. The union takes 512 before it syncs each by itself.
ENOUGH = 256


class Settler:
    """`wake` with the union's lock held; `join` without."""

    __slots__ = ("_enough", "_log", "_processors", "_thread", "_union")

    def __init__(self, union: Union, log: Callable[[str], None]) -> None:
        self._union = union
        self._log = log
        self._thread: Thread | None = None
        self._enough = Event()
        self._processors = os.sched_getaffinity(0)
        union.defer_sync = True

    def wake(self) -> None:
        """Copies wait to be made safe."""
        if self._thread is None:
            self._enough.clear()
            self._thread = Thread(target=self._run, name="unionfs-settler")
            self._thread.start()
        elif len(self._union.unsettled) >= ENOUGH:
            self._enough.set()

    def _run(self) -> None:
        release_thread(self._processors)
        while True:
            self._enough.wait(DELAY)
            self._enough.clear()
            with self._union.lock:
                try:
                    self._union.settle()
                except OSError as error:
                    self._log(f"copies made in upper cannot be synced: {error}")
                if not self._union.unsettled:
                    self._thread = None
                    return

    def join(self) -> None:
        """Returns when no copy waits any more."""
        thread = self._thread
        if thread is not None:
            self._enough.set()
            thread.join()
