"""Signals of a mount whose request loop is in C, taken by a thread of their own.

While libfuse loops, no Python handler ever runs in the main thread. So the signals are blocked everywhere and one
thread waits for them. What they do is what front end A does with them (`unionfs.server.signals`).
"""

from __future__ import annotations

import os
import signal
from _thread import start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.cli.log import Log

STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
COUNTERS = signal.SIGUSR1


def block() -> None:
    """To be called before any thread is started, so that all inherit it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP | {COUNTERS})


def start(unmount: Callable[[bool], None], counters: Callable[[], dict[str, int]], log: Log) -> None:
    """Watch from now on, in the background.

    SIGTERM, SIGINT and SIGHUP call unmount(False), and unmount(True), lazily, when that raises OSError: then
    the
    name goes at once and whoever still has files open may finish with them. A second one ends the process.
    SIGUSR1 writes the counters to the log.
    """
    start_new_thread(_watch, (unmount, counters, log))


def _watch(unmount: Callable[[bool], None], counters: Callable[[], dict[str, int]], log: Log) -> None:
    stopping = False
    while True:
        number = signal.sigwait(STOP | {COUNTERS})
        if number == COUNTERS:
            log(" ".join(f"{name}={value}" for name, value in sorted(counters().items())))
        elif stopping:
            log("stopped a second time: ended, with files still open")
            os._exit(1)
        else:
            stopping = True
            _stop(unmount, log, signal.Signals(number).name)


def _stop(unmount: Callable[[bool], None], log: Log, name: str) -> None:
    try:
        unmount(False)
        log(f"{name}: unmounted")
    except OSError as busy:
        log(f"{name}: {busy.strerror}; detached, serving until the last open file is closed")
        try:
            unmount(True)
        except OSError as error:
            log(f"{name}: cannot unmount: {error}")
