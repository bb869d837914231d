"""What a daemon costs: CPU time and memory of its processes, from the kernel's own books."""

from __future__ import annotations

import os
import time
from pathlib import Path

CPUCLOCK_SCHED = 2
"""From include/linux/posix-timers.h: the clock of the scheduler's run time, ns resolution (/proc/PID/stat has
10 ms).
"""


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of the process, ended ones too; 0 once it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def status_kib(pid: int, field: str) -> int:
    """A field of /proc/PID/status in KiB (VmRSS, VmHWM …); 0 once the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def serving(mountpoint: Path) -> list[int]:
    """The processes that have the mount point among their arguments, this one left out: the daemon of the
    mount.
    """
    wanted = os.fsencode(mountpoint)
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                arguments = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in arguments:
                found.append(int(name))
    return sorted(found)


class Daemon:
    """The processes that serve one mount."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids

    def cpu(self) -> float:
        """Seconds of CPU since they started."""
        return sum(cpu_seconds(pid) for pid in self.pids)

    def rss(self) -> int:
        """Resident KiB now."""
        return sum(status_kib(pid, "VmRSS") for pid in self.pids)

    def alive(self) -> bool:
        return all(os.path.exists(f"/proc/{pid}") and status_kib(pid, "VmRSS") for pid in self.pids)
