"""One row per opcode of the FUSE protocol: everything that is to know about a message in one place.

Rule for editing: a row has opcode, name, structure at the head of the request (None: there is none), number
of NUL-terminated strings behind it, decoder, handler in `unionfs.server` ("": none, the answer is ENOSYS,
which the kernel remembers and does not ask again; INIT is
answered before the loop begins), what a good reply carries, and the minor version of the
protocol that brought the message (0: older than what unionfs speaks). The dispatch table, the trace, the
minimum length of a request and the tests are all made from here.
"""

from __future__ import annotations

from unionfs.wire import decode, kernel, structs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from struct import Struct

    Row = tuple[int, str, Struct | None, int, decode.Decoder, str, str, int]

s, d, k = structs, decode, kernel

# fmt: off
ROWS: tuple[Row, ...] = (
    # opcode, name, structure, strings, decoder, handler, reply, since
    (k.FUSE_LOOKUP, "LOOKUP", None, 1, d.name, "lookup", "entry", 0),
    (k.FUSE_FORGET, "FORGET", s.fuse_forget_in, 0, d.forget, "forget", "-", 0),
    (k.FUSE_GETATTR, "GETATTR", s.fuse_getattr_in, 0, d.getattr_, "getattr_", "attr", 0),
    (k.FUSE_SETATTR, "SETATTR", s.fuse_setattr_in, 0, d.setattr_, "setattr_", "attr", 0),
    (k.FUSE_READLINK, "READLINK", None, 0, d.nothing, "readlink", "data", 0),
    (k.FUSE_SYMLINK, "SYMLINK", None, 2, d.symlink, "symlink", "entry", 0),
    (k.FUSE_MKNOD, "MKNOD", s.fuse_mknod_in, 1, d.mknod, "mknod", "entry", 0),
    (k.FUSE_MKDIR, "MKDIR", s.fuse_mkdir_in, 1, d.mkdir, "mkdir", "entry", 0),
    (k.FUSE_UNLINK, "UNLINK", None, 1, d.name, "unlink", "", 0),
    (k.FUSE_RMDIR, "RMDIR", None, 1, d.name, "rmdir", "", 0),
    (k.FUSE_RENAME, "RENAME", s.fuse_rename_in, 2, d.rename, "rename", "", 0),
    (k.FUSE_LINK, "LINK", s.fuse_link_in, 1, d.link, "link", "entry", 0),
    (k.FUSE_OPEN, "OPEN", s.fuse_open_in, 0, d.open_, "open_", "open", 0),
    (k.FUSE_READ, "READ", s.fuse_read_in, 0, d.read, "read", "data", 0),
    (k.FUSE_WRITE, "WRITE", s.fuse_write_in, 0, d.write, "write", "size", 0),
    (k.FUSE_STATFS, "STATFS", None, 0, d.nothing, "statfs", "statfs", 0),
    (k.FUSE_RELEASE, "RELEASE", s.fuse_release_in, 0, d.release, "release", "", 0),
    (k.FUSE_FSYNC, "FSYNC", s.fuse_fsync_in, 0, d.fsync, "fsync", "", 0),
    (k.FUSE_SETXATTR, "SETXATTR", s.FUSE_COMPAT_SETXATTR_IN, 1, d.setxattr, "setxattr", "", 0),
    (k.FUSE_GETXATTR, "GETXATTR", s.fuse_getxattr_in, 1, d.getxattr, "getxattr", "size|data", 0),
    (k.FUSE_LISTXATTR, "LISTXATTR", s.fuse_getxattr_in, 0, d.listxattr, "listxattr", "size|data", 0),
    (k.FUSE_REMOVEXATTR, "REMOVEXATTR", None, 1, d.name, "removexattr", "", 0),
    (k.FUSE_FLUSH, "FLUSH", s.fuse_flush_in, 0, d.flush, "", "", 0),
    (k.FUSE_INIT, "INIT", s.FUSE_COMPAT_INIT_IN, 0, d.init, "", "init", 0),
    (k.FUSE_OPENDIR, "OPENDIR", s.fuse_open_in, 0, d.open_, "opendir", "open", 0),
    (k.FUSE_READDIR, "READDIR", s.fuse_read_in, 0, d.read, "readdir", "dirents", 0),
    (k.FUSE_RELEASEDIR, "RELEASEDIR", s.fuse_release_in, 0, d.release, "releasedir", "", 0),
    (k.FUSE_FSYNCDIR, "FSYNCDIR", s.fuse_fsync_in, 0, d.fsync, "fsyncdir", "", 0),
    (k.FUSE_GETLK, "GETLK", None, 0, d.nothing, "", "", 0),
    (k.FUSE_SETLK, "SETLK", None, 0, d.nothing, "", "", 0),
    (k.FUSE_SETLKW, "SETLKW", None, 0, d.nothing, "", "", 0),
    (k.FUSE_ACCESS, "ACCESS", s.fuse_access_in, 0, d.access, "", "", 0),
    (k.FUSE_CREATE, "CREATE", s.fuse_create_in, 1, d.create, "create", "entry+open", 0),
    (k.FUSE_INTERRUPT, "INTERRUPT", s.fuse_interrupt_in, 0, d.interrupt, "interrupt", "-", 0),
    (k.FUSE_BMAP, "BMAP", s.fuse_bmap_in, 0, d.bmap, "", "", 0),
    (k.FUSE_DESTROY, "DESTROY", None, 0, d.nothing, "destroy", "", 0),
    (k.FUSE_IOCTL, "IOCTL", s.fuse_ioctl_in, 0, d.ioctl, "ioctl", "ioctl+data", 0),
    (k.FUSE_POLL, "POLL", None, 0, d.nothing, "", "", 0),
    (k.FUSE_NOTIFY_REPLY, "NOTIFY_REPLY", None, 0, d.nothing, "", "", 0),
    (k.FUSE_BATCH_FORGET, "BATCH_FORGET", s.fuse_batch_forget_in, 0, d.batch_forget, "batch_forget", "-", 0),
    (k.FUSE_FALLOCATE, "FALLOCATE", s.fuse_fallocate_in, 0, d.fallocate, "fallocate", "", 0),
    (k.FUSE_READDIRPLUS, "READDIRPLUS", s.fuse_read_in, 0, d.read, "readdirplus", "direntplus", 0),
    (k.FUSE_RENAME2, "RENAME2", s.fuse_rename2_in, 2, d.rename2, "rename", "", 0),
    (k.FUSE_LSEEK, "LSEEK", s.fuse_lseek_in, 0, d.lseek, "lseek", "offset", 0),
    (k.FUSE_COPY_FILE_RANGE, "COPY_FILE_RANGE", s.fuse_copy_file_range_in, 0, d.copy_file_range,
        "copy_file_range", "size", 0),
    (k.FUSE_SETUPMAPPING, "SETUPMAPPING", None, 0, d.nothing, "", "", 31),
    (k.FUSE_REMOVEMAPPING, "REMOVEMAPPING", None, 0, d.nothing, "", "", 31),
    (k.FUSE_SYNCFS, "SYNCFS", s.fuse_syncfs_in, 0, d.nothing, "syncfs", "", 34),
    (k.FUSE_TMPFILE, "TMPFILE", s.fuse_create_in, 1, d.create, "tmpfile", "entry+open", 37),
    (k.FUSE_STATX, "STATX", s.fuse_statx_in, 0, d.statx, "statx", "statx", 39),
    (k.FUSE_COPY_FILE_RANGE_64, "COPY_FILE_RANGE_64", s.fuse_copy_file_range_in, 0, d.copy_file_range,
        "copy_file_range_64", "bytes_copied", 45),
)
# fmt: on

