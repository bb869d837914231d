"""Replies and notifications, byte by byte."""

from __future__ import annotations

import os

import pytest

from tests.wire.messages import UNIQUE, attr, b2, b4, b8, reply, stat_of
from unionfs.wire import encode, kernel, structs

STATS = [
    stat_of(),
    stat_of(atime_ns=-1, mtime_ns=-1_500_000_000, ctime_ns=0),  # before 1970: floor, not towards zero
    stat_of(mode=0o20600, rdev=os.makedev(0xFFF, 0xFFFFF)),
    stat_of(size=1 << 62, blocks=1 << 53, uid=0xFFFFFFFE, gid=0xFFFFFFFE),
]
FOREVER = b8(encode.FOREVER)


def finished(buf: bytearray) -> bytes:
    encode.put_unique(buf, encode.UNIQUE_AT, UNIQUE)
    return bytes(buf)


def test_status() -> None:
    assert finished(encode.status_reply()) == reply()
    assert finished(encode.status_reply(2)) == reply(error=-2)


@pytest.mark.parametrize("st", STATS)
def test_entry(st: os.stat_result) -> None:
    buf = encode.entry_reply()
    encode.put_entry(buf, 5, 77, 2, st)
    assert finished(buf) == reply(b8(5), b8(0), FOREVER, FOREVER, b4(0), b4(0), attr(77, 2, st))


def test_a_negative_entry_is_an_entry_reply_as_made() -> None:
    assert finished(encode.entry_reply()) == reply(b8(0), b8(0), FOREVER, FOREVER, b4(0), b4(0), bytes(88))


@pytest.mark.parametrize("st", STATS)
def test_attr(st: os.stat_result) -> None:
    buf = encode.attr_reply()
    encode.put_attr(buf, 32, 77, 2, st)
    assert finished(buf) == reply(FOREVER, b4(0), b4(0), attr(77, 2, st))


def test_lifetimes() -> None:
    body = reply(b8(0), b8(0), b8(1), b8(1), b4(5), b4(5), bytes(88))
    assert finished(encode.entry_reply(1, 5)) == body
    assert finished(encode.attr_reply(1, 5)) == reply(b8(1), b4(5), b4(0), bytes(88))
    buf = bytearray(300)
    end = encode.put_direntplus(buf, 0, b"name", 8, 3, 5, 77, 2, STATS[0], 1, 5)
    assert bytes(buf[:40]) == b8(5) + b8(0) + b8(1) + b8(1) + b4(5) + b4(5)
    assert end == 160


def test_create() -> None:
    buf = encode.create_reply()
    encode.put_entry(buf, 5, 77, 1, STATS[0])
    structs.fuse_open_out.pack_into(buf, encode.OPEN_AT, 9, kernel.FOPEN_PASSTHROUGH, 3)
    expected = reply(b8(5), b8(0), FOREVER, FOREVER, b4(0), b4(0), attr(77, 1, STATS[0]), b8(9), b4(1 << 7), b4(3))
    assert finished(buf) == expected


@pytest.mark.parametrize("btime", [None, (1_600_000_000, 5)])
def test_statx(btime: tuple[int, int] | None) -> None:
    st = stat_of(mode=0o20600, rdev=os.makedev(0x123, 0x45678))
    buf = encode.statx_reply()
    encode.put_statx(buf, 77, 2, st, btime)
    sec, ns = btime or (0, 0)
    expected = reply(
        FOREVER, b4(0), b4(0), b8(0), b8(0),
        b4(0xFFF if btime else 0x7FF), b4(4096), b8(0), b4(2), b4(1001), b4(2002), b2(0o20600), b2(0),
        b8(77), b8(12345), b8(24), b8(0),
        b8(1_700_000_001), b4(7), b4(0), b8(sec), b4(ns), b4(0),
        b8(1_700_000_003), b4(999_999_999), b4(0), b8(1_700_000_002), b4(8), b4(0),
        b4(0x123), b4(0x45678), b4(0), b4(0), bytes(112),
    )  # fmt: skip
    assert finished(buf) == expected


