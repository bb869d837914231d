"""Waiting for the next request: without sleeping, or on the processor where it comes from.

Waking a thread costs more than all that the daemon does for a request, most of all where the processor it sleeps on has
gone to sleep, too: then `stat` of a new name takes 75 µs, of which 10 are ours. Two ways around it:

- spin: while requests come densely and a processor is to be had, ask again and again for up to 0.1 ms before sleeping;
- follow: where others want to run, and one process alone makes requests and waits for each, move to the processor
  that it runs on, so that one wakes the other without a second processor being woken.

Medians in µs of 3 to 4 interleaved runs on two processors (a virtual machine), Linux 6.18:

                            sleeping   following   spinning   fuse-overlayfs 1.10
    otherwise idle
      stat, cold                 108          72         34                    85
      stat, not there             75          60         25                    72
      open read close             80          66         30                    62
    beside a busy loop
      stat, not there             12          13         25 (*)                15
      open read close             17          20         30 (*)                18

(*) so it does not spin there. Following alone, over more kinds of load, is compared in docs/decisions.md.

Rules, so that it never hurts:
- every 31st request is looked at. The number is odd because opens and releases take turns;
- spin only if these came within 0.2 ms of each other, and no more threads want to run than there are processors for
  us; if they do, not for the next 8 looks;
- follow only one client: with two different ones, one after the other, the scheduler knows better. Let go;
- READ and WRITE: readahead overlaps with the client's own work, on two processors. Let go;
- pid 0 says nothing: a release, or a client in a foreign pid namespace;
- only processors that the thread was given; threads that the loop starts get them all back;
- 0.1 s without a look: idle or slow, let go. An idle daemon costs nothing and is bound to nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from select import POLLIN, poll
from struct import Struct
from time import monotonic_ns

from unionfs.device.channel import receive
from unionfs.wire.kernel import FUSE_READ, FUSE_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Pace(Protocol):
        """What waits for requests. `receive` puts one into the buffer and returns its length."""

        def receive(self) -> int: ...

        def close(self) -> None: ...


EVERY = 31  # requests from one look to the next: a look costs 1 µs, one at the client 15 µs
SPIN = 100_000  # ns for which the next request is waited for without sleeping
DENSE = EVERY * 2 * SPIN  # ns that this many requests may take for spinning to be worth it
CALM = 8  # looks without spinning after somebody else wanted the processor
IDLE = 0.1  # s without a look after which the thread is let go
_opcode_pid = Struct("=4xI24xI").unpack_from


class Plain:
    """Waits in the kernel, wherever the scheduler puts the thread."""

    __slots__ = ("_buffers", "_fd")

    def __init__(self, fd: int, buf: bytearray) -> None:
        self._fd = fd
        self._buffers = [buf]

    def receive(self) -> int:
        return receive(self._fd, self._buffers)

    def close(self) -> None:
        pass


class Pacer:
    """Waits in the way that is best at the moment. Only for the main thread: it uses SIGALRM.

    The descriptor must not block. `spinning`: what the last look has decided on.
    """

    __slots__ = ("_allowed", "_before", "_buf", "_buffers", "_calm", "_client", "_fd", "_left", "_load", "_place",
                 "_poll", "_since", "spinning")  # fmt: skip

    def __init__(self, fd: int, buf: bytearray) -> None:
        self._fd = fd
        self._buf = buf
        self._buffers = [buf]
        self._left = EVERY
        self.spinning = False
        self._calm = 0  # looks left without spinning
        self._since = 0  # ns: when the last look was
        self._load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._client = 0  # pid of the last client looked at
        self._place = -1  # the processor the thread is bound to; -1: none
        self._allowed = os.sched_getaffinity(0)
        self._before = signal.signal(signal.SIGALRM, self._idle)
        waiting = poll()
        waiting.register(fd, POLLIN)
        self._poll = waiting.poll

    def receive(self) -> int:
        self._left -= 1
        if not self._left:
            self._look()
        while True:
            try:
                return receive(self._fd, self._buffers)
            except BlockingIOError:
                self._wait()

    def _wait(self) -> None:
        """Returns when there is a request, or seemed to be one."""
        poll = self._poll
        if self.spinning:
            end = monotonic_ns() + SPIN
            while not poll(0):
                if monotonic_ns() > end:
                    break
            else:
                return
        poll()

    def close(self) -> None:
        """Gives the thread and the signal back."""
        os.close(self._load)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        self._let_go()

    def _look(self) -> None:
        """How it has gone since the last look, and what follows."""
        self._left = EVERY
        now = monotonic_ns()
        dense = now - self._since < DENSE
        self._since = now
        if running_threads(self._load) > len(self._allowed):
            self._calm = CALM
        elif self._calm:
            self._calm -= 1
        self.spinning = dense and not self._calm
        if self.spinning:
            self._let_go()
        else:
            self._follow()

    def _follow(self) -> None:
        """To the processor of the client whose request the last one was, if all are."""
        opcode, pid = _opcode_pid(self._buf)
        if not pid:
            return
        if pid != self._client or opcode in (FUSE_READ, FUSE_WRITE):
            self._client = pid
            self._let_go()
            return
        place = processor_of(pid)
        if place != self._place and place in self._allowed:
            self._bind(place)
        signal.setitimer(signal.ITIMER_REAL, IDLE)

    def _bind(self, place: int) -> None:
        try:
            os.sched_setaffinity(0, (place,))
        except OSError:  # taken away from us meanwhile
            return
        self._place = place

    def _let_go(self) -> None:
        if self._place >= 0:
            self._place = -1
            release_thread(self._allowed)

    def _idle(self, _number: int, _frame: object) -> None:
        self._let_go()


def pace(fd: int, buf: bytearray) -> Pace:
    """The best there is here: following needs the main thread and more than one processor."""
    if threading.current_thread() is threading.main_thread() and len(os.sched_getaffinity(0)) > 1:
        os.set_blocking(fd, False)
        return Pacer(fd, buf)
    return Plain(fd, buf)


def running_threads(fd: int) -> int:
    """Threads of the whole machine that run or could run now, from a descriptor of /proc/loadavg."""
    return int(os.pread(fd, 100, 0).split(None, 4)[3].partition(b"/")[0])


def processor_of(pid: int) -> int:
    """The processor that a thread ran on last; -1 where that is not to be known."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        line = os.read(fd, 1024)
    except OSError:
        return -1
    finally:
        os.close(fd)
    # the name, in parentheses, may hold anything; `processor` is the 39th field, the 37th behind it
    return int(line[line.rindex(b")") + 2 :].split(None, 37)[36])


def release_thread(allowed: set[int]) -> None:
    """Lets the calling thread run on all of `allowed`."""
    try:
        os.sched_setaffinity(0, allowed)
    except OSError:  # none of them is ours any more: the kernel has chosen others
        pass
