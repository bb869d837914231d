"""Progress of several downloads or uploads: bars on a terminal, one line per finished blob elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time

from unionfs.cli.image_args import plain
from unionfs.cli.image_args import size as shown_size

_EVERY = 0.1
_BAR = 30


class Bars:
    """A transfer's `Progress`, on standard error. Close it to leave the terminal in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, list[int]] = {}  # digest → [done, size]
        self._outcomes: dict[str, str] = {}
        self._drawn = 0
        self._next = 0.0
        self._terminal = sys.stderr.isatty()

    def start(self, digest: str, size: int) -> None:
        with self._lock:
            self._rows[digest] = [0, size]
            self._draw()

    def advance(self, digest: str, count: int) -> None:
        with self._lock:
            self._rows[digest][0] += count
            if time.monotonic() >= self._next:
                self._draw()

    def finish(self, digest: str, outcome: str) -> None:
        with self._lock:
            self._outcomes[digest] = outcome
            if self._terminal:
                self._draw()
            else:
                print(
                    f"{digest[7:19]}: {outcome} ({shown_size(self._rows[digest][1])})",
                    file=sys.stderr,
                    flush=True,
                )

    def say(self, line: str) -> None:
        """A line of text that stays, above the bars."""
        with self._lock:
            if self._terminal:
                self._erase()
            print(plain(line), file=sys.stderr, flush=True)
            self._draw()

    def close(self) -> None:
        with self._lock:
            self._draw()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
        self._drawn = 0

    def _draw(self) -> None:
        if not self._terminal:
            return
        self._next = time.monotonic() + _EVERY
        self._erase()
        room = max(os.get_terminal_size(2).lines - 2, 1)
        lines = [self._line(digest) for digest in self._rows][-room:]
        sys.stderr.write("".join(line + "\n" for line in lines))
        sys.stderr.flush()
        self._drawn = len(lines)

    def _line(self, digest: str) -> str:
        done, total = self._rows[digest]
        if digest in self._outcomes:
            return f"{digest[7:19]}: {self._outcomes[digest]} ({shown_size(total)})"
        filled = int(_BAR * done / total) if total else _BAR
        bar = "=" * filled + ">" * (filled < _BAR)
        return f"{digest[7:19]}: [{bar:<{_BAR}}] {shown_size(done)}/{shown_size(total)}"
