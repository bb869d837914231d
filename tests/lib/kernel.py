"""System calls that the standard library lacks, as thin functions that raise OSError.

The tests have their own, so that a mistake in unionfs.libc cannot hide itself.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO = 1, 2, 8, 16
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x400, 0x1000
MS_RDONLY, MS_REMOUNT, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 32, 2, 8
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IMMUTABLE, FS_APPEND, FS_NOATIME, FS_NODUMP = 0x10, 0x20, 0x80, 0x40
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
_STATX_BTIME = 0x800
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_SYS_GETDENTS64, _SYS_STATX = 217, 332
if os.uname().machine == "aarch64":
    _SYS_GETDENTS64, _SYS_STATX = 61, 291

type_names = {1: "fifo", 2: "chr", 4: "dir", 6: "blk", 8: "reg", 10: "lnk", 12: "sock"}

Path = str | bytes | os.PathLike[str]


class Dirent(NamedTuple):
    ino: int
    next: int
    type: int
    name: bytes


def _check(result: int, *names: Path) -> int:
    if result < 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err), *names[:1])
    return result


def mount(source: str, target: Path, fstype: str, options: str, flags: int = 0) -> None:
    """mount(2); options is limited to one page by the kernel."""
    _check(
        _libc.mount(source.encode(), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), options.encode()),
        target,
    )


def unshare(flags: int) -> None:
    """Leaves namespaces of the parent for new ones (CLONE_NEW…)."""
    _check(_libc.unshare(flags))


def drop_on_setuid() -> None:
    """Back to the usual rule, that who ceases to be root loses root's capabilities.

    A union created in this process may have changed that for its own purposes, and children inherit it.
    """
    if _libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0):
        _check(_libc.prctl(_PR_SET_SECUREBITS, 0, 0, 0, 0))


def forget_names(target: Path) -> None:
    """Has the kernel drop every name of a mount that nobody holds, as it does when memory is short."""
    _check(_libc.mount(None, os.fsencode(target), None, ctypes.c_ulong(MS_REMOUNT), None), target)


def umount(target: Path, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), target)


def renameat2(old: Path, new: Path, flags: int = 0) -> None:
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def link_fd(fd: int, new: Path) -> None:
    """Gives an open file (also an O_TMPFILE one) a name, by way of /proc as open(2) describes it."""
    source = b"/proc/self/fd/%d" % fd
    _check(_libc.linkat(AT_FDCWD, source, AT_FDCWD, os.fsencode(new), AT_SYMLINK_FOLLOW), new)


def file_handle(path: Path) -> bytes | None:
    """What open_by_handle_at(2) would take: type (one byte) and handle; None where the file system has none."""
    buffer = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0), 136)
    mount_id = ctypes.c_int()
    if _libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount_id), 0) < 0:
        return None
    size, kind = struct.unpack_from("<Ii", buffer)
    return bytes([kind & 0xFF]) + buffer.raw[8 : 8 + size]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def getdents(fd: int, size: int = 32768) -> list[Dirent]:
    """One getdents64 call: the raw entries as the kernel gives them, [] at the end."""
    buffer = ctypes.create_string_buffer(size)
    used = _check(_libc.syscall(_SYS_GETDENTS64, fd, buffer, size))
    return list(_dirents(buffer.raw[:used]))


def _dirents(data: bytes) -> Iterator[Dirent]:
    at = 0
    while at < len(data):
        ino, following, length, kind = struct.unpack_from("<QqHB", data, at)
        yield Dirent(ino, following, kind, data[at + 19 : at + length].split(b"\0", 1)[0])
        at += length


def all_dirents(path: Path) -> list[Dirent]:
    """Every raw entry of a directory, with "." and ".."."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries: list[Dirent] = []
        while more := getdents(fd):
            entries += more
        return entries
    finally:
        os.close(fd)


def birth_time(path: Path) -> int | None:
    """stx_btime in ns, None where the file system has none."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.syscall(_SYS_STATX, AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, 0xFFF, buffer))
    (mask,) = struct.unpack_from("<I", buffer, 0)
    if not mask & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 80)
    return int(seconds) * 10**9 + int(nanoseconds)


def getflags(path: Path) -> int:
    """chattr(1)'s flags of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int(struct.unpack("<i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0" * 4))[0])
    finally:
        os.close(fd)


def setflags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("<i", flags))
    finally:
        os.close(fd)


def capget_effective() -> int:
    """The effective capabilities of this process as a bit mask."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("CapEff:"))
    return int(line.split()[1], 16)
