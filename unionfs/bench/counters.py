"""Reading the counters of our own daemon: it writes them to its log when it gets SIGUSR1."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 1.0
"""Seconds that the daemon gets to answer."""

COUNTERS = re.compile(r"^\S+ \S+ (?:counters: )?((?:\w+=\d+ ?)+)\n", re.MULTILINE)
"""A whole line of the log that holds nothing but date, time and NAME=VALUE words."""


def read(pids: list[int], log: Path) -> dict[str, int]:
    """Requests by opcode as the daemon counts them; empty where it does not answer in time."""
    start = log.stat().st_size if log.exists() else 0
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if log.exists():
            with open(log, encoding="utf-8", errors="replace") as file:
                file.seek(start)
                if found := parse(file.read()):
                    return found
        time.sleep(0.001)
    return {}


def parse(text: str) -> dict[str, int]:
    """The opcodes, which are in capitals, of the last complete line of counters; empty where there is none."""
    found = COUNTERS.findall(text)
    pairs = (word.split("=") for word in found[-1].split()) if found else ()
    return {name: int(value) for name, value in pairs if name.isupper()}
