"""What can be done to one object of one layer.

An object is named by (fd, name): a descriptor of its directory (O_PATH is enough) and one path component, which is
never followed if it is a symlink. An empty name means the object that the descriptor itself stands for; None the same
of a descriptor that is really open (not O_PATH), which is two to five times cheaper. All raise OSError.
Xattrs of names go through /proc/self/fd: its link leads to exactly the opened directory, and the last name is not
followed.
"""

from __future__ import annotations

import os
from errno import EBADF, ENOSYS, EPERM

from unionfs import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    _R = TypeVar("_R")

NOW = 1 << 80  # no time: the others fit 64 bits of seconds, and may lie before 1970

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY


def at(fd: int, name: bytes | None) -> bytes:
    """A path of the object; only its last component, if there is a name, may be a symlink."""
    return b"/proc/self/fd/%d/%b" % (fd, name) if name else b"/proc/self/fd/%d" % fd


# --- looking -------------------------------------------------------------------------------------------------------

def stat(fd: int, name: bytes | None) -> os.stat_result:
    return os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.stat(fd)


def exists(fd: int, name: bytes) -> bool:
    """Whether the directory has the name; three times cheaper than catching stat's ENOENT."""
    return os.access(name, os.F_OK, dir_fd=fd, follow_symlinks=False)


def readlink(fd: int, name: bytes) -> bytes:
    return os.readlink(name, dir_fd=fd)


def scan(fd: int) -> Iterator[os.DirEntry[bytes]]:
    """The entries of the directory, without `.` and `..`; names are bytes. The descriptor's offset is not used."""
    with os.scandir(b"/proc/self/fd/%d" % fd) as entries:
        yield from entries


def birth_time(fd: int, name: bytes) -> tuple[int, int] | None:
    return libc.birth_time(fd, name, libc.AT_SYMLINK_NOFOLLOW | (0 if name else libc.AT_EMPTY_PATH))


def handle(fd: int, name: bytes | None) -> tuple[int, bytes]:
    """File handle as (type, bytes), which names the inode for as long as it exists."""
    return libc.name_to_handle_at(fd, name or b"", 0 if name else libc.AT_EMPTY_PATH)


# --- opening -------------------------------------------------------------------------------------------------------

def open_file(fd: int, name: bytes, flags: int, mode: int = 0) -> int:
    return os.open(name, flags | _SAFE, mode, dir_fd=fd) if name else os.open(at(fd, b""), flags | os.O_CLOEXEC)


def open_reading(fd: int, name: bytes) -> int:
    """For reading without touching the access time where that is permitted (owner or CAP_FOWNER)."""
    try:
        return open_file(fd, name, os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK)
    except PermissionError:
        return open_file(fd, name, os.O_RDONLY | os.O_NONBLOCK)


def open_path(fd: int, name: bytes) -> int:
    """A descriptor that keeps the object, whatever happens to its name."""
    return os.open(name, _PATH, dir_fd=fd)


def open_dir(fd: int, name: bytes) -> int:
    """A directory; ENOTDIR for anything else, also a symlink to one.

    Really open where that is permitted, since its xattrs are then cheaper to ask for, and O_PATH where not.
    """
    try:
        return os.open(name, _DIRECTORY | os.O_RDONLY | os.O_NOATIME, dir_fd=fd)
    except PermissionError:
        return os.open(name, _DIRECTORY | os.O_PATH, dir_fd=fd)


def open_unnamed(fd: int, mode: int, flags: int = os.O_RDWR) -> int:
    """A nameless regular file in the directory's file system; EOPNOTSUPP or EISDIR where there is no O_TMPFILE."""
    return os.open(b".", os.O_TMPFILE | flags | os.O_CLOEXEC, mode, dir_fd=fd)


# --- names ---------------------------------------------------------------------------------------------------------

def mknod(fd: int, name: bytes, mode: int, rdev: int = 0) -> None:
    os.mknod(name, mode, rdev, dir_fd=fd)


def mkdir(fd: int, name: bytes, mode: int) -> None:
    os.mkdir(name, mode, dir_fd=fd)


def symlink(fd: int, name: bytes, target: bytes) -> None:
    os.symlink(target, name, dir_fd=fd)


def link(fd: int, name: bytes | None, new_fd: int, new_name: bytes) -> None:
    """EEXIST where the new name is taken; EMLINK where the inode has all the names it can have."""
    if name:
        os.link(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd, follow_symlinks=False)
    else:
        os.link(at(fd, b""), new_name, dst_dir_fd=new_fd, follow_symlinks=True)


def unlink(fd: int, name: bytes) -> None:
    os.unlink(name, dir_fd=fd)


