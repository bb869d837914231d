"""Making whiteouts: the mark in the upper that hides a name of the layers below.

Form "device" is a character device 0:0, all of them links to one inode, as in the kernel; "xattr" an empty file with a
mark in a directory marked to hold such; "aufs" a file `.wh.NAME`. Reading them is in merge.py and lookup.py.
"""

from __future__ import annotations

import os
from errno import EEXIST, EMLINK, ENOENT, ENOTEMPTY
from stat import S_IFCHR, S_IMODE

from unionfs.layer import verbs
from unionfs.libc import RENAME_EXCHANGE
from unionfs.union import checks, marks
from unionfs.union.copying import copy_xattrs
from unionfs.union.stack import SHARED_WHITEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack

def put(stack: Stack, fd: int, name: bytes) -> None:
    """Hide `name` in an upper directory that has nothing under that name."""
    form = stack.abilities.whiteout
    if form == "device":
        _link_shared(stack, fd, name)
    elif form == "aufs":
        _touch(fd, marks.AUFS_PREFIX + name)
    else:
        announce(stack, fd)
        _exchange_or_move(stack, _xattr_form(stack), fd, name, exchange=False)
    count(stack, name)


def replace(stack: Stack, fd: int, name: bytes, is_dir: bool) -> None:
    """Put a whiteout in the place of an upper object, in one step; a directory may hold nothing but whiteouts."""
    form = stack.abilities.whiteout
    if form == "aufs":
        _touch(fd, marks.AUFS_PREFIX + name)
        remove(stack, fd, name, is_dir)
    else:
        if form == "device":
            made = stack.temp_name()
            _link_shared(stack, stack.work_fd, made)
        else:
            announce(stack, fd)
            made = _xattr_form(stack)
        _exchange_or_move(stack, made, fd, name, is_dir)
    count(stack, name)


def remove(stack: Stack, fd: int, name: bytes, is_dir: bool) -> None:
    """Remove an upper object that needs no whiteout; a directory may hold whiteouts."""
    if not is_dir:
        verbs.unlink(fd, name)
        return
    try:
        verbs.rmdir(fd, name)
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):
            raise
        made = stack.temp_name()
        verbs.rename(fd, name, stack.work_fd, made)
        checks.discard(stack.work_fd, made)


def lift(stack: Stack, fd: int, name: bytes) -> None:
    """Remove the whiteout of a name that has just got an object of its own (AUFS form: they stand side by side)."""
    if stack.abilities.whiteout == "aufs":
        try:
            verbs.unlink(fd, marks.AUFS_PREFIX + name)
        except OSError as error:
            if error.errno != ENOENT:
                raise


def cover(stack: Stack, made: bytes, fd: int, name: bytes, is_dir: bool) -> None:
    """Move a finished object from the work directory to a name that a whiteout holds."""
    if stack.abilities.whiteout == "aufs":
        verbs.rename(stack.work_fd, made, fd, name)
        lift(stack, fd, name)
    else:
        _exchange_or_move(stack, made, fd, name, is_dir)


def _exchange_or_move(stack: Stack, made: bytes, fd: int, name: bytes, exchange: bool) -> None:
    """An object in work takes the place of one in the upper. exchange: one of them is a directory and the other not.

    Done once the name has changed hands: what fails after that only leaves something in work.
    """
    try:
        if exchange:
            swap(stack, made, fd, name)
        else:
            verbs.rename(stack.work_fd, made, fd, name)
    except BaseException:
        checks.discard(stack.work_fd, made)
        raise
    if exchange:
        checks.discard(stack.work_fd, made)


def clear(stack: Stack, fd: int, name: bytes) -> None:
    """Make an upper directory that holds only whiteouts really empty, and opaque instead, in one step."""
    made = stack.temp_name()
    verbs.mkdir(stack.work_fd, made, 0o700)
    try:
        st = verbs.stat(fd, name)
        verbs.chown(stack.work_fd, made, st.st_uid, st.st_gid)
        verbs.chmod(stack.work_fd, made, S_IMODE(st.st_mode))
        copy_xattrs(stack, fd, name, stack.work_fd, made)
        set_opaque(stack, stack.work_fd, made)
        swap(stack, made, fd, name)
    finally:
        checks.discard(stack.work_fd, made)


def swap(stack: Stack, made: bytes, fd: int, name: bytes) -> None:
    """Exchange an object in work with one in the upper. Where the file system cannot, in two steps."""
    if stack.abilities.exchange:
        verbs.rename(stack.work_fd, made, fd, name, RENAME_EXCHANGE)
        return
    aside = stack.temp_name()
    verbs.rename(fd, name, stack.work_fd, aside)
    verbs.rename(stack.work_fd, made, fd, name)
    verbs.rename(stack.work_fd, aside, stack.work_fd, made)


def set_opaque(stack: Stack, fd: int, name: bytes) -> None:
    """Nothing below this upper directory shows through."""
    if stack.abilities.xattr:
        verbs.setxattr(fd, name, stack.marks.opaque, b"y")
    else:
        _touch(fd, name + b"/" + marks.AUFS_OPAQUE if name else marks.AUFS_OPAQUE)


def announce(stack: Stack, fd: int) -> None:
    """Mark a directory as one that may hold whiteouts in the xattr form."""
    if not marks.read(fd, b"", stack.marks.opaque):
        verbs.setxattr(fd, b"", stack.marks.opaque, b"x")


def count(stack: Stack, name: bytes) -> None:
    stack.counters["whiteouts"] += 1
    if stack.emit is not None:
        stack.emit("whiteout", name, 0)


def _link_shared(stack: Stack, fd: int, name: bytes) -> None:
    """A link to the one whiteout inode; a new inode when it has all the links it can have."""
    try:
        verbs.link(stack.work_fd, SHARED_WHITEOUT, fd, name)
        return
    except OSError as error:
        if error.errno == EMLINK:
            verbs.unlink(stack.work_fd, SHARED_WHITEOUT)
        elif error.errno != ENOENT:
            raise
    verbs.mknod(stack.work_fd, SHARED_WHITEOUT, S_IFCHR, marks.WHITEOUT_RDEV)
    verbs.link(stack.work_fd, SHARED_WHITEOUT, fd, name)


def _xattr_form(stack: Stack) -> bytes:
    made = stack.temp_name()
    _touch(stack.work_fd, made)
    verbs.setxattr(stack.work_fd, made, stack.marks.whiteout, b"y")
    return made


def _touch(fd: int, name: bytes) -> None:
    os.close(verbs.open_file(fd, name, os.O_CREAT | os.O_WRONLY, 0o444))
