"""A fake kernel: the other end of a socket that a session takes for /dev/fuse.

Requests are put together from raw bytes, as in tests/wire/messages.py, and replies taken apart by hand.
"""

from __future__ import annotations

import os
import socket
import threading
from errno import ENODEV
from typing import TYPE_CHECKING, Self

from tests.server.fake import FakeUnion
from tests.wire.messages import b2, b4, b8
from unionfs.server.session import Options, Session
from unionfs.wire import kernel as k

if TYPE_CHECKING:
    from collections.abc import Callable

EVERYTHING = (1 << 43) - 1
_SIZE = 1 << 21


class SocketPace:
    """Waits on the socket; its end is the mount's."""

    def __init__(self, fd: int, buf: bytearray) -> None:
        self._fd = fd
        self._buffers = [buf]

    def receive(self) -> int:
        try:
            length = os.readv(self._fd, self._buffers)
        except ConnectionResetError:
            length = 0
        if not length:
            raise OSError(ENODEV, "unmounted")
        return length

    def close(self) -> None:
        pass


class FakeKernel:
    """Serve `union` and talk to the server. Use it in a with block; it must end without an error of the loop."""

    def __init__(self, union: FakeUnion, options: Options | None = None, *, minor: int = 45) -> None:
        self.log: list[str] = []
        options = options or Options()
        options.log = self.log.append
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(10)
        for end in (self._ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SIZE)
        self.session = Session(union, b"/nowhere", self._theirs.detach(), options)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._serve)
        self._error: BaseException | None = None
        self._unique = 100
        self._minor = minor
        self.init: bytes = b""
        self.notifications: list[tuple[int, bytes]] = []  # (code, body)

    def _serve(self) -> None:
        try:
            self.session.run()
        except BaseException as error:  # the test must see it
            self._error = error

    def __enter__(self) -> Self:
        self.session.pace = SocketPace
        self._thread.start()
        offered = EVERYTHING if self._minor >= 36 else EVERYTHING & 0x3FFFFFF
        body = b4(7) + b4(self._minor) + b4(131072) + b4(offered & 0xFFFFFFFF)
        if self._minor >= 36:
            body += b4(offered >> 32) + bytes(44)
        error, self.init = self.call(k.FUSE_INIT, 0, body)
        assert error == 0
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        self._ours.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._error is not None and kind is None:
            raise self._error

    def send(self, opcode: int, nodeid: int, *parts: bytes, uid: int = 0, gid: int = 0) -> int:
        """Sends a request and returns its `unique`."""
        self._unique += 2
        body = b"".join(parts)
        header = b4(40 + len(body)) + b4(opcode) + b8(self._unique) + b8(nodeid)
        self._ours.send(header + b4(uid) + b4(gid) + b4(os.getpid()) + b2(0) + b2(0) + body)
        return self._unique

    def send_raw(self, message: bytes) -> None:
        self._ours.send(message)

    def receive(self) -> tuple[int, int, bytes]:
        """(unique, errno, body) of the next reply; notifications before it are noted."""
        while True:
            reply = self._ours.recv(_SIZE)
            assert int.from_bytes(reply[:4], "little") == len(reply)
            error = int.from_bytes(reply[4:8], "little", signed=True)
            unique = int.from_bytes(reply[8:16], "little")
            if unique:
                return unique, -error, reply[16:]
            self.notifications.append((error, reply[16:]))

    def silent(self) -> bool:
        """Whether no reply is waiting, after one to a later request has been received."""
        self.call(k.FUSE_STATFS, 1)
        self._ours.setblocking(False)
        try:
            self._ours.recv(_SIZE)
        except BlockingIOError:
            return True
        finally:
            self._ours.settimeout(10)
        return False

    def call(self, opcode: int, nodeid: int, *parts: bytes, uid: int = 0, gid: int = 0) -> tuple[int, bytes]:
        """(errno, body) of the answer to a request that is answered before any other."""
        sent = self.send(opcode, nodeid, *parts, uid=uid, gid=gid)
        unique, error, body = self.receive()
        assert unique == sent
        return error, body

    def good(self, opcode: int, nodeid: int, *parts: bytes) -> bytes:
        """The body of the answer, which must be a success."""
        error, body = self.call(opcode, nodeid, *parts)
        assert error == 0, os.strerror(error)
        return body

    def lookup(self, parent: int, name: bytes) -> int:
        """The node id of a name; 0 where there is none."""
        return u64(self.good(k.FUSE_LOOKUP, parent, name + b"\0"), 0)

    def open(self, nodeid: int, flags: int) -> tuple[int, int, int]:
        """(handle, open flags, backing id)"""
        body = self.good(k.FUSE_OPEN, nodeid, b4(flags), b4(0))
        return u64(body, 0), u32(body, 8), u32(body, 12)

    def release(self, nodeid: int, handle: int) -> None:
        self.good(k.FUSE_RELEASE, nodeid, b8(handle), b4(0), b4(0), b8(0))

    def read(self, nodeid: int, handle: int, offset: int, size: int) -> bytes:
        return self.good(k.FUSE_READ, nodeid, b8(handle), b8(offset), b4(size), b4(0), b8(0), b4(0), b4(0))

    def write(self, nodeid: int, handle: int, offset: int, data: bytes, flags: int = 0) -> int:
        head = b8(handle) + b8(offset) + b4(len(data)) + b4(flags) + b8(0) + b4(1) + b4(0)
        return u32(self.good(k.FUSE_WRITE, nodeid, head, data), 0)


def u32(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 4], "little")


def u64(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 8], "little")


class Attr:
    """A struct fuse_attr at an offset of a reply."""

    def __init__(self, body: bytes, at: int) -> None:
        self.ino, self.size, self.blocks = (u64(body, at + 8 * i) for i in range(3))
        seconds = [u64(body, at + 24 + 8 * i) for i in range(3)]
        parts = [u32(body, at + 48 + 4 * i) for i in range(3)]
        self.atime_ns, self.mtime_ns, self.ctime_ns = (s * 10**9 + n for s, n in zip(seconds, parts, strict=True))
        self.mode, self.nlink, self.uid, self.gid = (u32(body, at + 60 + 4 * i) for i in range(4))


def setattr_in(valid: int, **values: int) -> bytes:
    """struct fuse_setattr_in"""
    g: Callable[[str], int] = lambda name: values.get(name, 0)  # noqa: E731
    return (
        b4(valid) + b4(0) + b8(g("fh")) + b8(g("size")) + b8(0)
        + b8(g("atime")) + b8(g("mtime")) + b8(0) + b4(g("atimensec")) + b4(g("mtimensec")) + b4(0)
        + b4(g("mode")) + b4(0) + b4(g("uid")) + b4(g("gid")) + b4(0)
    )  # fmt: skip