def test_sized_replies() -> None:
    for layout, values, body in [
        (structs.fuse_open_out, (9, 2, 0), b8(9) + b4(2) + b4(0)),
        (structs.fuse_write_out, (5,), b4(5) + b4(0)),
        (structs.fuse_getxattr_out, (5,), b4(5) + b4(0)),
        (structs.fuse_lseek_out, (1 << 40,), b8(1 << 40)),
        (structs.fuse_copy_file_range_out, (1 << 40,), b8(1 << 40)),
    ]:
        buf = encode.sized_reply(layout)
        layout.pack_into(buf, encode.HEADER, *values)
        assert finished(buf) == reply(body)


def test_statfs() -> None:
    vfs = os.statvfs_result((4096, 1024, 10, 9, 8, 7, 6, 5, 0, 255))
    buf = encode.sized_reply(structs.fuse_statfs_out)
    encode.put_statfs(buf, vfs)
    body = b8(10) + b8(9) + b8(8) + b8(7) + b8(6) + b4(4096) + b4(255) + b4(1024) + b4(0) + bytes(24)
    assert finished(buf) == reply(body)


def test_ioctl() -> None:
    buf = bytearray(b"\xa5" * 64)
    end = encode.put_ioctl(buf, b"\1\2\3\4")
    encode.put_header(buf, 0, end, 0, UNIQUE)
    assert bytes(buf[:end]) == reply(b4(0), b4(0), b4(0), b4(0), b"\1\2\3\4")


@pytest.mark.parametrize("length", [1, 7, 8, 9, 255])
def test_dirents_are_padded_with_zeros(length: int) -> None:
    buf = bytearray(b"\xa5" * 2000)
    name = b"n" * length
    end = encode.put_dirent(buf, 16, name, 77, 8, 3)
    padded = (length + 7) // 8 * 8
    assert end == 16 + 24 + padded
    assert bytes(buf[16:end]) == b8(77) + b8(3) + b4(length) + b4(8) + name.ljust(padded, b"\0")
    assert set(buf[end:]) == {0xA5}


@pytest.mark.parametrize("length", [1, 7, 8, 9, 255])
@pytest.mark.parametrize("st", STATS)
def test_direntplus(length: int, st: os.stat_result) -> None:
    buf = bytearray(b"\xa5" * 2000)
    name = b"n" * length
    end = encode.put_direntplus(buf, 16, name, 8, 3, 5, 77, 2, st)
    padded = (length + 7) // 8 * 8
    assert end == 16 + 152 + padded
    assert bytes(buf[16:end]) == (
        b8(5) + b8(0) + FOREVER + FOREVER + b4(0) + b4(0) + attr(77, 2, st)
        + b8(77) + b8(3) + b4(length) + b4(8) + name.ljust(padded, b"\0")
    )  # fmt: skip
    assert set(buf[end:]) == {0xA5}


def test_direntplus_without_a_node() -> None:
    buf = bytearray(b"\xa5" * 300)
    end = encode.put_direntplus_bare(buf, 0, b"..", 77, 4, 2)
    assert bytes(buf[:end]) == bytes(128) + b8(77) + b8(2) + b4(2) + b4(4) + b"..".ljust(8, b"\0")


def test_notifications() -> None:
    assert encode.inval_inode(5) == reply(b8(5), b8(-1), b8(0), error=2, unique=0)
    assert encode.inval_inode(5, 0, 4096) == reply(b8(5), b8(0), b8(4096), error=2, unique=0)
    assert encode.inval_entry(5, b"abc") == reply(b8(5), b4(3), b4(0), b"abc\0", error=3, unique=0)
    assert encode.delete(5, 6, b"abc") == reply(b8(5), b8(6), b4(3), b4(0), b"abc\0", error=6, unique=0)
    stored = bytearray(encode.STORE_AT + 3)
    stored[encode.STORE_AT :] = b"abc"
    assert encode.put_store(stored, 5, 4096, 3) == len(stored)
    assert bytes(stored) == reply(b8(5), b8(4096), b4(3), b4(0), b"abc", error=4, unique=0)
    assert encode.resend() == reply(error=7, unique=0)
