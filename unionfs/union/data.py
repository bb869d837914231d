"""Open files and what is done to their bytes. Reading and writing themselves go straight to `File.fileno()`."""

from __future__ import annotations

import fcntl
import os
from errno import EBADF, EINVAL, ENOTTY
from stat import S_IFDIR, S_IFREG

from unionfs.layer import verbs
from unionfs.union.copyup import open_data, own_data
from unionfs.union.lookup import place
from unionfs.union.node import NOWHERE, UPPER, Dir, Node
from unionfs.union.settle import settle, settle_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack

# Flags that are the caller's business, or done already, and must not apply to the daemon's own descriptor.
# O_APPEND: the kernel sends the offset; with it pwrite would ignore that. O_DIRECT: it wants aligned buffers, which
# messages are not; where the kernel reads and writes the file by itself it opens it with that flag by itself.
_NOT_OURS = (os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
             | os.O_NOATIME | os.O_DIRECT)
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602


class File:
    """An open file. `fd` is opened when first needed and moves along when the node is copied up.

    flags   access mode and what else of open(2) concerns the daemon's descriptor
    """

    __slots__ = ("stack", "node", "flags", "fd")

    def __init__(self, stack: Stack, node: Node, flags: int) -> None:
        self.stack = stack
        self.node = node
        self.flags = flags & ~_NOT_OURS
        self.fd = NOWHERE
        if node.files is None:
            node.files = set()
        node.files.add(self)

    @classmethod
    def adopt(cls, stack: Stack, node: Node, flags: int, fd: int) -> File:
        """The open file for a descriptor just made, readable and writable whatever the file's mode."""
        file = cls(stack, node, flags)
        file.fd = fd
        return file

    def fileno(self) -> int:
        """The descriptor on the bytes; raises what opening them raises."""
        if self.fd < 0:
            self.fd = open_data(self.stack, self.node, self.flags)
        return self.fd


def open_node(stack: Stack, node: Node, flags: int) -> File:
    """Open for what `flags` ask; for writing the node is copied up first, without its data under O_TRUNC.

    An ordinary user's daemon opens at once, while the mode still permits it; root's waits until it is needed.
    """
    stack.keep_within_limit()
    writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
    if writing:
        stack.require_writable()
        own_data(stack, node, 0 if flags & os.O_TRUNC else None)
        if flags & os.O_TRUNC and node.kind == S_IFREG:
            verbs.truncate(*place(stack, node), 0)
    file = File(stack, node, flags)
    if not stack.can_impersonate:
        try:
            file.fileno()
        except BaseException:
            release(stack, file)
            raise
    return file


def read_soon(stack: Stack, node: Node) -> None:
    """Have the kernel begin to read a file from disk. Raises nothing: whoever reads it later learns what is wrong."""
    try:
        fd = open_data(stack, node, os.O_RDONLY)
    except OSError:
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    except OSError:
        pass
    finally:
        os.close(fd)


def release(stack: Stack, file: File) -> None:
    """The last descriptor of this open file is closed."""
    if file.node.files is not None:
        file.node.files.discard(file)
        if not file.node.files:
            file.node.files = None
    if file.fd >= 0:
        os.close(file.fd)
        file.fd = NOWHERE


def fsync(stack: Stack, what: File | Node, datasync: bool) -> None:
    """To disk, with the lock released meanwhile. Nothing to do for a lower object, or when asked not to sync."""
    node = what.node if isinstance(what, File) else what
    if node.layer != UPPER or not stack.config.sync or stack.config.volatile:
        return
    settle_one(stack, node)
    fd = os.dup(what.fileno()) if isinstance(what, File) else _open_for_sync(stack, node)
    stack.lock.release()
    try:
        (verbs.sync_data if datasync else verbs.sync)(fd)
    finally:
        os.close(fd)
        stack.lock.acquire()


def _open_for_sync(stack: Stack, node: Node) -> int:
    fd, name = place(stack, node)
    if name:
        return verbs.open_file(fd, name, os.O_RDONLY | os.O_NONBLOCK)
    return os.open(verbs.at(fd, b""), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def fsyncdir(stack: Stack, directory: Dir) -> None:
    """A directory's names to disk."""
    fsync(stack, directory, False)


def syncfs(stack: Stack) -> None:
    """Everything of the upper's file system to disk, with the lock released meanwhile."""
    if stack.readonly or not stack.config.sync or stack.config.volatile:
        return
    settle(stack)
    fd = os.open(verbs.at(stack.layers[UPPER].fd, b""), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.lock.release()
    try:
        verbs.syncfs(fd)
    finally:
        os.close(fd)
        stack.lock.acquire()


def fallocate(stack: Stack, file: File, mode: int, offset: int, length: int) -> None:
    """fallocate(2) on a file open for writing; the lock is released meanwhile."""
    own_data(stack, file.node)
    fd = os.dup(file.fileno())
    stack.lock.release()
    try:
        verbs.fallocate(fd, mode, offset, length)
    finally:
        os.close(fd)
        stack.lock.acquire()


def lseek(stack: Stack, file: File, offset: int, whence: int) -> int:
    """SEEK_DATA and SEEK_HOLE; raises ENXIO beyond the end."""
    return os.lseek(file.fileno(), offset, whence)


def copy_file_range(stack: Stack, source: File, offset: int, target: File, target_offset: int, length: int) -> int:
    """Bytes copied inside the kernel, by reference where the file system can; the lock is released meanwhile."""
    if target.flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(EBADF, os.strerror(EBADF))
    own_data(stack, target.node)
    fd, target_fd = os.dup(source.fileno()), os.dup(target.fileno())
    stack.lock.release()
    try:
        return verbs.copy_range(fd, target_fd, length, offset, target_offset)
    finally:
        os.close(fd)
        os.close(target_fd)
        stack.lock.acquire()


def statfs(stack: Stack) -> os.statvfs_result:
    """Of the upper's file system; on a read-only mount the top lower's."""
    return os.statvfs(stack.layers[min(stack.layers)].fd)


def getflags(stack: Stack, node: Node) -> int:
    """FS_IOC_GETFLAGS. Raises ENOTTY for what is neither file nor directory, and where the layer has no flags."""
    return _flags_call(stack, node, _FS_IOC_GETFLAGS, 0)


def setflags(stack: Stack, node: Node, flags: int) -> None:
    """FS_IOC_SETFLAGS, after copy-up."""
    if not 0 <= flags < 1 << 32:
        raise OSError(EINVAL, os.strerror(EINVAL))
    stack.require_writable()
    own_data(stack, node)
    _flags_call(stack, node, _FS_IOC_SETFLAGS, flags)


def _flags_call(stack: Stack, node: Node, request: int, flags: int) -> int:
    if node.kind not in (S_IFREG, S_IFDIR):
        raise OSError(ENOTTY, os.strerror(ENOTTY))
    fd = _open_for_sync(stack, node)
    try:
        buffer = bytearray(flags.to_bytes(8, "little"))
        fcntl.ioctl(fd, request, buffer)
        return int.from_bytes(buffer[:4], "little")
    finally:
        os.close(fd)
