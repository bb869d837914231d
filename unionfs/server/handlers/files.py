"""Requests about open files and their data. Handlers: see `server.desk`."""

from __future__ import annotations

import os
from errno import ENOSYS, EOPNOTSUPP, EROFS
from os import O_ACCMODE, O_TRUNC
from time import monotonic

from unionfs.server.desk import DEFER
from unionfs.wire.kernel import FUSE_FSYNC_FDATASYNC, FUSE_OPEN_KILL_SUIDGID, FUSE_WRITE_KILL_SUIDGID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.desk import Desk, Reply
    from unionfs.union import File
    from unionfs.wire.decode import Who

_CHANGES = O_ACCMODE | O_TRUNC
_AT_ONCE = os.RWF_NOWAIT

# A write normally copies into the page cache, 0.15 ms for 1 MiB. One that took longer than this was made to
# wait for the disk, because too much is dirty; then the next ones are left to the workers for a while, so
# that the loop goes on answering.
THROTTLED = 0.005  # s

# A read from disk of at most this size is done by the loop when nobody else waits for it: whoever comes meanwhile
# waits for one access to the disk, as for a cold name. Handing it to a worker would cost the reader two wake-ups.
SHORT = 128 << 10
THROTTLED_FOR = 1.0  # s


def _file(desk: Desk, nodeid: int, fh: int) -> File:
    """The file of a handle; 0 stands for a file that was opened without a message."""
    return desk.files[fh] if fh else desk.state.reader(nodeid)


def open_(desk: Desk, nodeid: int, flags: int, open_flags: int) -> Reply:
    node, state = desk.nodes[nodeid], desk.state
    if state.zero_open:
        return desk.failure(ENOSYS)  # the kernel then opens files by itself and never asks again
    if flags & _CHANGES and desk.busy(node, True):
        return DEFER
    file = desk.union.open(node, flags)
    if open_flags & FUSE_OPEN_KILL_SUIDGID:
        desk.union.kill_priv(node)
    return desk.opened(file)


def create(desk: Desk, nodeid: int, name: bytes, mode: int, flags: int, _open_flags: int, who: Who) -> Reply:
    return desk.created(*desk.union.create(desk.dirs[nodeid], name, mode, flags, who))


def tmpfile(desk: Desk, nodeid: int, _name: bytes, mode: int, flags: int, _open_flags: int, who: Who) -> Reply:
    return desk.created(*desk.union.tmpfile(desk.dirs[nodeid], mode, flags, who))


def release(desk: Desk, _nodeid: int, fh: int, _flags: int, _release_flags: int, _owner: int) -> Reply:
    desk.state.release(fh)
    return desk.ok


def read(desk: Desk, nodeid: int, fh: int, offset: int, size: int, _read_flags: int, _owner: int, _flags: int) -> Reply:
    fd = _file(desk, nodeid, fh).fileno()
    room = desk.view[16 : 16 + size]
    count = _read_cached(fd, room, offset) if desk.on_loop else -1
    if not offset:
        readahead = desk.state.readahead
        readahead.reads += 1
        if count < 0:
            readahead.missed()
    if count < 0:
        if desk.on_loop and (size > SHORT or desk.others_wait()):
            return DEFER
        count = _read_waiting(desk, fd, room, offset)
    return desk.finished(16 + count)


def _read_cached(fd: int, room: memoryview, offset: int) -> int:
    """Reads what is in memory; -1 where the disk would have to be waited for.

    A short answer means end of file to the kernel, so one that is not must be completed elsewhere.
    """
    try:
        count = os.preadv(fd, [room], offset, _AT_ONCE)
        if count == len(room) or count == 0 or os.preadv(fd, [room[count:]], offset + count, _AT_ONCE) == 0:
            return count
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno != EOPNOTSUPP:
            raise
    return -1