def rmdir(fd: int, name: bytes) -> None:
    os.rmdir(name, dir_fd=fd)


def rename(fd: int, name: bytes, new_fd: int, new_name: bytes, flags: int = 0) -> None:
    if flags:
        libc.renameat2(fd, name, new_fd, new_name, flags)
    else:
        os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)


# --- attributes ----------------------------------------------------------------------------------------------------

def chmod(fd: int, name: bytes | None, mode: int) -> None:
    """Not for symlinks (EOPNOTSUPP)."""
    if name is None:
        os.chmod(fd, mode)
        return
    try:
        libc.fchmodat2(fd, name, mode, libc.AT_SYMLINK_NOFOLLOW if name else libc.AT_EMPTY_PATH)
    except OSError as error:
        if error.errno not in (ENOSYS, EPERM):
            raise
        _chmod_by_path(fd, name, mode)


def _chmod_by_path(fd: int, name: bytes, mode: int) -> None:
    """For kernels and sandboxes without fchmodat2; at three times its price."""
    if not name:
        os.chmod(at(fd, b""), mode)
        return
    held = open_path(fd, name)
    try:
        os.chmod(at(held, b""), mode)
    finally:
        os.close(held)


def chown(fd: int, name: bytes | None, uid: int, gid: int) -> None:
    if name is None:
        os.chown(fd, uid, gid)
    elif name:
        os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    else:
        os.chown(at(fd, b""), uid, gid)


def utimens(fd: int, name: bytes | None, atime: int | None, mtime: int | None) -> None:
    """Access and modification time in ns since the epoch; NOW, or None to leave a time as it is."""
    if atime is not None and mtime is not None and NOW not in (atime, mtime):
        _utime(fd, name, (atime, mtime))
        return
    times = *_timespec(atime), *_timespec(mtime)
    if name is None:
        libc.futimens(fd, times)
    elif name:
        libc.utimensat(fd, name, times, libc.AT_SYMLINK_NOFOLLOW)
    else:
        libc.utimensat(libc.AT_FDCWD, at(fd, b""), times, 0)


def _timespec(time: int | None) -> tuple[int, int]:
    if time is None:
        return 0, libc.UTIME_OMIT
    return (0, libc.UTIME_NOW) if time == NOW else divmod(time, 10**9)


def set_times(fd: int, name: bytes | None, st: os.stat_result) -> None:
    """Access and modification time as in `st`. For an O_PATH descriptor of a directory name it b"." (cheaper)."""
    _utime(fd, name, (st.st_atime_ns, st.st_mtime_ns))


def _utime(fd: int, name: bytes | None, times: tuple[int, int]) -> None:
    if name is None:
        os.utime(fd, ns=times)
    elif name:
        os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False)
    else:
        os.utime(at(fd, b""), ns=times)


def truncate(fd: int, name: bytes, size: int) -> None:
    held = open_file(fd, name, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.ftruncate(held, size)
    finally:
        os.close(held)


def getxattr(fd: int, name: bytes | None, key: bytes) -> bytes:
    return _of(os.getxattr, fd, name, key)


def listxattr(fd: int, name: bytes | None) -> list[bytes]:
    found = _of(os.listxattr, fd, name)
    return [os.fsencode(key) for key in found] if found else []


def _of(ask: Callable[..., _R], fd: int, name: bytes | None, *arguments: bytes) -> _R:
    """Ask for xattrs: of what the descriptor stands for through itself, where that is really open."""
    if not name:
        try:
            return ask(fd, *arguments)
        except OSError as error:
            if error.errno != EBADF:  # O_PATH
                raise
    return ask(at(fd, name), *arguments, follow_symlinks=not name)


def setxattr(fd: int, name: bytes | None, key: bytes, value: bytes, flags: int = 0) -> None:
    os.setxattr(fd if name is None else at(fd, name), key, value, flags, follow_symlinks=not name)


def removexattr(fd: int, name: bytes | None, key: bytes) -> None:
    os.removexattr(fd if name is None else at(fd, name), key, follow_symlinks=not name)


# --- data ----------------------------------------------------------------------------------------------------------

def sync(fd: int) -> None:
    os.fsync(fd)


def sync_data(fd: int) -> None:
    os.fdatasync(fd)


def read(fd: int, size: int, offset: int) -> bytes:
    return os.pread(fd, size, offset)


def write(fd: int, data: bytes, offset: int) -> int:
    return os.pwrite(fd, data, offset)


def copy_range(source: int, target: int, length: int, offset: int, target_offset: int) -> int:
    return os.copy_file_range(source, target, length, offset, target_offset)


syncfs: Callable[[int], None] = libc.syncfs
fallocate: Callable[[int, int, int, int], None] = libc.fallocate
