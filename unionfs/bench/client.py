"""Runs the load generator: client.c where a compiler is there, pyclient.py otherwise."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = 300
"""Seconds after which a client or command counts as hung."""

START_DELAY = 60_000_000
"""ns granted to start parallel clients before they begin together; a Python client needs about 40 ms."""


class Failed(Exception):
    """A measured command failed or hung; the message is for the report."""


@dataclass(frozen=True)
class Sample:
    """What one client, or several in parallel, measured. Times in ns."""

    n: int
    missing: int
    failed: int
    entries: int
    wall: int
    sum: int
    p50: int
    p99: int

    @property
    def per_op(self) -> float:
        """µs that an operation took: calls alone with one client, elapsed time per operation with several."""
        return self.sum / max(self.n, 1) / 1000

    @property
    def rate_per_op(self) -> float:
        """µs of elapsed time per operation, over all clients."""
        return self.wall / max(self.n, 1) / 1000


class Client:
    """Builds the client once, in `scratch`, and runs it."""

    def __init__(self, scratch: Path, force_python: bool = False) -> None:
        self.scratch = scratch
        self.command = [sys.executable, "-S", "-E", str(Path(__file__).with_name("pyclient.py"))]
        self.kind = "python"
        compiler = None if force_python else shutil.which("gcc") or shutil.which("cc")
        if compiler and self._compile(compiler, scratch / "client"):
            self.command, self.kind = [str(scratch / "client")], "c"

    @staticmethod
    def _compile(compiler: str, target: Path) -> bool:
        source = Path(__file__).with_name("client.c")
        done = subprocess.run([compiler, "-O2", "-o", target, source], capture_output=True)
        return done.returncode == 0

    def run(self, operation: str, root: Path, names: Sequence[str], processes: int = 1, **options: int) -> Sample:
        """Does `operation` on every name below `root`, the names dealt out to `processes` clients.

        Raises Failed where a client dies or an operation failed other than by ENOENT.
        """
        lists = [self._write_names(i, names[i::processes]) for i in range(processes)]
        if processes > 1:
            options = {**options, "start": time.monotonic_ns() + START_DELAY * (1 + processes // 2)}
        extra = [f"{key}={value}" for key, value in options.items()]
        running = [
            subprocess.Popen(
                [*self.command, operation, str(root), str(path), *extra],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for path in lists
        ]
        return _combine(operation, [_result(process) for process in running])

    def _write_names(self, index: int, names: Sequence[str]) -> Path:
        path = self.scratch / f"names.{index}"
        path.write_text("".join(f"{name}\n" for name in names))
        return path


def _result(process: subprocess.Popen[str]) -> dict[str, int]:
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed(f"client still running after {TIMEOUT} s") from None
    if process.returncode:
        raise Failed(err.strip() or f"client exited with {process.returncode}")
    answer: dict[str, int] = json.loads(out)
    return answer


def _combine(operation: str, parts: list[dict[str, int]]) -> Sample:
    total = {key: sum(part[key] for part in parts) for key in ("n", "missing", "failed", "entries", "sum")}
    if total["failed"]:
        raise Failed(f"{total['failed']} of {total['n']} operations `{operation}` failed")
    wall = max(part["end"] for part in parts) - min(part["begin"] for part in parts)
    percentiles = {key: max(part[key] for part in parts) for key in ("p50", "p99")}
    return Sample(wall=wall, **total, **percentiles)
