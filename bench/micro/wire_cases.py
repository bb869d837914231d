"""The wire format: decoding every request of the protocol, encoding every kind of reply."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.micro.case import Bench, Case
from tests.wire.messages import REQUESTS
from unionfs.wire import encode, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPEAT = 500


def _decode(raw: bytes) -> Callable[[Path], Bench]:
    def prepare(_directory: Path) -> Bench:
        buf = bytearray(raw.ljust(4096, b"\xee"))  # as in the loop: the rest of the buffer holds older bytes
        end, decode, passes = len(raw), table.request, range(REPEAT)

        def run() -> None:
            for _ in passes:
                decode(buf, end)

        return Bench(run, REPEAT)

    return prepare


def _encode(make: Callable[[], Callable[[], object]]) -> Callable[[Path], Bench]:
    def prepare(_directory: Path) -> Bench:
        pack, passes = make(), range(REPEAT)

        def run() -> None:
            for _ in passes:
                pack()

        return Bench(run, REPEAT)

    return prepare


def _entry() -> Callable[[], object]:
    reply, st = encode.entry_reply(), os.stat("/")

    def pack() -> None:
        encode.put_entry(reply, 5, 6, 1, st)
        encode.put_unique(reply, encode.UNIQUE_AT, 77)

    return pack


def _attr() -> Callable[[], object]:
    reply, st = encode.attr_reply(), os.stat("/")

    def pack() -> None:
        encode.put_attr(reply, 32, 6, 1, st)
        encode.put_unique(reply, encode.UNIQUE_AT, 77)

    return pack


def _statx() -> Callable[[], object]:
    reply, st = encode.statx_reply(), os.stat("/")
    return lambda: encode.put_statx(reply, 6, 1, st, (1, 2))


def _statfs() -> Callable[[], object]:
    from unionfs.wire.structs import fuse_statfs_out

    reply, vfs = encode.sized_reply(fuse_statfs_out), os.statvfs("/")
    return lambda: encode.put_statfs(reply, vfs)


def _dirent() -> Callable[[], object]:
    buf = bytearray(4096)
    return lambda: encode.put_dirent(buf, 16, b"some_file_name.txt", 6, 8, 7)


def _direntplus() -> Callable[[], object]:
    buf, st = bytearray(4096), os.stat("/")
    return lambda: encode.put_direntplus(buf, 16, b"some_file_name.txt", 8, 7, 5, 6, 1, st)


def _decoders() -> list[Case]:
    first = {case.opcode: case.raw for case in reversed(REQUESTS)}
    return [Case("decode", table.NAMES[opcode], _decode(raw)) for opcode, raw in sorted(first.items())]


CASES = [
    *_decoders(),
    *(
        Case("encode", name, _encode(make))
        for name, make in (
            ("entry", _entry),
            ("attr", _attr),
            ("statx", _statx),
            ("statfs", _statfs),
            ("dirent", _dirent),
            ("direntplus", _direntplus),
        )
    ),
]
