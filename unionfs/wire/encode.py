"""Replies and notifications: from plain values to bytes. Pure functions, no I/O.

Replies of a fixed size are packed into a bytearray made once, with the length and all that never changes
already in it: `entry_reply()` and its sisters make such a bytearray, `entry()` and its sisters fill in the
rest. The one who sends it puts in `unique` (`put_unique`). Replies of varying size are packed into a big
buffer behind the 16 bytes of the header, and `put_header` completes them.

`st` is an `os.stat_result`, its times exact to the nanosecond. Inode number and link count are given
apart, because the union decides on them.
"""

from __future__ import annotations

from struct import Struct

from unionfs.wire import kernel
from unionfs.wire.structs import (
    fuse_attr,
    fuse_attr_out,
    fuse_dirent,
    fuse_direntplus,
    fuse_entry_out,
    fuse_ioctl_out,
    fuse_notify_delete_out,
    fuse_notify_inval_entry_out,
    fuse_notify_inval_inode_out,
    fuse_notify_store_out,
    fuse_open_out,
    fuse_out_header,
    fuse_statfs_out,
    fuse_statx,
    fuse_statx_out,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    Buffer = bytearray | memoryview

HEADER = 16  # sizeof(struct fuse_out_header)
ATTR_AT = HEADER + fuse_entry_out.size  # where fuse_attr lies in a reply with an entry
OPEN_AT = ATTR_AT + fuse_attr.size  # where fuse_open_out lies in a reply to CREATE

# How long the kernel may keep what it was told. While mounted nobody else may change the layers, so: for
# ever. 2**31 s fit what every kernel makes of it.
FOREVER = 1 << 31

_u64 = Struct("=Q").pack_into
_pack_attr = fuse_attr.pack_into
_pack_dirent = fuse_dirent.pack_into
_pack_direntplus = fuse_direntplus.pack_into
_PAD = [bytes(n) for n in range(8)]

put_header = fuse_out_header.pack_into  # (buf, 0, length, error, unique)
UNIQUE_AT = 8
put_unique = _u64  # (reply, UNIQUE_AT, unique): names the request which a reply, otherwise complete, answers


def status_reply(errno: int = 0) -> bytearray:
    """A reply that carries nothing but success, or the errno of a failure."""
    return bytearray(fuse_out_header.pack(HEADER, -errno, 0))


def sized_reply(payload: Struct) -> bytearray:
    """A successful reply with room for one `payload`, to be packed at offset HEADER."""
    size = HEADER + payload.size
    return bytearray(fuse_out_header.pack(size, 0, 0)).ljust(size, b"\0")


def entry_reply(valid: int = FOREVER, valid_ns: int = 0) -> bytearray:
    """A reply to LOOKUP and its like. The kernel may keep name and attributes for valid s + valid_ns ns."""
    reply = bytearray(OPEN_AT)
    put_header(reply, 0, OPEN_AT, 0, 0)
    fuse_entry_out.pack_into(reply, HEADER, 0, 0, valid, valid, valid_ns, valid_ns)
    return reply


def create_reply(valid: int = FOREVER, valid_ns: int = 0) -> bytearray:
    """A reply to CREATE and TMPFILE: an entry, then an opened file."""
    reply = entry_reply(valid, valid_ns) + bytes(fuse_open_out.size)
    put_header(reply, 0, len(reply), 0, 0)
    return reply


def attr_reply(valid: int = FOREVER, valid_ns: int = 0) -> bytearray:
    """A reply to GETATTR and SETATTR, lifetime set."""
    reply = sized_reply(Struct(f"={fuse_attr_out.size + fuse_attr.size}x"))
    fuse_attr_out.pack_into(reply, HEADER, valid, valid_ns)
    return reply


def statx_reply(valid: int = FOREVER, valid_ns: int = 0) -> bytearray:
    """A reply to STATX, lifetime set."""
    reply = sized_reply(Struct(f"={fuse_statx_out.size + fuse_statx.size}x"))
    fuse_statx_out.pack_into(reply, HEADER, valid, valid_ns, 0)
    return reply


def put_attr(reply: Buffer, at: int, ino: int, nlink: int, st: os.stat_result) -> None:
    """fuse_attr at offset `at`."""
    # st[7:10] are the whole seconds, rounded down also before 1970, which is what the kernel wants.
    # st_rdev fits 32 bits for every device number that the kernel knows (12 + 20 bits): same layout.
    _pack_attr(
        reply, at, ino, st.st_size, st.st_blocks, st[7], st[8], st[9],
        st.st_atime_ns % 1000000000, st.st_mtime_ns % 1000000000, st.st_ctime_ns % 1000000000,
        st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize, 0,
    )  # fmt: skip


def put_entry(reply: Buffer, nodeid: int, ino: int, nlink: int, st: os.stat_result) -> None:
    """Node and attributes into an `entry_reply` or `create_reply`."""
    _u64(reply, 16, nodeid)
    _pack_attr(  # as in put_attr, without the call: this is every LOOKUP
        reply, 56, ino, st.st_size, st.st_blocks, st[7], st[8], st[9],
        st.st_atime_ns % 1000000000, st.st_mtime_ns % 1000000000, st.st_ctime_ns % 1000000000,
        st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize, 0,
    )  # fmt: skip


def put_statx(reply: Buffer, ino: int, nlink: int, st: os.stat_result, btime: tuple[int, int] | None) -> None:
    """Attributes and, where the file system knows it, the birth time (s, ns), into a `statx_reply`."""
    mask = kernel.STATX_BASIC_STATS | (kernel.STATX_BTIME if btime else 0)
    born, born_ns = btime or (0, 0)
    rdev = st.st_rdev
    fuse_statx.pack_into(
        reply, HEADER + fuse_statx_out.size, mask, st.st_blksize, 0, nlink, st.st_uid, st.st_gid, st.st_mode,
        ino, st.st_size, st.st_blocks, 0,
        st[7], st.st_atime_ns % 1000000000, born, born_ns,
        st[9], st.st_ctime_ns % 1000000000, st[8], st.st_mtime_ns % 1000000000,
        rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00, 0, 0,
    )  # fmt: skip


def put_statfs(reply: Buffer, vfs: os.statvfs_result) -> None:
    """What statvfs() said into a `sized_reply(fuse_statfs_out)`."""
    fuse_statfs_out.pack_into(
        reply, HEADER, vfs.f_blocks, vfs.f_bfree, vfs.f_bavail, vfs.f_files, vfs.f_ffree,
        vfs.f_bsize, vfs.f_namemax, vfs.f_frsize,
    )  # fmt: skip


def put_ioctl(reply: Buffer, data: bytes) -> int:
    """A successful result with `data` for the caller; returns the length of the whole reply."""
    end = HEADER + fuse_ioctl_out.size + len(data)
    fuse_ioctl_out.pack_into(reply, HEADER, 0, 0, 0, 0)
    reply[HEADER + fuse_ioctl_out.size : end] = data
    return end


def put_dirent(buf: Buffer, at: int, name: bytes, ino: int, dtype: int, off: int) -> int:
    """A directory record at `at`; returns where the next one goes. `off` is the cookie behind it."""
    length = len(name)
    _pack_dirent(buf, at, ino, off, length, dtype)
    end = at + 24 + (length + 7 & ~7)
    buf[at + 24 : end] = name + _PAD[-length & 7]
    return end


def put_direntplus(
    buf: Buffer, at: int, name: bytes, dtype: int, off: int, nodeid: int, ino: int, nlink: int,
    st: os.stat_result, valid: int = FOREVER, valid_ns: int = 0,
) -> int:  # fmt: skip
    """A directory record with what LOOKUP would have said; returns where the next one goes."""
    length = len(name)
    _pack_direntplus(
        buf, at, nodeid, 0, valid, valid, valid_ns, valid_ns,
        ino, st.st_size, st.st_blocks, st[7], st[8], st[9],
        st.st_atime_ns % 1000000000, st.st_mtime_ns % 1000000000, st.st_ctime_ns % 1000000000,
        st.st_mode, nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize, 0,
        ino, off, length, dtype,
    )  # fmt: skip
    end = at + 152 + (length + 7 & ~7)
    buf[at + 152 : end] = name + _PAD[-length & 7]
    return end


_NOTHING = bytes(fuse_entry_out.size + fuse_attr.size)


def put_direntplus_bare(buf: Buffer, at: int, name: bytes, ino: int, dtype: int, off: int) -> int:
    """A record of READDIRPLUS without a node (nodeid 0): "." and "..", which are never looked up so."""
    buf[at : at + 128] = _NOTHING
    return put_dirent(buf, at + 128, name, ino, dtype, off)


def _notification(code: int, body: bytes) -> bytes:
    return fuse_out_header.pack(HEADER + len(body), code, 0) + body


def inval_inode(nodeid: int, offset: int = -1, length: int = 0) -> bytes:
    """Forget the attributes of `nodeid`; with offset >= 0 also its pages from there (length 0: all)."""
    body = fuse_notify_inval_inode_out.pack(nodeid, offset, length)
    return _notification(kernel.FUSE_NOTIFY_INVAL_INODE, body)


def inval_entry(parent: int, name: bytes) -> bytes:
    """Forget that `name` is, or is not, in the directory `parent`."""
    body = fuse_notify_inval_entry_out.pack(parent, len(name), 0) + name + b"\0"
    return _notification(kernel.FUSE_NOTIFY_INVAL_ENTRY, body)


def delete(parent: int, child: int, name: bytes) -> bytes:
    """`name` in `parent`, which was `child`, is gone: also watchers of it are told."""
    body = fuse_notify_delete_out.pack(parent, child, len(name)) + name + b"\0"
    return _notification(kernel.FUSE_NOTIFY_DELETE, body)


STORE_AT = HEADER + fuse_notify_store_out.size  # where the data of a store begins


def put_store(buf: Buffer, nodeid: int, offset: int, size: int) -> int:
    """Before `size` bytes of data at STORE_AT: the kernel is to keep them as read from `offset`. Returns the end."""
    end = STORE_AT + size
    fuse_out_header.pack_into(buf, 0, end, kernel.FUSE_NOTIFY_STORE, 0)
    fuse_notify_store_out.pack_into(buf, HEADER, nodeid, offset, size)
    return end


def resend() -> bytes:
    """Send again every request that was read from the device and not answered yet."""
    return _notification(kernel.FUSE_NOTIFY_RESEND, b"")
