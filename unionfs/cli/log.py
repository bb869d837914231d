"""Where a daemon's lines go: a file, the terminal, or nowhere."""

from __future__ import annotations

import os
import time

from unionfs.cli.errors import CommandError, shown


class Log:
    """Call it with text: each line is written at once, the time before it. Losing one hurts nobody else."""

    __slots__ = ("fd",)

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd

    @classmethod
    def to_file(cls, path: bytes) -> Log:
        """Appends to `path`. Raises CommandError where that cannot be."""
        try:
            return cls(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise CommandError(f"log file {shown(path)}: {error.strerror}") from None

    def __call__(self, text: str) -> None:
        if self.fd < 0:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03}"
        lines = "".join(f"{stamp} {line}\n" for line in text.splitlines())
        try:
            os.write(self.fd, lines.encode("utf-8", "backslashreplace"))
        except OSError:
            return
