"""The operations of a mount, as the binding wants them: paths in, calls of the union, what libfuse needs out.

Paths and names arrive as text in which each character is a byte (latin-1: see `bridge`). Every method is called with
`union.lock` held and raises OSError. What changes an inode with several names is noted in `stale`.
"""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, ENOTTY

from unionfs.fusepy_front.paths import Handle, Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from unionfs.union import Dir, File, Node, Union

    Who = tuple[int, int, int]

# linux/fs.h; the argument is a long in the number and an int in fact
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
RENAME_EXCHANGE = 2
# The kernel keeps no pages for such an open; libfuse's buffers are not aligned as the layer would ask for.
_DIRECT = os.O_DIRECT
_STATVFS = (
    "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_flag", "f_namemax",
)  # fmt: skip


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


class Operations:
    """
    who          (uid, gid, umask) of the process that libfuse serves in this thread
    stale        paths under which the kernel knows what has just changed under another
    keeps_pages  whether the kernel is told so, and may keep the pages of a file with several names
    """

    use_ns = True
    # libfuse 2: no paths for what has a handle, and times that are not given or are now (libfuse 3: always so)
    flag_nullpath_ok = flag_nopath = flag_utime_omit_ok = 1
    flush = None  # every write is through; the kernel remembers that there is nothing to flush

    def __init__(self, union: Union, paths: Paths, who: Callable[[], Who], keeps_pages: bool) -> None:
        self.union = union
        self.paths = paths
        self.who = who
        self.keeps_pages = keeps_pages
        self.stale: list[bytes] = []

    # --- looking -------------------------------------------------------------------------------------------------

    def find(self, path: str | None, handle: int) -> Node:
        """The node that is meant: by handle where there is one."""
        if handle:
            return self._handle(handle).node
        if path is None:
            raise OSError(EBADF, os.strerror(EBADF))
        return self.paths.node(_bytes(path))

    def attributes(self, path: str | None, handle: int) -> tuple[int, int, os.stat_result]:
        """(inode number, link count, the rest). libfuse takes one from the links, if any, of a file it has hidden."""
        node = self.find(path, handle)
        st = self.union.stat(node)
        links = self.union.nlink(node, st)
        if links and self.paths.hidden and self._last_name(path, handle) in self.paths.hidden:
            links += 1
        return node.ino, links, st

    def _last_name(self, path: str | None, handle: int) -> bytes:
        return self._handle(handle).name if handle else _bytes(path or "").rpartition(b"/")[2]

    def getattr(self, path: str, fh: Any = None) -> Any:
        """Never called: the bridge asks for `attributes`."""
        raise NotImplementedError

    def readlink(self, path: str) -> str:
        return self.union.readlink(self.paths.node(_bytes(path))).decode("latin-1")

    def statfs(self, _path: str) -> dict[str, int]:
        vfs = self.union.statfs()
        return {name: getattr(vfs, name) for name in _STATVFS}

    def opendir(self, path: str) -> int:
        node = self.paths.node(_bytes(path))
        return self.paths.opened(Handle(node, node.parent, node.name))

    def releasedir(self, _path: str | None, fh: int) -> None:
        self.paths.closed(fh)

    def readdir(self, _path: str | None, fh: int, offset: int = 0) -> Iterator[tuple[bytes, int, int, int]]:
        """(name, inode number, DT_ type, offset of what follows), from an offset on."""
        directory: Dir = self._handle(fh).node  # type: ignore[assignment]
        if offset < 1:
            yield b".", directory.ino, 4, 1
        if offset < 2:
            yield b"..", self.union.parent(directory).ino, 4, 2
        yield from self.union.readdir(directory, max(offset, 2))

    def entry(self, fh: int, name: bytes) -> tuple[int, int, os.stat_result] | None:
        """The attributes of a name that was listed; None where it has just gone, or they are not to be had."""
        directory: Dir = self._handle(fh).node  # type: ignore[assignment]
        try:
            found = self.union.lookup(directory, name)
        except OSError:
            return None
        if found is None:
            return None
        node, st = found
        self.paths.meet(node)
        return node.ino, self.union.nlink(node, st), st

    def _handle(self, number: int) -> Handle:
        handle = self.paths.handles.get(number)
        if handle is None:
            raise OSError(EBADF, os.strerror(EBADF))
        return handle

    # --- names -----------------------------------------------------------------------------------------------------

    def mknod(self, path: str, mode: int, dev: int) -> None:
        self.union.mknod(*self.paths.place(_bytes(path)), mode, dev, self.who())

    def mkdir(self, path: str, mode: int) -> None:
        self.union.mkdir(*self.paths.place(_bytes(path)), mode, self.who())

    def symlink(self, target: str, source: str) -> None:
        """A symlink at the path `target` that says `source`: the binding's order."""
        self.union.symlink(*self.paths.place(_bytes(target)), _bytes(source), self.who())

    def link(self, target: str, source: str) -> None:
        """Another name, `target`, for what is at `source`: the binding's order."""
        node = self.paths.node(_bytes(source))
        directory, name = self.paths.place(_bytes(target))
        self.union.link(node, directory, name)
        self._changed(node, directory, name)

    def unlink(self, path: str) -> None:
        directory, name = self.paths.place(_bytes(path))
        if self.paths.unhide(name):
            return
        self._unlink(directory, name)

    def _unlink(self, directory: Dir, name: bytes) -> None:
        node = directory.children.get(name)
        self.union.unlink(directory, name)
        if node is not None:
            self._changed(node, directory, name)
            self.paths.let_go(node)

    def rmdir(self, path: str) -> None:
        directory, name = self.paths.place(_bytes(path))
        node = self.paths.node(_bytes(path))
        self.union.rmdir(directory, name)
        self.paths.let_go(node)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        source, target = self.paths.node(_bytes(old)), self.paths.if_there(_bytes(new))
        old_place, new_place = self.paths.place(_bytes(old)), self.paths.place(_bytes(new))
        if target is None and not flags and not source.is_dir and self.paths.is_hiding(_bytes(old), _bytes(new)):
            self._unlink_open(source, *old_place, new_place[1])
            return
        self.union.rename(*old_place, *new_place, flags)
        if source is target:
            return
        self.paths.moved(source, *old_place, *new_place)
        self._changed(source, *new_place)
        if target is not None:
            if flags & RENAME_EXCHANGE:
                self.paths.moved(target, *new_place, *old_place)
            self._changed(target, *(old_place if flags & RENAME_EXCHANGE else new_place))
            self.paths.let_go(target)

    def _unlink_open(self, node: Node, directory: Dir, name: bytes, hidden: bytes) -> None:
        """libfuse hides an open file. The union unlinks it at once; only libfuse goes on naming it."""
        self.paths.hide(node, directory, name, hidden)
        try:
            self._unlink(directory, name)
        except OSError:
            self.paths.hide_not(node, directory, name, hidden)
            raise

    # --- attributes ------------------------------------------------------------------------------------------------

    def chmod(self, path: str | None, mode: int, fh: int = 0) -> None:
        node = self.find(path, fh)
        self.union.chmod(node, mode)
        self._changed_at(node, path, fh)

    def chown(self, path: str | None, uid: int, gid: int, fh: int = 0) -> None:
        node = self.find(path, fh)
        self.union.chown(node, uid, gid)
        self._changed_at(node, path, fh)

    def truncate(self, path: str | None, length: int, fh: int = 0) -> None:
        node = self.find(path, fh)
        self.union.truncate(node, length, self._handle(fh).file if fh else None)
        self._changed_at(node, path, fh)

    def utimens(self, path: str | None, times: tuple[int | None, int | None], fh: int = 0) -> None:
        """As the union takes them: nanoseconds, UTIME_NOW, or None to leave a time."""
        node = self.find(path, fh)
        self.union.utimens(node, *times)
        self._changed_at(node, path, fh)

    def getxattr(self, path: str, name: str) -> bytes:
        return self.union.getxattr(self.paths.node(_bytes(path)), _bytes(name))

    def listxattr(self, path: str) -> list[str]:
        """What trusted.* there is, only root is told, as by other file systems."""
        names = self.union.listxattr(self.paths.node(_bytes(path)))
        for_root = self.who()[0] == 0
        return [name.decode("latin-1") for name in names if for_root or not name.startswith(b"trusted.")]

    def setxattr(self, path: str, name: str, value: bytes, options: int) -> None:
        node = self.paths.node(_bytes(path))
        self.union.setxattr(node, _bytes(name), value, options)
        self._changed_at(node, path, 0)

    def removexattr(self, path: str, name: str) -> None:
        node = self.paths.node(_bytes(path))
        self.union.removexattr(node, _bytes(name))
        self._changed_at(node, path, 0)

    def ioctl(self, path: str | None, cmd: int, value: int, fh: int) -> int | None:
        """The flags for FS_IOC_GETFLAGS; None where there is nothing to hand back."""
        node = self.find(path, fh)
        if cmd == FS_IOC_GETFLAGS:
            return self.union.getflags(node)
        if cmd != FS_IOC_SETFLAGS:
            raise OSError(ENOTTY, os.strerror(ENOTTY))
        self.union.setflags(node, value)
        self._changed_at(node, path, fh)
        return None

    # --- data ------------------------------------------------------------------------------------------------------

    def open(self, path: str, fi: Any) -> None:
        node = self.paths.node(_bytes(path))
        file = self.union.open(node, fi.flags & ~_DIRECT)
        if fi.flags & os.O_TRUNC:
            # The kernel, having the truncation done by the open, forgets these bits.
            if self.who()[0]:
                self.union.kill_priv(node)
            self._changed_at(node, path, 0)
        self._opened(path, file, fi)

    def create(self, path: str, mode: int, fi: Any) -> None:
        node, _st, file = self.union.create(*self.paths.place(_bytes(path)), mode, fi.flags & ~_DIRECT, self.who())
        self.paths.meet(node)
        self._opened(path, file, fi)

    def _opened(self, path: str, file: File, fi: Any) -> None:
        directory, name = self.paths.place(_bytes(path))
        handle = Handle(file.node, directory, name)
        handle.file = file
        fi.fh = self.paths.opened(handle)
        # The kernel takes two names for two files; unless it is told of every change, only opening shows them.
        fi.keep_cache = int(self.keeps_pages or file.node.names is None)

    def release(self, _path: str | None, fi: Any) -> None:
        self.paths.closed(fi.fh)

    def read(self, _path: str | None, size: int, offset: int, fi: Any) -> bytes:
        fd = self._file(fi.fh).fileno()
        self.union.lock.release()
        try:
            return os.pread(fd, size, offset)
        finally:
            self.union.lock.acquire()

    def write(self, _path: str | None, data: bytes, offset: int, fi: Any) -> int:
        handle = self._handle(fi.fh)
        fd = self._file(fi.fh).fileno()
        self.union.lock.release()
        try:
            return os.pwrite(fd, data, offset)
        finally:
            self.union.lock.acquire()
            self._changed(handle.node, handle.directory, handle.name)

    def fsync(self, _path: str | None, datasync: int, fi: Any) -> None:
        self.union.fsync(self._file(fi.fh), bool(datasync))

    def fsyncdir(self, _path: str | None, _datasync: int, fh: int) -> None:
        self.union.fsyncdir(self._handle(fh).node)  # type: ignore[arg-type]

    def fallocate(self, _path: str | None, mode: int, offset: int, size: int, fi: Any) -> None:
        handle = self._handle(fi.fh)
        self.union.fallocate(self._file(fi.fh), mode, offset, size)
        self._changed(handle.node, handle.directory, handle.name)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        return self.union.lseek(self._file(fh), offset, whence)

    def copy_file_range(self, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int) -> int:
        target = self._handle(fh_out)
        count = self.union.copy_file_range(self._file(fh_in), off_in, self._file(fh_out), off_out, length)
        self._changed(target.node, target.directory, target.name)
        return count

    def _file(self, number: int) -> File:
        file = self._handle(number).file
        if file is None:
            raise OSError(EINVAL, os.strerror(EINVAL))
        return file

    # --- several names ---------------------------------------------------------------------------------------------

    def _changed_at(self, node: Node, path: str | None, handle: int) -> None:
        if node.names is None:
            return
        if handle:
            known = self._handle(handle)
            self._changed(node, known.directory, known.name)
        else:
            self._changed(node, *self.paths.place(_bytes(path or "/")))

    def _changed(self, node: Node, directory: Dir, name: bytes) -> None:
        """The node was changed through one name: under its others the kernel knows it as it was."""
        if node.names is not None:
            self.stale += self.paths.other_names(node, directory, name)