LENGTH = max(row[0] for row in ROWS) + 1

NAMES = ["?"] * LENGTH
# An opcode that is not in the table is as short as a message can be and is answered by ENOSYS.
MINIMUM = [decode.HEADER] * LENGTH
DECODERS: list[decode.Decoder] = [decode.nothing] * LENGTH

for _row in ROWS:
    _opcode, _name, _struct, _strings, _decoder = _row[:5]
    NAMES[_opcode] = _name
    MINIMUM[_opcode] = decode.HEADER + (_struct.size if _struct else 0) + 2 * _strings
    DECODERS[_opcode] = _decoder


def request(buf: bytearray, end: int) -> tuple[int, int, int, tuple[object, ...]]:
    """(opcode, unique, nodeid, values) of one whole request. Raises WireError and nothing else."""
    opcode, unique, nodeid = decode.header(buf, end)
    if opcode >= LENGTH:
        return opcode, unique, nodeid, ()
    if end < MINIMUM[opcode]:
        raise decode.WireError(f"{NAMES[opcode]} of {end} bytes, at least {MINIMUM[opcode]} expected")
    return opcode, unique, nodeid, DECODERS[opcode](buf, end)


def opname(opcode: int) -> str:
    """The name of an opcode, for people."""
    return NAMES[opcode] if opcode < LENGTH else str(opcode)
