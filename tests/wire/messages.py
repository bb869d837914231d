"""Golden messages, laid out field by field as bytes on the wire, and the values that they mean.

The bytes are put together by hand from little-endian integers of 2, 4 and 8 bytes (b2 b4 b8) and strings;
nothing of `unionfs.wire` but its numbers is used for them. (The protocol is in host order; these tests are
for little-endian machines.)
"""

from __future__ import annotations

import os
from typing import NamedTuple

from unionfs.wire import kernel as k


def b2(value: int) -> bytes:
    return value.to_bytes(2, "little")


def b4(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def b8(value: int) -> bytes:
    return (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")


UNIQUE = 0x1122334455667788
NODE = 0x0A0B0C0D
UID, GID, PID = 1001, 2002, 3003


def request(opcode: int, *parts: bytes, extension: bytes = b"") -> bytes:
    """A whole request with its header: len opcode unique nodeid uid gid pid total_extlen padding."""
    body = b"".join(parts) + extension
    return (
        b4(40 + len(body)) + b4(opcode) + b8(UNIQUE) + b8(NODE)
        + b4(UID) + b4(GID) + b4(PID) + b2(len(extension) // 8) + b2(0) + body
    )  # fmt: skip


class Case(NamedTuple):
    """One request: the bytes and the values they mean."""

    opcode: int
    raw: bytes
    values: tuple[object, ...]


def _case(opcode: int, parts: list[bytes], *values: object) -> Case:
    return Case(opcode, request(opcode, *parts), values)


WHO = (UID, GID, 0o027)
READ_IN = [b8(7), b8(4096), b4(131072), b4(2), b8(99), b4(0o100000), b4(0)]
READ = (7, 4096, 131072, 2, 99, 0o100000)
RELEASE_IN = [b8(7), b4(2), b4(1), b8(99)]
CFR_IN = [b8(1), b8(2), b8(3), b8(4), b8(5), b8(1 << 40), b8(0)]

REQUESTS = [
    _case(k.FUSE_LOOKUP, [b"hello.txt\0"], b"hello.txt"),
    _case(k.FUSE_LOOKUP, [b"\xff\xfe not utf-8\0"], b"\xff\xfe not utf-8"),
    _case(k.FUSE_LOOKUP, [b"n" * 255 + b"\0"], b"n" * 255),
    _case(k.FUSE_LOOKUP, [b"n" * 256 + b"\0"], b"n" * 256),
    _case(k.FUSE_LOOKUP, [b"n" * 1023 + b"\0"], b"n" * 1023),
    _case(k.FUSE_FORGET, [b8(3)], 3),
    _case(k.FUSE_GETATTR, [b4(1), b4(0), b8(7)], 1, 7),
    _case(
        k.FUSE_SETATTR,
        [
            b4(0x7FF), b4(0), b8(7), b8(1 << 33), b8(99),
            b8(-1), b8(1_700_000_001), b8(3), b4(1), b4(999_999_999), b4(3),
            b4(0o100644), b4(0), b4(10), b4(20), b4(0),
        ],
        0x7FF, 7, 1 << 33, 99, -1, 1_700_000_001, 3, 1, 999_999_999, 3, 0o100644, 10, 20,
    ),
    _case(k.FUSE_READLINK, []),
    _case(k.FUSE_SYMLINK, [b"link\0", b"../target\0"], b"link", b"../target", (UID, GID, 0)),
    _case(k.FUSE_MKNOD, [b4(0o20600), b4(0x501), b4(0o027), b4(0), b"dev\0"], b"dev", 0o20600, 0x501, WHO),
    _case(k.FUSE_MKDIR, [b4(0o40755), b4(0o027), b"dir\0"], b"dir", 0o40755, WHO),
    _case(k.FUSE_UNLINK, [b"gone\0"], b"gone"),
    _case(k.FUSE_RMDIR, [b"gone\0"], b"gone"),
    _case(k.FUSE_RENAME, [b8(5), b"old\0", b"newer\0"], b"old", 5, b"newer", 0),
    _case(k.FUSE_RENAME2, [b8(5), b4(2), b4(0), b"old\0", b"newer\0"], b"old", 5, b"newer", 2),
    _case(k.FUSE_LINK, [b8(5), b"second\0"], 5, b"second"),
    _case(k.FUSE_OPEN, [b4(0o102), b4(1)], 0o102, 1),
    _case(k.FUSE_READ, READ_IN, *READ),
    _case(
        k.FUSE_WRITE,
        [b8(7), b8(4096), b4(5), b4(4), b8(99), b4(0o2001), b4(0), b"bytes"],
        7, 4096, 4, 0o2001, b"bytes",
    ),
    _case(k.FUSE_WRITE, [b8(7), b8(0), b4(0), b4(0), b8(0), b4(1), b4(0)], 7, 0, 0, 1, b""),
    _case(k.FUSE_STATFS, []),
    _case(k.FUSE_RELEASE, RELEASE_IN, 7, 2, 1, 99),
    _case(k.FUSE_FSYNC, [b8(7), b4(1), b4(0)], 7, 1),
    _case(k.FUSE_SETXATTR, [b4(3), b4(1), b4(1), b4(0), b"user.a\0", b"\0\1\2"], b"user.a", b"\0\1\2", 1, 1),
    _case(k.FUSE_SETXATTR, [b4(0), b4(0), b4(0), b4(0), b"user.a\0"], b"user.a", b"", 0, 0),
    _case(k.FUSE_GETXATTR, [b4(64), b4(0), b"user.a\0"], 64, b"user.a"),
    _case(k.FUSE_LISTXATTR, [b4(64), b4(0)], 64, UID),
    _case(k.FUSE_REMOVEXATTR, [b"user.a\0"], b"user.a"),
    _case(k.FUSE_FLUSH, [b8(7), b4(0), b4(0), b8(99)], 7, 99),
    _case(
        k.FUSE_INIT,
        [b4(7), b4(45), b4(131072), b4(k.FUSE_INIT_EXT | 1), b4(1 << 5), *[b4(0)] * 11],
        7, 45, 131072, k.FUSE_PASSTHROUGH | k.FUSE_INIT_EXT | 1,
    ),
    _case(k.FUSE_INIT, [b4(7), b4(31), b4(131072), b4(0x3FFFFFB)], 7, 31, 131072, 0x3FFFFFB),
    _case(k.FUSE_OPENDIR, [b4(0o200000), b4(0)], 0o200000, 0),
    _case(k.FUSE_READDIR, READ_IN, *READ),
    _case(k.FUSE_RELEASEDIR, RELEASE_IN, 7, 2, 1, 99),
    _case(k.FUSE_FSYNCDIR, [b8(7), b4(0), b4(0)], 7, 0),
    _case(k.FUSE_ACCESS, [b4(4), b4(0)], 4),
    _case(
        k.FUSE_CREATE, [b4(0o102), b4(0o100640), b4(0o027), b4(1), b"made\0"],
        b"made", 0o100640, 0o102, 1, WHO,
    ),
    _case(k.FUSE_INTERRUPT, [b8(42)], 42),
    _case(k.FUSE_BMAP, [b8(1), b4(512), b4(0)], 1, 512),
    _case(k.FUSE_DESTROY, []),
    _case(
        k.FUSE_IOCTL,
        [b8(7), b4(16), b4(0x40086602), b8(0x7FFF), b4(4), b4(8), b"\1\2\3\4"],
        7, 16, 0x40086602, 0x7FFF, 8, b"\1\2\3\4",
    ),
    _case(k.FUSE_BATCH_FORGET, [b4(2), b4(0), b8(5), b8(1), b8(6), b8(2)], [(5, 1), (6, 2)]),
    _case(k.FUSE_BATCH_FORGET, [b4(0), b4(0)], []),
    _case(k.FUSE_FALLOCATE, [b8(7), b8(4096), b8(1 << 40), b4(3), b4(0)], 7, 4096, 1 << 40, 3, UID),
    _case(k.FUSE_READDIRPLUS, READ_IN, *READ),
    _case(k.FUSE_LSEEK, [b8(7), b8(4096), b4(4), b4(0)], 7, 4096, 4),
    _case(k.FUSE_COPY_FILE_RANGE, CFR_IN, 1, 2, 3, 4, 5, 1 << 40, 0, UID),
    _case(k.FUSE_COPY_FILE_RANGE_64, CFR_IN, 1, 2, 3, 4, 5, 1 << 40, 0, UID),
    _case(k.FUSE_SYNCFS, [b8(0)]),
    _case(k.FUSE_TMPFILE, [b4(0o102), b4(0o100600), b4(0o027), b4(0), b"/\0"], b"/", 0o100600, 0o102, 0, WHO),
    _case(k.FUSE_STATX, [b4(1), b4(0), b8(7), b4(0x4000), b4(0xFFF)], 1, 7, 0x4000, 0xFFF),
]  # fmt: skip

# Messages in which an inner size disagrees with the length, or a string has no end, or nothing in it.
MALFORMED = [
    request(k.FUSE_LOOKUP, b"no end"),
    request(k.FUSE_LOOKUP, b"\0\0"),
    request(k.FUSE_UNLINK, b"\0"),
    request(k.FUSE_SYMLINK, b"link\0", b"no end"),
    request(k.FUSE_SYMLINK, b"link\0", b"\0"),
    request(k.FUSE_RENAME, b8(5), b"only one\0"),
    request(k.FUSE_RENAME2, b8(5), b8(0), b"only one\0"),
    request(k.FUSE_WRITE, b8(7), b8(0), b4(6), b4(0), b8(0), b4(1), b4(0), b"bytes"),
    request(k.FUSE_WRITE, b8(7), b8(0), b4(0xFFFFFFFF), b4(0), b8(0), b4(1), b4(0), b"bytes"),
    request(k.FUSE_SETXATTR, b4(4), b4(1), b4(1), b4(0), b"user.a\0", b"\0\1\2"),
    request(k.FUSE_SETXATTR, b4(0), b4(0), b"u\0"),
    request(k.FUSE_BATCH_FORGET, b4(3), b4(0), b8(5), b8(1), b8(6), b8(2)),
    request(k.FUSE_BATCH_FORGET, b4(0xFFFFFFFF), b4(0), b8(5), b8(1)),
    request(k.FUSE_IOCTL, b8(7), b4(16), b4(1), b8(0), b4(5), b4(8), b"\1\2\3\4"),
]


def stat_of(**changed: int) -> os.stat_result:
    """A stat_result with a value of its own in every field, times at odd nanoseconds."""
    f = {
        "mode": 0o100644, "ino": 1, "dev": 2, "nlink": 3, "uid": 1001, "gid": 2002, "size": 12345,
        "atime_ns": 1_700_000_001_000_000_007, "mtime_ns": 1_700_000_002_000_000_008,
        "ctime_ns": 1_700_000_003_999_999_999, "blksize": 4096, "blocks": 24, "rdev": 0,
        **changed,
    }  # fmt: skip
    times = [f["atime_ns"], f["mtime_ns"], f["ctime_ns"]]
    seconds = [t // 10**9 for t in times]
    return os.stat_result(
        [f["mode"], f["ino"], f["dev"], f["nlink"], f["uid"], f["gid"], f["size"], *seconds]
        + [t / 1e9 for t in times] + times + [f["blksize"], f["blocks"], f["rdev"]]
    )  # fmt: skip


def attr(ino: int, nlink: int, st: os.stat_result) -> bytes:
    """struct fuse_attr, by hand."""
    times = [st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns]
    return (
        b8(ino) + b8(st.st_size) + b8(st.st_blocks)
        + b"".join(b8(t // 10**9) for t in times) + b"".join(b4(t % 10**9) for t in times)
        + b4(st.st_mode) + b4(nlink) + b4(st.st_uid) + b4(st.st_gid) + b4(st.st_rdev)
        + b4(st.st_blksize) + b4(0)
    )  # fmt: skip


def reply(*parts: bytes, error: int = 0, unique: int = UNIQUE) -> bytes:
    """A whole reply with its header: len error unique."""
    body = b"".join(parts)
    return b4(16 + len(body)) + b4(error) + b8(unique) + body
