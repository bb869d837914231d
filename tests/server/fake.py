"""A core to test the front end with: one directory tree, shown as it is, through the API of `unionfs.union`.

It takes the shortest way to every answer (whole paths, no caches), so that what a test sees is the front
end's doing. Nodes whose name begins with `low` count as living in a lower layer until they are opened for
writing; `slow_names` makes nodes count as slow to copy up. `calls` records the methods called.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from errno import EEXIST, ENOENT, EROFS

from unionfs import libc
from unionfs.union import UTIME_NOW
from unionfs.union.config import Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Who = tuple[int, int, int]


class FakeNode:
    __slots__ = (
        "data",
        "files",
        "fd",
        "front",
        "ino",
        "kind",
        "lookups",
        "name",
        "nodeid",
        "parent",
        "upper",
    )

    def __init__(self, parent: FakeNode | None, name: bytes, st: os.stat_result) -> None:
        self.parent = parent
        self.name = name
        self.ino = st.st_ino
        self.kind = stat.S_IFMT(st.st_mode)
        self.upper = not name.startswith(b"low")
        self.data: object = None  # as in the union: None means with the metadata
        self.files: set[FakeFile] = set()
        self.fd = -1  # O_PATH descriptor once the name is gone
        self.nodeid = self.lookups = self.front = 0

    @property
    def is_dir(self) -> bool:
        return self.kind == stat.S_IFDIR

    def path(self) -> bytes:
        if self.fd >= 0:
            return b"/proc/self/fd/%d" % self.fd
        return self.name if self.parent is None else self.parent.path() + b"/" + self.name


class FakeFile:
    __slots__ = ("fd", "flags", "node")

    def __init__(self, node: FakeNode, flags: int) -> None:
        self.node = node
        self.flags = flags
        self.fd = -1

    def fileno(self) -> int:
        if self.fd < 0:
            self.fd = os.open(self.node.path(), self.flags & os.O_ACCMODE | os.O_CLOEXEC)
        return self.fd


class FakeUnion:
    def __init__(self, root: bytes, readonly: bool = False) -> None:
        self.lock = threading.Lock()
        self.readonly = readonly
        self.root = FakeNode(None, root, os.stat(root))
        self.config = Config(lower=[])
        self.counters: dict[str, int] = {}
        self.nodes: dict[tuple[int, int], FakeNode] = {}
        self.slow_names: set[bytes] = set()
        self.unsettled: dict[FakeNode, int] = {}
        self.defer_sync = False
        self.forgotten: list[FakeNode] = []
        self.calls: list[str] = []
        self.read_ahead: list[bytes] = []

    def read_soon(self, node: FakeNode) -> None:
        self.read_ahead.append(node.name)

    # --- names ---

    def _path(self, directory: FakeNode, name: bytes) -> bytes:
        assert self.lock.locked(), "the front end holds the lock around every call"
        if self.readonly:
            raise OSError(EROFS, "read-only")
        return directory.path() + b"/" + name

    def _found(self, directory: FakeNode, name: bytes) -> tuple[FakeNode, os.stat_result]:
        found = self.lookup(directory, name)
        assert found is not None
        return found

    def lookup(self, directory: FakeNode, name: bytes) -> tuple[FakeNode, os.stat_result] | None:
        assert self.lock.locked()
        try:
            st = os.lstat(directory.path() + b"/" + name)
        except FileNotFoundError:
            return None
        key = st.st_dev, st.st_ino
        node = self.nodes.get(key)
        if node is None:
            node = self.nodes[key] = FakeNode(directory, name, st)
        return node, st

    def named(self, directory: FakeNode, name: bytes) -> FakeNode | None:
        found = self.lookup(directory, name)
        return None if found is None else found[0]

    def stat(self, node: FakeNode) -> os.stat_result:
        return os.stat(node.path()) if node.fd >= 0 else os.lstat(node.path())

    def nlink(self, _node: FakeNode, st: os.stat_result) -> int:
        return st.st_nlink

    def statx_btime(self, node: FakeNode) -> tuple[int, int] | None:
        return libc.birth_time(libc.AT_FDCWD, node.path(), libc.AT_SYMLINK_NOFOLLOW)

    def forget(self, node: FakeNode) -> None:
        self.forgotten.append(node)
        self.nodes = {key: known for key, known in self.nodes.items() if known is not node}
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1

    def parent(self, directory: FakeNode) -> FakeNode:
        return directory.parent or directory

    def readdir(self, directory: FakeNode, offset: int) -> Iterator[tuple[bytes, int, int, int]]:
        with os.scandir(directory.path()) as entries:
            rows = sorted((e.name, e.inode(), stat.S_IFMT(os.lstat(e.path).st_mode) >> 12) for e in entries)
        start = max(offset - 2, 0)
        for cookie, row in enumerate(rows[start:], start + 3):
            yield (*row, cookie)

    def slow(self, node: FakeNode, writing: bool = True) -> bool:
        return node.name in self.slow_names

    def settle(self) -> None:
        self.calls.append("settle")
        self.unsettled.clear()

    # --- creation and removal ---

    def _own(self, path: bytes, who: Who) -> None:
        os.chown(path, who[0], who[1], follow_symlinks=False)

    def mknod(self, d: FakeNode, name: bytes, mode: int, rdev: int, who: Who) -> tuple[FakeNode, os.stat_result]:
        path = self._path(d, name)
        os.mknod(path, mode & ~who[2], rdev)
        self._own(path, who)
        return self._found(d, name)

    def mkdir(self, d: FakeNode, name: bytes, mode: int, who: Who) -> tuple[FakeNode, os.stat_result]:
        path = self._path(d, name)
        os.mkdir(path, mode & 0o7777 & ~who[2])
        self._own(path, who)
        return self._found(d, name)

    def symlink(self, d: FakeNode, name: bytes, target: bytes, who: Who) -> tuple[FakeNode, os.stat_result]:
        path = self._path(d, name)
        os.symlink(target, path)
        self._own(path, who)
        return self._found(d, name)

    def create(
        self, d: FakeNode, name: bytes, mode: int, flags: int, who: Who
    ) -> tuple[FakeNode, os.stat_result, FakeFile]:
        path = self._path(d, name)
        if os.path.lexists(path):
            raise OSError(EEXIST, "exists")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o7777 & ~who[2]))
        self._own(path, who)
        node, st = self._found(d, name)
        return node, st, self.open(node, flags & ~os.O_TRUNC)

    def tmpfile(self, d: FakeNode, mode: int, flags: int, who: Who) -> tuple[FakeNode, os.stat_result, FakeFile]:
        fd = os.open(self._path(d, b"."), os.O_TMPFILE | os.O_RDWR, mode & 0o7777 & ~who[2])
        os.fchown(fd, who[0], who[1])
        st = os.fstat(fd)
        node = FakeNode(d, b"", st)
        node.fd = os.open(b"/proc/self/fd/%d" % fd, os.O_PATH)
        os.close(fd)
        self.nodes[st.st_dev, st.st_ino] = node
        return node, st, self.open(node, flags)

    def link(self, node: FakeNode, d: FakeNode, name: bytes) -> os.stat_result:
        path = self._path(d, name)
        if node.fd >= 0:
            os.link(node.path(), path, src_dir_fd=node.fd, follow_symlinks=True)
        else:
            os.link(node.path(), path, follow_symlinks=False)
        return os.lstat(path)

    def unlink(self, d: FakeNode, name: bytes) -> None:
        path = self._path(d, name)
        found = self.lookup(d, name)
        if found is None:
            raise OSError(ENOENT, "gone")
        node = found[0]
        if node.fd < 0 and (node.parent, node.name) == (d, name):
            node.fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        os.unlink(path)

    def rmdir(self, d: FakeNode, name: bytes) -> None:
        os.rmdir(self._path(d, name))

    def rename(self, old: FakeNode, oldname: bytes, new: FakeNode, newname: bytes, flags: int) -> None:
        moved, other = self.lookup(old, oldname), self.lookup(new, newname)
        source, target = self._path(old, oldname), self._path(new, newname)
        if other and not flags & libc.RENAME_EXCHANGE and not other[0].is_dir and other[0].fd < 0:
            other[0].fd = os.open(target, os.O_PATH | os.O_NOFOLLOW)
        libc.renameat2(libc.AT_FDCWD, source, libc.AT_FDCWD, target, flags)
        if moved:
            moved[0].parent, moved[0].name = new, newname
        if other and flags & libc.RENAME_EXCHANGE:
            other[0].parent, other[0].name = old, oldname

    # --- attributes ---

    def _change(self, node: FakeNode) -> bytes:
        assert self.lock.locked()
        if self.readonly:
            raise OSError(EROFS, "read-only")
        node.upper = True
        return node.path()

    def chmod(self, node: FakeNode, mode: int) -> None:
        os.chmod(self._change(node), mode)

    def chown(self, node: FakeNode, uid: int, gid: int) -> None:
        os.chown(self._change(node), uid, gid, follow_symlinks=node.fd >= 0)

    def truncate(self, node: FakeNode, size: int, _file: FakeFile | None) -> None:
        os.truncate(self._change(node), size)

    def utimens(self, node: FakeNode, atime: int | None, mtime: int | None) -> None:
        def part(value: int | None) -> tuple[int, int]:
            if value is None:
                return 0, libc.UTIME_OMIT
            return (0, libc.UTIME_NOW) if value == UTIME_NOW else divmod(value, 10**9)

        follow = 0 if node.fd >= 0 else libc.AT_SYMLINK_NOFOLLOW
        libc.utimensat(libc.AT_FDCWD, self._change(node), (*part(atime), *part(mtime)), follow)

    def kill_priv(self, node: FakeNode) -> None:
        self.calls.append("kill_priv")
        mode = self.stat(node).st_mode
        dropped = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        if mode & dropped:
            os.chmod(self._change(node), mode & 0o7777 & ~dropped)

    def readlink(self, node: FakeNode) -> bytes:
        return os.readlink(node.path())

    def getxattr(self, node: FakeNode, name: bytes) -> bytes:
        return os.getxattr(node.path(), name, follow_symlinks=node.fd >= 0)

    def listxattr(self, node: FakeNode) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(node.path(), follow_symlinks=node.fd >= 0)]

    def setxattr(self, node: FakeNode, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(self._change(node), name, value, flags, follow_symlinks=node.fd >= 0)

    def removexattr(self, node: FakeNode, name: bytes) -> None:
        os.removexattr(self._change(node), name, follow_symlinks=node.fd >= 0)

    def getflags(self, node: FakeNode) -> int:
        return self._ioctl(node, 0x80086601, bytes(8))

    def setflags(self, node: FakeNode, flags: int) -> None:
        self._ioctl(node, 0x40086602, struct.pack("=ii", flags, 0))

    def _ioctl(self, node: FakeNode, command: int, argument: bytes) -> int:
        fd = os.open(node.path(), os.O_RDONLY)
        try:
            return int.from_bytes(fcntl.ioctl(fd, command, argument)[:4], "little")
        finally:
            os.close(fd)

    # --- data ---

    def open(self, node: FakeNode, flags: int) -> FakeFile:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._change(node)
        file = FakeFile(node, flags)
        if flags & os.O_TRUNC:
            os.truncate(node.path(), 0)
        node.files.add(file)
        return file

    def release(self, file: FakeFile) -> None:
        file.node.files.discard(file)
        if file.fd >= 0:
            os.close(file.fd)

    def fsync(self, file: FakeFile, datasync: bool) -> None:
        self.calls.append("fdatasync" if datasync else "fsync")
        (os.fdatasync if datasync else os.fsync)(file.fileno())

    def syncfs(self) -> None:
        self.calls.append("syncfs")

    def fsyncdir(self, _directory: FakeNode) -> None:
        self.calls.append("fsyncdir")

    def fallocate(self, file: FakeFile, mode: int, offset: int, length: int) -> None:
        libc.fallocate(file.fileno(), mode, offset, length)

    def lseek(self, file: FakeFile, offset: int, whence: int) -> int:
        return os.lseek(file.fileno(), offset, whence)

    def copy_file_range(self, a: FakeFile, off_a: int, b: FakeFile, off_b: int, length: int) -> int:
        return os.copy_file_range(a.fileno(), b.fileno(), length, off_a, off_b)

    def statfs(self) -> os.statvfs_result:
        return os.statvfs(self.root.name)
