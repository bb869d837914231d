"""A desk is where one thread answers requests: the common state, and replies of its own to fill in.

A handler is a function `handler(desk, nodeid, *values) -> reply`, the values as the decoder gives them. The
reply is a finished message but for `unique`; NO_REPLY where the kernel waits for none; DEFER where the work
may take long: the loop then hands the request to a worker, whose desk calls the same handler again.
Handlers raise OSError with the errno for the application. They are called with `union.lock` held.
"""

from __future__ import annotations

from os import O_ACCMODE, RWF_NOWAIT, preadv
from select import POLLIN, poll
from stat import S_IFREG

from unionfs.device.channel import send
from unionfs.server.modes import FED
from unionfs.wire import encode
from unionfs.wire.kernel import FOPEN_KEEP_CACHE
from unionfs.wire.negotiate import MAX_WRITE
from unionfs.wire.structs import (
    fuse_copy_file_range_out,
    fuse_getxattr_out,
    fuse_lseek_out,
    fuse_open_out,
    fuse_statfs_out,
    fuse_write_out,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from struct import Struct

    from unionfs.server.state import State
    from unionfs.server.workers import Workers
    from unionfs.union import Dir, File, Node

    Reply = bytearray | memoryview | bytes | None

# Files below this size are given to the kernel whole.
FED_SIZE = 128 << 10

NO_REPLY = None
DEFER = b""

_put_open = fuse_open_out.pack_into
_put_attr = encode.put_attr
_put_entry = encode.put_entry


class Desk:
    """
    nodes, dirs  the same table: `dirs` is for node ids that must be a directory's
    on_loop    this desk is the loop's, where nothing may take long
    request    the buffer with the request being answered (the loop's desk only)
    valid      (s, ns) for which the kernel may keep names and attributes
    out, view  room for replies of varying length, and a view of it
    """

    __slots__ = (
        "_attr", "_create", "_entry", "_fd", "_fed", "_open", "_sized", "_statx", "dirs", "files", "negative", "nodes",
        "ok", "on_loop", "out", "request", "state", "union", "valid", "view", "workers", "_waiting",
    )  # fmt: skip

    def __init__(self, state: State, workers: Workers, valid: tuple[int, int], request: bytearray | None,
                 fd: int) -> None:
        self.state = state
        self.workers = workers
        self.union = state.union
        self.nodes = state.nodes
        self.dirs: list[Dir] = state.nodes  # type: ignore[assignment]
        self.files = state.files
        self.on_loop = request is not None
        self._waiting = poll()
        self._waiting.register(fd, POLLIN)
        self.request = request if request is not None else bytearray()
        self.valid = valid
        self.out = bytearray(encode.HEADER + MAX_WRITE)
        self.view = memoryview(self.out)
        self._fd = fd
        self._fed = self.view[encode.STORE_AT : encode.STORE_AT + FED_SIZE]
        self.ok = encode.status_reply()
        self.negative = encode.entry_reply(*valid)
        self._entry = encode.entry_reply(*valid)
        self._create = encode.create_reply(*valid)
        self._attr = encode.attr_reply(*valid)
        self._statx = encode.statx_reply(*valid)
        self._open = encode.sized_reply(fuse_open_out)
        self._sized: dict[Struct, bytearray] = {}

    def others_wait(self) -> bool:
        """Whether another request is there already."""
        return bool(self._waiting.poll(0))

    def busy(self, node: Node, writing: bool) -> bool:
        """Whether a change of `node` is to be deferred, because it needs a copy-up that may take long.

        writing: its data is going to change, too.
        """
        return self.on_loop and self.union.slow(node, writing)

    def done(self) -> Reply:
        """The reply to a change that may have copied something up."""
        if self.union.unsettled:
            self.state.settler.wake()
        return self.ok

    def know(self, node: Node) -> int:
        """The node id for one more reply that names `node`."""
        node.lookups += 1
        return node.nodeid or self.state.known(node)

    def entry(self, node: Node, st: os.stat_result) -> Reply:
        """A reply that names a node."""
        reply = self._entry
        nodeid = node.nodeid
        if nodeid:
            node.lookups += 1
        else:
            nodeid = self.know(node)
        _put_entry(reply, nodeid, node.ino, self.union.nlink(node, st), st)
        return reply

    def attr(self, node: Node, st: os.stat_result) -> Reply:
        """A reply with attributes alone."""
        reply = self._attr
        _put_attr(reply, 32, node.ino, self.union.nlink(node, st), st)
        return reply

    def statx(self, node: Node, st: os.stat_result) -> Reply:
        """A reply with attributes and birth time."""
        union = self.union
        encode.put_statx(self._statx, node.ino, union.nlink(node, st), st, union.statx_btime(node))
        return self._statx

    def opened(self, file: File) -> Reply:
        """A reply with a handle for `file`."""
        state = self.state
        first = not file.node.front
        flags, backing = self._begin(file, -1)
        if first and flags == FOPEN_KEEP_CACHE and not file.flags & O_ACCMODE:
            self._feed(file)
        _put_open(self._open, 16, state.open(file), flags, backing)
        return self._open

    def _feed(self, file: File) -> None:
        """Give the kernel the data of a small file along with its first open: whoever opens it will read it.

        That spares a READ, and the GETATTR for the access time that would follow it. It must be the only open: who
        reads through another may hold the pages while he waits for us.
        """
        node = file.node
        if node.kind != S_IFREG:
            return
        node.front |= FED
        try:
            count = self._load(file.fileno())
            if 0 < count < FED_SIZE:
                send(self._fd, self.view[: encode.put_store(self.out, node.nodeid, 0, count)])
        except OSError:
            pass  # what cannot be read now is reported to whoever reads it

    def _load(self, fd: int) -> int:
        """Read the beginning of a file; 0 where the disk would have to be waited for, unless many files are read."""
        readahead = self.state.readahead
        readahead.reads += 1
        try:
            return preadv(fd, [self._fed], 0, RWF_NOWAIT)
        except BlockingIOError:
            wait = readahead.going and not self.others_wait()
            readahead.missed()
            return preadv(fd, [self._fed], 0) if wait else 0

    def _begin(self, file: File, mode: int) -> tuple[int, int]:
        try:
            return self.state.modes.opened(file, mode)
        except BaseException:
            self.union.release(file)
            raise

    def created(self, node: Node, st: os.stat_result, file: File) -> Reply:
        """A reply that names a new file and has a handle for it."""
        state, reply = self.state, self._create
        flags, backing = self._begin(file, st.st_mode)
        _put_entry(reply, self.know(node), node.ino, self.union.nlink(node, st), st)
        _put_open(reply, encode.OPEN_AT, state.open(file), flags, backing)
        return reply

    def finished(self, end: int) -> Reply:
        """The reply that stands in `out[:end]`, its header still to be written."""
        encode.put_header(self.out, 0, end, 0, 0)
        return self.view[:end]

    def data(self, payload: bytes) -> Reply:
        """A reply that carries bytes."""
        end = encode.HEADER + len(payload)
        self.out[encode.HEADER : end] = payload
        return self.finished(end)

    def number(self, layout: Struct, value: int) -> Reply:
        """A reply whose structure `layout` has one field."""
        reply = self._sized.get(layout)
        if reply is None:
            reply = self._sized[layout] = encode.sized_reply(layout)
        layout.pack_into(reply, encode.HEADER, value)
        return reply

    def written(self, count: int) -> Reply:
        return self.number(fuse_write_out, count)

    def xattr_size(self, size: int) -> Reply:
        return self.number(fuse_getxattr_out, size)

    def offset(self, offset: int) -> Reply:
        return self.number(fuse_lseek_out, offset)

    def copied(self, count: int) -> Reply:
        return self.number(fuse_copy_file_range_out, count)

    def statfs(self, vfs: os.statvfs_result) -> Reply:
        reply = encode.sized_reply(fuse_statfs_out)
        encode.put_statfs(reply, vfs)
        return reply

    def failure(self, errno: int) -> Reply:
        """A reply that says what went wrong."""
        return encode.status_reply(errno)
