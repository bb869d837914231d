"""Requests about attributes, extended attributes and the file system. Handlers: see `server.desk`."""

from __future__ import annotations

from errno import ENOTTY, ERANGE
from stat import S_ISGID

from unionfs.server.desk import DEFER
from unionfs.union import UTIME_NOW
from unionfs.wire import encode
from unionfs.wire.kernel import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FUSE_SETXATTR_ACL_KILL_SGID,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.desk import Desk, Reply
    from unionfs.union import Union
    from unionfs.union.node import Node

_LEAVE = -1  # union.chown: leave this owner as it is

# linux/fs.h; the argument of the first two is a long in the number and an int in fact
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR = 0x80086601, 0x40086602, 0x801C581F
_FSXATTR_SIZE = 28
# FS_…_FL → FS_XFLAG_…: sync, immutable, append, nodump, noatime, projinherit
_XFLAGS = ((0x8, 0x20), (0x10, 0x8), (0x20, 0x10), (0x40, 0x80), (0x80, 0x40), (0x20000000, 0x200))


def getattr_(desk: Desk, nodeid: int, _flags: int, _fh: int) -> Reply:
    node = desk.nodes[nodeid]
    return desk.attr(node, desk.union.stat(node))


def statx(desk: Desk, nodeid: int, _getattr_flags: int, _fh: int, _flags: int, _mask: int) -> Reply:
    node = desk.nodes[nodeid]
    return desk.statx(node, desk.union.stat(node))


def setattr_(
    desk: Desk, nodeid: int, valid: int, fh: int, size: int, _lock_owner: int, atime: int, mtime: int,
    _ctime: int, atimensec: int, mtimensec: int, _ctimensec: int, mode: int, uid: int, gid: int,
) -> Reply:  # fmt: skip
    node = desk.nodes[nodeid]
    if desk.busy(node, valid & FATTR_SIZE != 0):
        return DEFER
    union = desk.union
    if valid & FATTR_SIZE:
        union.truncate(node, size, desk.files.get(fh) if valid & FATTR_FH else None)
    # Where nothing is asked for it is a chown(2) that leaves both owners; set-id bits go all the same.
    if valid & (FATTR_UID | FATTR_GID) or not valid & ~FATTR_FH:
        union.chown(node, uid if valid & FATTR_UID else _LEAVE, gid if valid & FATTR_GID else _LEAVE)
    if valid & FATTR_KILL_SUIDGID:
        union.kill_priv(node)
    if valid & FATTR_MODE:
        union.chmod(node, mode & 0o7777)
    if valid & (FATTR_ATIME | FATTR_MTIME):
        union.utimens(
            node,
            _time(valid, FATTR_ATIME, FATTR_ATIME_NOW, atime, atimensec),
            _time(valid, FATTR_MTIME, FATTR_MTIME_NOW, mtime, mtimensec),
        )
    desk.done()
    return desk.attr(node, union.stat(node))


def _time(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if not valid & given:
        return None
    return UTIME_NOW if valid & now else seconds * 1_000_000_000 + nanoseconds


def readlink(desk: Desk, nodeid: int) -> Reply:
    return desk.data(desk.union.readlink(desk.nodes[nodeid]))


def getxattr(desk: Desk, nodeid: int, size: int, name: bytes) -> Reply:
    return _value(desk, size, desk.union.getxattr(desk.nodes[nodeid], name))


def listxattr(desk: Desk, nodeid: int, size: int, uid: int) -> Reply:
    names = desk.union.listxattr(desk.nodes[nodeid])
    if uid:  # file systems show these to the superuser only; reading one by name the kernel checks itself
        names = [name for name in names if not name.startswith(b"trusted.")]
    return _value(desk, size, b"".join([name + b"\0" for name in names]))


def _value(desk: Desk, room: int, value: bytes) -> Reply:
    if not room:
        return desk.xattr_size(len(value))
    if len(value) > room:
        return desk.failure(ERANGE)
    return desk.data(value)


def setxattr(desk: Desk, nodeid: int, name: bytes, value: bytes, flags: int, more: int) -> Reply:
    node = desk.nodes[nodeid]
    if desk.busy(node, False):
        return DEFER
    desk.union.setxattr(node, name, value, flags)
    if more & FUSE_SETXATTR_ACL_KILL_SGID:
        _strip_set_group_id(desk.union, node)
    return desk.done()


def _strip_set_group_id(union: Union, node: Node) -> None:
    mode = union.stat(node).st_mode
    if mode & S_ISGID:
        union.chmod(node, mode & 0o7777 & ~S_ISGID)


def removexattr(desk: Desk, nodeid: int, name: bytes) -> Reply:
    node = desk.nodes[nodeid]
    if desk.busy(node, False):
        return DEFER
    desk.union.removexattr(node, name)
    return desk.done()


def statfs(desk: Desk, _nodeid: int) -> Reply:
    return desk.statfs(desk.union.statfs())


def ioctl(desk: Desk, nodeid: int, _fh: int, _flags: int, cmd: int, _arg: int, out: int, data: bytes) -> Reply:
    node = desk.nodes[nodeid]
    if cmd == FS_IOC_GETFLAGS:
        return _result(desk, desk.union.getflags(node), out)
    if cmd == FS_IOC_FSGETXATTR:  # the kernel's first question before it sets flags
        flags = desk.union.getflags(node)
        return _result(desk, sum(xflag for flag, xflag in _XFLAGS if flags & flag), _FSXATTR_SIZE)
    if cmd != FS_IOC_SETFLAGS:
        return desk.failure(ENOTTY)
    if desk.busy(node, True):
        return DEFER
    desk.union.setflags(node, int.from_bytes(data[:4], "little"))
    return _result(desk, 0, 0)


def _result(desk: Desk, value: int, size: int) -> Reply:
    """A reply to an ioctl with `size` bytes, the first four of them the value."""
    return desk.finished(encode.put_ioctl(desk.out, value.to_bytes(4, "little").ljust(size, b"\0")[:size]))