def _read_waiting(desk: Desk, fd: int, room: memoryview, offset: int) -> int:
    """Reads with the lock released, through a descriptor that is ours alone: a copy-up may change the file's."""
    fd = os.dup(fd)
    lock = desk.union.lock
    lock.release()
    try:
        count = 0
        while count < len(room):
            got = os.preadv(fd, [room[count:]], offset + count)
            if got == 0:
                break
            count += got
        return count
    finally:
        os.close(fd)
        lock.acquire()


def write(desk: Desk, _nodeid: int, fh: int, offset: int, write_flags: int, _flags: int, data: memoryview) -> Reply:
    if not fh:
        return desk.failure(EROFS)  # opened without a message: a read-only mount that someone remounted
    file, state = desk.files[fh], desk.state
    if desk.on_loop and monotonic() < state.throttled_until:
        return DEFER
    if write_flags & FUSE_WRITE_KILL_SUIDGID:
        desk.union.kill_priv(file.node)
    if not desk.on_loop:
        return desk.written(_write_waiting(desk, file.fileno(), data, offset))
    began = monotonic()
    count = os.pwrite(file.fileno(), data, offset)
    if monotonic() - began > THROTTLED:
        state.throttled_until = began + THROTTLED_FOR
    return desk.written(count)


def _write_waiting(desk: Desk, fd: int, data: memoryview, offset: int) -> int:
    """Writes with the lock released, through a descriptor that is ours alone."""
    fd = os.dup(fd)
    lock = desk.union.lock
    lock.release()
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)
        lock.acquire()


def fsync(desk: Desk, nodeid: int, fh: int, fsync_flags: int) -> Reply:
    if desk.on_loop:
        return DEFER
    desk.union.fsync(_file(desk, nodeid, fh), bool(fsync_flags & FUSE_FSYNC_FDATASYNC))
    return desk.ok


def syncfs(desk: Desk, _nodeid: int) -> Reply:
    if desk.on_loop:
        return DEFER
    desk.union.syncfs()
    return desk.ok


def _kill_priv(desk: Desk, file: File, uid: int) -> None:
    """For changes of data with which the kernel does not tell whether the caller may keep set-id bits."""
    if uid:
        desk.union.kill_priv(file.node)


def fallocate(desk: Desk, nodeid: int, fh: int, offset: int, length: int, mode: int, uid: int) -> Reply:
    if desk.on_loop:
        return DEFER
    file = _file(desk, nodeid, fh)
    _kill_priv(desk, file, uid)
    desk.union.fallocate(file, mode, offset, length)
    return desk.ok


def lseek(desk: Desk, nodeid: int, fh: int, offset: int, whence: int) -> Reply:
    return desk.offset(desk.union.lseek(_file(desk, nodeid, fh), offset, whence))


def copy_file_range(desk: Desk, nodeid: int, *values: int) -> Reply:
    return DEFER if _copies_long(desk, nodeid, *values) else desk.written(_copy(desk, nodeid, *values))


def copy_file_range_64(desk: Desk, nodeid: int, *values: int) -> Reply:
    return DEFER if _copies_long(desk, nodeid, *values) else desk.copied(_copy(desk, nodeid, *values))


def _copies_long(
    desk: Desk, nodeid: int, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, _off_out: int, length: int,
    _flags: int, _uid: int,
) -> bool:  # fmt: skip
    """Whether it is not for the loop. `cp` asks for all there may be, so the size of the source counts, too."""
    if not desk.on_loop:
        return False
    there = os.fstat(_file(desk, nodeid, fh_in).fileno()).st_size - off_in
    return min(length, there) > SHORT or desk.busy(_file(desk, nodeid_out, fh_out).node, True)


def _copy(
    desk: Desk, nodeid: int, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int,
    _flags: int, uid: int,
) -> int:  # fmt: skip
    source, target = _file(desk, nodeid, fh_in), _file(desk, nodeid_out, fh_out)
    _kill_priv(desk, target, uid)
    # The older message counts in 32 bits; whole pages keep the next piece aligned for reflinks.
    return desk.union.copy_file_range(source, off_in, target, off_out, min(length, 0x7FFFF000))
