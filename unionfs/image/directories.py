"""The way to where an entry belongs: its name taken apart, and the layer's directories, open and bounded in number.

Every step goes from one directory's descriptor to the next by a single name, and a symlink is never followed: nothing
outside the layer can be reached, whatever an archive says.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENOTDIR, ENXIO

from unionfs.image.chain import is_whiteout
from unionfs.image.errors import HostileEntry, LimitExceeded, show
from unionfs.layer import verbs
from unionfs.union.marks import AUFS_PREFIX, Marks
from unionfs.union.marks import read as read_mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.tar_entry import Entry

DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRS = 64


class Directories:
    """The directories of a layer in the making.

    open     descriptors by path as spelled in the archive; implied: directories that exist only because something is in
             them, until the archive lists them
    """

    def __init__(self, root: bytes, marks: Marks, depth: int) -> None:
        self.root = os.open(root, DIR)
        self.open: dict[bytes, int] = {b"": self.root}
        self.implied: set[bytes] = {b""}
        self._marks = marks
        self._depth = depth

    def close(self) -> None:
        for fd in self.open.values():
            os.close(fd)
        self.open.clear()

    def make(self, parent: bytes, entry: Entry) -> int:
        """The descriptor of the directory that holds the entry; what is missing is made."""
        names = components(parent, entry)
        if len(names) > self._depth:
            raise LimitExceeded(f"entry {show(entry.name)}: more than {self._depth} directories deep")
        path = b""
        fd = self.root
        for name in names:
            path = path + b"/" + name if path else name
            known = self.open.get(path)
            fd = known if known is not None else self.keep(path, self._step(fd, name, path, entry))
        if parent != path:
            return self.keep(parent, os.dup(fd))  # spelled another way: "./usr", "usr//lib"
        return fd

    def _step(self, fd: int, name: bytes, path: bytes, entry: Entry) -> int:
        if name.startswith(AUFS_PREFIX):
            raise HostileEntry(entry.name, "lies inside a whiteout")
        try:
            return os.open(name, DIR, dir_fd=fd)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=fd)
        except OSError as exc:
            if exc.errno not in (ENOTDIR, ELOOP, ENXIO):
                raise
            if not clear_whiteout(fd, name):
                raise HostileEntry(entry.name, f"{show(path)} on its way is not a directory") from None
            os.mkdir(name, 0o755, dir_fd=fd)
            verbs.setxattr(fd, name, self._marks.opaque, b"y")  # what the whiteout hid stays hidden
        self.implied.add(path)
        return os.open(name, DIR, dir_fd=fd)

    def keep(self, path: bytes, fd: int) -> int:
        """Remember an open directory. Parents are asked for more often than others: the oldest goes first."""
        if len(self.open) > _OPEN_DIRS:
            recent = list(self.open)[1:]
            for old in recent[: _OPEN_DIRS // 2]:
                if old != path and not path.startswith(old + b"/"):
                    os.close(self.open.pop(old))
        self.open[path] = fd
        return fd

    def walk(self, path: bytes, entry: Entry) -> tuple[int, bytes]:
        """(a directory's descriptor, to be closed; last name), nothing made on the way. FileNotFoundError."""
        parent, _, name = path.rpartition(b"/")
        known = self.open.get(parent)
        if known is not None:
            return os.dup(known), name
        fd = os.dup(self.root)
        for step in parent.split(b"/"):
            try:
                inner = os.open(step, DIR, dir_fd=fd)
            except OSError as exc:
                if exc.errno in (ENOTDIR, ELOOP):
                    raise HostileEntry(
                        entry.name, f"a hard link through {show(step)}, not a directory"
                    ) from None
                raise
            finally:
                os.close(fd)
            fd = inner
        return fd, name

    def reopen(self, path: bytes) -> int:
        """The descriptor of a directory made before."""
        fd = self.open.get(path)
        if fd is not None:
            return fd
        fd, step = self.root, b""
        for name in path.split(b"/"):
            step = step + b"/" + name if step else name
            known = self.open.get(step)
            fd = known if known is not None else self.keep(step, os.open(name, DIR, dir_fd=fd))
        return fd


def clear_whiteout(dir_fd: int, name: bytes) -> bool:
    """Take away a whiteout made earlier, for an object of the same name in the same layer. False: it is none."""
    st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if not is_whiteout(st, dir_fd, name):
        return False
    os.unlink(name, dir_fd=dir_fd)
    return True


def make_whiteout(dir_fd: int, name: bytes, marks: Marks) -> bool:
    """A whiteout where there is nothing yet, as a device or, where that is not permitted, by xattr. False: a device.

    FileExistsError.
    """
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dir_fd)
        return False
    except PermissionError:
        pass
    if read_mark(dir_fd, b"", marks.opaque) == b"y":
        return True  # nothing below to hide
    os.close(os.open(name, NEW_FILE, 0o600, dir_fd=dir_fd))
    verbs.setxattr(dir_fd, name, marks.whiteout, b"y")
    try:
        verbs.setxattr(dir_fd, b"", marks.opaque, b"x", os.XATTR_CREATE)
    except FileExistsError:
        pass
    return True


def split(name: bytes) -> tuple[bytes, bytes]:
    """(directory, last name) of an entry's name; the last name is empty for the root. HostileEntry if it
    leads out."""
    parent, _, base = name.rstrip(b"/").rpartition(b"/")
    if name[:1] == b"/":
        raise HostileEntry(name, "an absolute name")
    if base == b".." or not name:
        raise HostileEntry(name, "leads out of the layer" if base else "no name")
    if base == b".":
        return split(parent + b"/") if parent else (b"", b"")
    return parent, base


def components(path: bytes, entry: Entry, what: str = "") -> list[bytes]:
    """The names of a path inside the layer. HostileEntry where it leads, or could lead, out."""
    names = [name for name in path.split(b"/") if name and name != b"."]
    if path[:1] == b"/" and not what:
        raise HostileEntry(entry.name, "an absolute name")
    if b".." in names:
        raise HostileEntry(
            entry.name,
            f"{what}{show(path)}, which leads out of the layer" if what else "leads out of the layer",
        )
    return names
