"""Writes tar streams: ustar headers, with PAX records only for what ustar cannot say. The same input gives
the same bytes.

Nanoseconds, xattrs (SCHILY.xattr.*), long names, large ids and sparse files (GNU's PAX format 1.0) are what the readers
of GNU tar, Go and bsdtar understand.
"""

from __future__ import annotations

from unionfs.image.tar_entry import BLOCK, REGULAR, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_OCTAL_ID = 0o7777777
_OCTAL_SIZE = 0o77777777777
_PAX_NAME = b"PaxHeaders/"


class TarWriter:
    """write: takes each piece of the stream. Entries are as TarReader gives them; `stored` is derived."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write

    def add(self, entry: Entry, data: Iterable[bytes | memoryview] = ()) -> None:
        """One entry, with its data: for a sparse file, only those of its segments. ValueError if they do not fit."""
        records = _pax(entry)
        prefix = b""
        name = entry.name
        size = entry.size if entry.kind == REGULAR else 0
        if entry.segments is not None:
            prefix = _sparse_map(entry.segments, entry.size)
            size = len(prefix) + sum(length for _, length in entry.segments)
            records |= {
                b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": entry.name,
                b"GNU.sparse.realsize": b"%d" % entry.size,
            }  # fmt: skip
            records.pop(b"path", None)
            name = b"GNUSparseFile.0/" + entry.name.rpartition(b"/")[2][:80]
        if size > _OCTAL_SIZE:
            records[b"size"] = b"%d" % size
        if records:
            self._extended(records, entry)
        self._write(_header(entry, name, size))
        if size:
            self._data(prefix, data, size)

    def _extended(self, records: dict[bytes, bytes], entry: Entry) -> None:
        body = b"".join(_record(key, records[key]) for key in sorted(records))
        header = Entry(_PAX_NAME + entry.name.rstrip(b"/").rpartition(b"/")[2], b"x", 0o644, 0, 0, 0)
        self._write(_header(header, header.name, len(body)))
        self._write(body + bytes(-len(body) % BLOCK))

    def _data(self, prefix: bytes, data: Iterable[bytes | memoryview], size: int) -> None:
        done = len(prefix)
        if prefix:
            self._write(prefix)
        for piece in data:
            self._write(piece)
            done += len(piece)
        if done != size:
            raise ValueError(f"{done} bytes of data for an entry of {size}")
        if size % BLOCK:
            self._write(bytes(-size % BLOCK))

    def end(self) -> None:
        """The two blocks of zeros that end an archive."""
        self._write(bytes(2 * BLOCK))


def _header(entry: Entry, name: bytes, size: int) -> bytes:
    seconds = entry.mtime // 1_000_000_000
    header = b"".join((
        name[:100].ljust(100, b"\0"),
        b"%07o\0" % (entry.mode & 0o7777),
        _octal(entry.uid, 7, _OCTAL_ID),
        _octal(entry.gid, 7, _OCTAL_ID),
        _octal(size, 11, _OCTAL_SIZE),
        _octal(seconds, 11, _OCTAL_SIZE),
        b"        ",
        entry.kind,
        entry.linkname[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        _octal(entry.devmajor, 7, _OCTAL_ID),
        _octal(entry.devminor, 7, _OCTAL_ID),
        bytes(167),
    ))  # fmt: skip
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _octal(value: int, digits: int, largest: int) -> bytes:
    """The number where it fits; 0 where a PAX record holds it."""
    return b"%0*o\0" % (digits, value if 0 <= value <= largest else 0)


def _pax(entry: Entry) -> dict[bytes, bytes]:
    records = {}
    if len(entry.name) > 100 or not entry.name.isascii():
        records[b"path"] = entry.name
    if len(entry.linkname) > 100 or not entry.linkname.isascii():
        records[b"linkpath"] = entry.linkname
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number > _OCTAL_ID:
            records[key] = b"%d" % number
    if entry.mtime % 1_000_000_000 or not 0 <= entry.mtime // 1_000_000_000 <= _OCTAL_SIZE:
        records[b"mtime"] = _decimal_time(entry.mtime)
    for key, value in (entry.xattrs or {}).items():
        records[b"SCHILY.xattr." + key] = value
    return records


def _decimal_time(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    sign = b"-" if nanoseconds < 0 else b""
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _record(key: bytes, value: bytes) -> bytes:
    """ "LENGTH KEY=VALUE\\n", where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _sparse_map(segments: list[tuple[int, int]], size: int) -> bytes:
    if not segments or sum(segments[-1]) < size:
        segments = [*segments, (size, 0)]  # GNU tar ends the file where its last piece ends
    lines = [b"%d" % len(segments)]
    for offset, length in segments:
        lines += [b"%d" % offset, b"%d" % length]
    text = b"\n".join(lines) + b"\n"
    return text + bytes(-len(text) % BLOCK)
