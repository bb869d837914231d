"""Copying bytes and attributes from one object on disk to another: pure I/O, no state of the union."""

from __future__ import annotations

import fcntl
import os
from errno import EINVAL, ENODATA, ENXIO, EOPNOTSUPP, EPERM, EXDEV
from stat import S_IFLNK, S_IFMT, S_IMODE

from unionfs.layer import verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack

_FICLONE = 0x40049409
_CHUNK = 64 << 20    # bytes that one copy_file_range call may move, so that a signal or an unmount is not kept waiting
_PLAIN = 64 << 10    # up to here two plain calls beat copy_file_range
_READ = 1 << 20


def copy_bytes(source: int, target: int, size: int, st: os.stat_result) -> int:
    """The first `size` bytes, by the cheapest way both files allow. Sparse files stay sparse."""
    if size == st.st_size and st.st_size > 4096 and _clone(source, target):
        return size
    if st.st_blocks * 512 >= size:
        _copy_range(source, target, 0, size)
        return size
    return _copy_sparse(source, target, size)


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_sparse(source: int, target: int, size: int) -> int:
    copied = offset = 0
    while offset < size:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != ENXIO:
                raise
            break  # nothing but a hole up to the end
        if start >= size:
            break
        offset = min(os.lseek(source, start, os.SEEK_HOLE), size)
        _copy_range(source, target, start, offset - start)
        copied += offset - start
    os.ftruncate(target, size)
    return copied


def _copy_range(source: int, target: int, offset: int, length: int) -> None:
    while length:
        if length <= _PLAIN:
            count = _copy_plain(source, target, offset, length)
        else:
            try:
                count = verbs.copy_range(source, target, min(length, _CHUNK), offset, offset)
            except OSError as error:
                if error.errno not in (EXDEV, EINVAL, EOPNOTSUPP, EPERM):
                    raise
                count = _copy_plain(source, target, offset, length)
        if count == 0:
            return  # the source shrank underneath
        offset += count
        length -= count


def _copy_plain(source: int, target: int, offset: int, length: int) -> int:
    data = verbs.read(source, min(length, _READ), offset)
    done = 0
    while done < len(data):
        done += verbs.write(target, data[done:] if done else data, offset + done)
    return done


def copy_attributes(stack: Stack, source: int, source_name: bytes | None, fd: int, name: bytes | None,
                     st: os.stat_result) -> None:
    """Owner, then mode (chown clears setuid), then xattrs (chown clears capabilities); overlay's own marks stay."""
    try:
        verbs.chown(fd, name, st.st_uid, st.st_gid)
    except PermissionError:
        pass  # an ordinary user cannot give files away: the copy is its own, as in the kernel
    if S_IFMT(st.st_mode) != S_IFLNK:
        verbs.chmod(fd, name, S_IMODE(st.st_mode))
    copy_xattrs(stack, source, source_name, fd, name)


def copy_xattrs(stack: Stack, source: int, source_name: bytes | None, fd: int, name: bytes | None) -> None:
    """All xattrs but overlay's marks (escaped ones included: they are the user's). What the upper refuses is left."""
    if not stack.abilities.xattr:
        return
    try:
        keys = verbs.listxattr(source, source_name)
    except OSError as error:
        if error.errno in (EOPNOTSUPP,):
            return
        raise
    for key in keys:
        if stack.marks.to_user(key) is None:
            continue
        try:
            value = verbs.getxattr(source, source_name, key)
        except OSError as error:
            if error.errno == ENODATA:
                continue
            raise
        try:
            verbs.setxattr(fd, name, key, value)
        except OSError as error:
            if error.errno not in (EOPNOTSUPP, EPERM, EINVAL) or key.startswith(b"system.posix_acl"):
                raise
