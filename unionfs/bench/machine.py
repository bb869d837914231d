"""What is recorded of the machine, so that figures of different days can be told apart."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path


def describe(directory: Path) -> dict[str, str]:
    """Facts about the machine, and about the file system that holds `directory`."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.1f} GiB",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file system": file_system(directory),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "commit": _commit(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(directory: Path) -> str:
    """Type and options of the mount below `directory`, as in /proc/self/mounts."""
    best, found = "", "unknown"
    path = f"{directory.resolve()}/"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if path.startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, found = point, f"{kind} ({options})"
    return found


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "not from a repository"
