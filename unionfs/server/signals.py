"""The signals of a serving process: SIGTERM, SIGINT and SIGHUP unmount, SIGUSR1 tells the counters."""

from __future__ import annotations

import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], None]

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """`with Signals(stop, report):` – calls them for the signals while the block runs.

    Does nothing outside the main thread, which alone may ask for signals.
    """

    def __init__(self, stop: Callable[[], None], report: Callable[[], None]) -> None:
        self._handlers: dict[int, Handler] = {signal.SIGUSR1: _ignoring_arguments(report)}
        for number in ENDING:
            self._handlers[number] = _ignoring_arguments(stop)
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                self._before[number] = signal.signal(number, handler)

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _ignoring_arguments(function: Callable[[], None]) -> Handler:
    def handler(_number: int, _frame: FrameType | None) -> None:
        function()

    return handler
