"""Threads for requests that may take long: started when there is work, gone when there is none.

They run the same handlers as the loop, at desks of their own. They hold `union.lock` as the loop does; what
waits for a disk releases it meanwhile.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock
from queue import Empty, SimpleQueue

from unionfs.server.pacing import release_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.server.desk import Desk

    Job = tuple[int, int, int, tuple[object, ...]]  # opcode unique nodeid values

# More than this many slow requests at once only make the disk seek. Each thread has a desk with 1 MiB.
MAX_THREADS = 16
# A thread that had nothing to do for so long ends.
LINGER = 2.0  # s
NAME = "unionfs-worker"
_END = -1  # no request's unique


class Workers:
    """`submit` and `withdraw` are the loop's to call; `join` ends the lot."""

    def __init__(
        self,
        make_desk: Callable[[], Desk],
        answer: Callable[[Desk, Job], None],
        send: Callable[[bytearray], None],
    ) -> None:
        """`answer` carries out a job and sends the reply; it raises nothing. `send` sends a finished reply."""
        self._make_desk = make_desk
        self._answer = answer
        self.send = send
        self._queue: SimpleQueue[int] = SimpleQueue()  # of unique; _END
        self._waiting: dict[int, Job] = {}  # by unique: not begun yet
        self._lock = allocate_lock()  # of the two numbers
        self._processors = os.sched_getaffinity(0)
        self._threads = 0
        self._free = 0  # threads that wait, less what is queued for them

    def submit(self, job: Job) -> None:
        """Has a job done as soon as a thread is free."""
        unique = job[1]
        self._waiting[unique] = job
        with self._lock:
            start = self._free <= 0 and self._threads < MAX_THREADS
            if start:
                self._threads += 1
            else:
                self._free -= 1
        self._queue.put(unique)
        if start:
            threading.Thread(target=self._work, name=NAME).start()

    def withdraw(self, unique: int) -> bool:
        """Takes back a job that nobody has begun; False where there is none such."""
        return self._waiting.pop(unique, None) is not None

    def _work(self) -> None:
        release_thread(self._processors)  # the loop's thread may be bound to one when it starts us
        desk = self._make_desk()
        while self._take(desk):
            pass

    def _take(self, desk: Desk) -> bool:
        """Does one job; False when there was none for a while and the thread is to end."""
        try:
            unique = self._queue.get(timeout=LINGER)
        except Empty:
            return not self._may_end()
        if unique == _END:
            return False
        if job := self._waiting.pop(unique, None):
            self._answer(desk, job)
        with self._lock:
            self._free += 1
        return True

    def _may_end(self) -> bool:
        with self._lock:
            if self._free <= 0:  # a job is on its way to this thread
                return False
            self._free -= 1
            self._threads -= 1
            return True

    def join(self) -> None:
        """Waits for all that has been submitted; returns when no thread is left."""
        threads = [thread for thread in threading.enumerate() if thread.name == NAME]
        for _ in threads:
            self._queue.put(_END)  # behind all jobs: nobody lingers
        for thread in threads:
            thread.join()
