"""Changing attributes and extended attributes: copy-up first, then the layer's own verb."""

from __future__ import annotations

import os
from errno import EINVAL, ENODATA, EOPNOTSUPP
from stat import S_IFREG, S_IMODE, S_ISGID, S_ISUID, S_IXGRP

from unionfs.layer import verbs
from unionfs.union.copyup import copy_up, own_data
from unionfs.union.lookup import place, reach, stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.data import File
    from unionfs.union.node import Node
    from unionfs.union.stack import Stack

UTIME_NOW = verbs.NOW
_ACL_PREFIX = b"system.posix_acl_"
_NAME_MAX = 255  # bytes of an xattr's name
_CAPABILITY = b"security.capability"


def chmod(stack: Stack, node: Node, mode: int) -> None:
    copy_up(stack, node)
    verbs.chmod(*reach(stack, node), S_IMODE(mode))


def chown(stack: Stack, node: Node, uid: int, gid: int) -> None:
    """-1 leaves an id as it is."""
    copy_up(stack, node)
    verbs.chown(*reach(stack, node), uid, gid)


def utimens(stack: Stack, node: Node, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Nanoseconds since the epoch, UTIME_NOW, or None to leave a time as it is."""
    copy_up(stack, node)
    verbs.utimens(*reach(stack, node), atime_ns, mtime_ns)


def truncate(stack: Stack, node: Node, size: int, file: File | None = None) -> None:
    """Only the data that remains is copied up. An open file gives a descriptor that may write whatever the mode."""
    own_data(stack, node, size)
    if file is not None and file.flags & os.O_ACCMODE != os.O_RDONLY:
        os.ftruncate(file.fileno(), size)
    else:
        verbs.truncate(*place(stack, node), size)


def kill_priv(stack: Stack, node: Node) -> None:
    """What a write by someone without privilege takes away: setuid, setgid of an executable, capabilities."""
    st = stat(stack, node)
    if node.kind != S_IFREG:
        return
    drop = st.st_mode & S_ISUID
    if st.st_mode & S_ISGID and st.st_mode & S_IXGRP:
        drop |= S_ISGID
    if drop:
        chmod(stack, node, S_IMODE(st.st_mode) & ~drop)
    if _CAPABILITY in listxattr(stack, node):
        removexattr(stack, node, _CAPABILITY)


# --- extended attributes ---------------------------------------------------------------------------------------------

def getxattr(stack: Stack, node: Node, key: bytes) -> bytes:
    """ENODATA where there is none, also for overlay's own marks; EOPNOTSUPP where the stack has no such xattrs.

    The kernel asks for the capabilities of every file that is written to for the first time; of one just made the
    answer needs no system call.
    """
    if node.bare and key == _CAPABILITY:
        raise OSError(ENODATA, "no capabilities")
    stack.keep_within_limit()
    return verbs.getxattr(*reach(stack, node), _on_disk(stack, key))


def listxattr(stack: Stack, node: Node) -> list[bytes]:
    """Names as users see them; overlay's own marks are not among them."""
    if not stack.config.xattr:
        return []
    stack.keep_within_limit()
    try:
        keys = verbs.listxattr(*reach(stack, node))
    except OSError as error:
        if error.errno == EOPNOTSUPP:
            return []
        raise
    seen = [stack.marks.to_user(key) for key in keys]
    return [key for key in seen if key is not None and (stack.config.acl or not key.startswith(_ACL_PREFIX))]


def setxattr(stack: Stack, node: Node, key: bytes, value: bytes, flags: int) -> None:
    """XATTR_CREATE and XATTR_REPLACE in flags."""
    stack.require_writable()
    disk = _on_disk(stack, key)
    copy_up(stack, node)
    node.bare = False
    verbs.setxattr(*reach(stack, node), disk, value, flags)


def removexattr(stack: Stack, node: Node, key: bytes) -> None:
    """Without a copy-up where there is none: ENODATA, but for ACLs, whose absence is what was asked for."""
    stack.require_writable()
    disk = _on_disk(stack, key)
    try:
        verbs.getxattr(*reach(stack, node), disk)
    except OSError as error:
        if error.errno == ENODATA and key.startswith(_ACL_PREFIX):
            return
        raise
    copy_up(stack, node)
    verbs.removexattr(*reach(stack, node), disk)


def _on_disk(stack: Stack, key: bytes) -> bytes:
    if not stack.config.xattr or (not stack.config.acl and key.startswith(_ACL_PREFIX)):
        raise OSError(EOPNOTSUPP, os.strerror(EOPNOTSUPP), key)
    if not key:
        raise OSError(EINVAL, os.strerror(EINVAL))
    disk = stack.marks.to_disk(key)
    if len(disk) > _NAME_MAX:
        raise OSError(EOPNOTSUPP, "no room for the escape", key)
    return disk
