"""Owner, mode, xattrs and times of unpacked objects: as they are (root), or kept in an xattr (an ordinary
user).

Both ways offer the same calls. A call that gives a descriptor takes it of the object itself, open for
reading or writing; one that gives (dir_fd, name) never follows a symlink. All raise OSError.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ENOTSUP, EPERM, ERANGE

from unionfs.image import tar_entry
from unionfs.layer import verbs
from unionfs.union import statmark
from unionfs.union.checks import sees_trusted_xattrs
from unionfs.union.marks import Marks, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.tar_entry import Entry

DEFAULT_ACL = b"system.posix_acl_default"
_HOST_ONLY = frozenset((b"security.selinux", b"security.ima", b"security.evm"))
"""Labels and signatures that mean something on the machine that made them, and nothing here."""
_REFUSED = (EPERM, EACCES, ENOTSUP, EINVAL, ERANGE)


class Notes:
    """What could not be kept, told once per kind: {reason: (how often, first name)}."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, bytes]] = {}

    def add(self, reason: str, name: bytes) -> None:
        count, first = self.seen.get(reason, (0, name))
        self.seen[reason] = (count + 1, first)


class RealOwner:
    """For root: ids, modes and xattrs are the object's own."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.marks = Marks(user=not sees_trusted_xattrs())

    def file(self, fd: int, entry: Entry) -> None:
        os.chown(fd, entry.uid, entry.gid)
        if entry.mode & 0o7000:  # open() was given the others, and chown takes these away
            os.chmod(fd, entry.mode)
        if entry.xattrs:
            self.xattrs(fd, entry)
        mtime = entry.mtime
        os.utime(fd, ns=(mtime if entry.atime is None else entry.atime, mtime))

    def directory(self, fd: int, entry: Entry) -> None:
        """All but the times and the default ACL, which wait until the directory is full."""
        os.chown(fd, entry.uid, entry.gid)
        os.chmod(fd, entry.mode)
        if entry.xattrs:
            self.xattrs(fd, entry)

    def symlink(self, dir_fd: int, name: bytes, entry: Entry) -> None:
        os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
        if entry.xattrs:
            self.xattrs((dir_fd, name), entry)
        set_times(dir_fd, name, entry)

    def special(self, dir_fd: int, name: bytes, entry: Entry) -> bool:
        """Make a device or FIFO. False: not permitted here, nothing made."""
        try:
            os.mknod(name, mode_of(entry), os.makedev(entry.devmajor, entry.devminor), dir_fd=dir_fd)
        except PermissionError:
            return False
        os.chown(name, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
        os.chmod(verbs.at(dir_fd, name), entry.mode)
        if entry.xattrs:
            self.xattrs((dir_fd, name), entry)
        set_times(dir_fd, name, entry)
        return True

    def xattrs(self, target: int | tuple[int, bytes], entry: Entry) -> None:
        path: int | bytes = target if isinstance(target, int) else verbs.at(*target)
        for key, value in (entry.xattrs or {}).items():
            if key in _HOST_ONLY or (disk := self.disk_name(key)) is None:
                continue
            try:
                os.setxattr(path, disk, value, follow_symlinks=isinstance(path, int))
            except OSError as exc:
                if exc.errno not in _REFUSED:
                    raise
                self.notes.add(
                    f"xattr {key.decode('utf-8', 'backslashreplace')} cannot be kept ({exc.strerror})",
                    entry.name,
                )


    def disk_name(self, key: bytes) -> bytes | None:
        """Where an xattr of the archive goes; None: nowhere, or later."""
        # an overlay mark in an archive is a user's xattr like any other, not a mark of this layer
        return None if key == DEFAULT_ACL else self.marks.to_disk(key)


class XattrOwner(RealOwner):
    """For an ordinary user: everything belongs to him on disk, and `override_stat` says what it is in the
    image.

    Symlinks cannot have such an xattr: they are root's.
    """

    def __init__(self, notes: Notes) -> None:
        super().__init__(notes)
        self.marks = Marks(user=True)

    def _override(self, target: int | bytes, entry: Entry) -> None:
        rdev = os.makedev(entry.devmajor, entry.devminor) if entry.kind in (tar_entry.CHAR, tar_entry.BLOCKDEV) else 0
        os.setxattr(target, statmark.KEY, statmark.value(mode_of(entry), entry.uid, entry.gid, rdev))

    def disk_name(self, key: bytes) -> bytes | None:
        return statmark.unpacked(self.marks.to_disk(key))

    def file(self, fd: int, entry: Entry) -> None:
        os.chmod(fd, entry.mode & 0o777 | 0o600)
        self._override(fd, entry)
        if entry.xattrs:
            self.xattrs(fd, entry)
        os.utime(fd, ns=(entry.mtime if entry.atime is None else entry.atime, entry.mtime))

    def directory(self, fd: int, entry: Entry) -> None:
        os.chmod(fd, entry.mode & 0o777 | 0o700)
        self._override(fd, entry)
        if entry.xattrs:
            self.xattrs(fd, entry)

    def symlink(self, dir_fd: int, name: bytes, entry: Entry) -> None:
        set_times(dir_fd, name, entry)

    def special(self, dir_fd: int, name: bytes, entry: Entry) -> bool:
        """A file stands for the device or FIFO; its type is in the xattr."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        fd = os.open(name, flags, entry.mode & 0o777 | 0o600, dir_fd=dir_fd)
        try:
            self.file(fd, entry)
        finally:
            os.close(fd)
        return True


def set_times(dir_fd: int, name: bytes, entry: Entry) -> None:
    atime = entry.mtime if entry.atime is None else entry.atime
    os.utime(name, ns=(atime, entry.mtime), dir_fd=dir_fd, follow_symlinks=False)


_FORMATS = {
    tar_entry.REGULAR: stat.S_IFREG, tar_entry.DIRECTORY: stat.S_IFDIR, tar_entry.SYMLINK: stat.S_IFLNK,
    tar_entry.CHAR: stat.S_IFCHR, tar_entry.BLOCKDEV: stat.S_IFBLK, tar_entry.FIFO: stat.S_IFIFO,
}  # fmt: skip


def meant(st: os.stat_result, fd: int, name: bytes) -> os.stat_result:
    """What the image means by an object of an ordinary user's store, whose stat this is."""
    if stat.S_IFMT(st.st_mode) in (stat.S_IFREG, stat.S_IFDIR) and (text := read(fd, name, statmark.KEY)) is not None:
        return statmark.shown(st, text)
    return statmark.unmarked(st, os.geteuid(), os.getegid())


def mode_of(entry: Entry) -> int:
    """The st_mode that the entry asks for."""
    return _FORMATS[entry.kind] | entry.mode
