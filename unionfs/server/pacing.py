"""Waiting for the next request."""

from __future__ import annotations

from unionfs.device.channel import receive


class Plain:
    """Waits in the kernel."""

    __slots__ = ("_buffers", "_fd")

    def __init__(self, fd: int, buf: bytearray) -> None:
        self._fd = fd
        self._buffers = [buf]

    def receive(self) -> int:
        return receive(self._fd, self._buffers)


Pacer = Plain
