"""One layer: a directory tree on disk, reached only through descriptors, its root the only path ever resolved."""

from __future__ import annotations

import os
from errno import EACCES, ENOSYS, EPERM

from unionfs import libc
from unionfs.layer import verbs

_RESOLVE = libc.RESOLVE_BENEATH | libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_NO_MAGICLINKS
_CHUNK = 4000  # bytes of a path that one system call takes, below PATH_MAX


class Layer:
    """A layer's root, held open.

    index   its place in the stack: 0 the upper, then the lowers from the top
    fsid    number of its file system among the stack's, for inode numbers
    """

    __slots__ = ("path", "index", "fd", "dev", "fsid")

    def __init__(self, path: bytes, index: int) -> None:
        """Raises OSError when the path is no directory that can be opened."""
        self.path = path
        self.index = index
        self.fsid = 0
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.dev = os.stat(self.fd).st_dev

    def close(self) -> None:
        os.close(self.fd)

    def open_dir(self, path: bytes) -> int:
        """Descriptor, as of verbs.open_dir, of the directory at a relative path (empty: the root), past no symlink."""
        fd = self.fd
        try:
            for part in _chunks(path):
                above, fd = fd, _open_beneath(fd, part)
                if above != self.fd:
                    os.close(above)
        except OSError:
            if fd != self.fd:
                os.close(fd)
            raise
        return fd if fd != self.fd else os.dup(fd)


def _chunks(path: bytes) -> list[bytes]:
    """The path in pieces short enough for one call each."""
    chunks = []
    while len(path) > _CHUNK:
        cut = path.rindex(b"/", 0, _CHUNK)
        chunks.append(path[:cut])
        path = path[cut + 1:]
    if path:
        chunks.append(path)
    return chunks


def _open_beneath(fd: int, path: bytes) -> int:
    if b"/" not in path:
        return verbs.open_dir(fd, path)
    try:
        return libc.openat2(fd, path, os.O_RDONLY | os.O_NOATIME | os.O_DIRECTORY | os.O_NOFOLLOW, _RESOLVE)
    except OSError as error:
        if error.errno not in (ENOSYS, EACCES, EPERM):
            raise
    return _open_stepwise(fd, path)


def _open_stepwise(fd: int, path: bytes) -> int:
    """What openat2 does in one call, for kernels and sandboxes without it, and for directories that may not be read."""
    current = os.dup(fd)
    for name in path.split(b"/"):
        try:
            below = verbs.open_dir(current, name)
        finally:
            os.close(current)
        current = below
    return current
