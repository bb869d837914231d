"""A lean reader of tar streams: ustar, GNU and PAX headers, long names, xattrs and sparse maps.

The input is an iterable of byte chunks, read once and never sought. Data come out as memoryviews into these
chunks, so that a file's bytes go from the decompressor to write(2) without being copied.
"""

from __future__ import annotations

import base64
import struct
import zlib
from urllib.parse import unquote_to_bytes

from unionfs.image.errors import BadArchive, LimitExceeded, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512
REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_KINDS = frozenset((b"0", b"\0", b"7", b"S"))
_DATALESS = frozenset((HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO))
MAX_META = 1 << 20
"""Longest PAX record block or GNU long name believed: Linux paths and xattrs fit many times over."""
MAX_SEGMENTS = 1 << 20
"""Most data segments in one sparse file."""

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK)


class Entry:
    """One member of a tar: its header with every extension applied."""

    __slots__ = (
        "atime",
        "devmajor",
        "devminor",
        "gid",
        "kind",
        "linkname",
        "mode",
        "mtime",
        "name",
        "segments",
        "size",
        "stored",
        "uid",
        "xattrs",
    )

    def __init__(self, name: bytes, kind: bytes, mode: int, uid: int, gid: int, mtime: int) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        """Nanoseconds since the epoch, as is `atime` (None: not given)."""
        self.atime: int | None = None
        self.size = 0
        """The file's length; `stored` is how many bytes of data follow in the archive (less, for a sparse
        file)."""
        self.stored = 0
        self.linkname = b""
        self.devmajor = 0
        self.devminor = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.segments: list[tuple[int, int]] | None = None
        """(offset, length) of each run of data in a sparse file; None: not sparse."""


class TarReader:
    """Iterate to get each Entry; between two steps `pieces()` yields its data. Raises BadArchive on
    anything malformed."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._view = memoryview(b"")
        self._pos = 0
        self._left = 0  # data bytes of the current entry not handed out yet
        self._pad = 0  # bytes that fill its last block
        self._globals: dict[bytes, bytes] = {}
        self.offset = 0
        """Bytes of the stream consumed before the current chunk."""

    def tell(self) -> int:
        """Position in the stream: after a step, that of the entry's first byte of data."""
        return self.offset + self._pos

    # the stream

    def _advance(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self.offset += len(self._view)
                self._view = memoryview(chunk)
                self._pos = 0
                return True
        return False

    def _take(self, count: int) -> bytes:
        """Exactly `count` bytes; BadArchive where the stream ends before."""
        pos = self._pos
        if pos + count <= len(self._view):
            self._pos = pos + count
            return bytes(self._view[pos : pos + count])
        parts = []
        while count:
            have = min(count, len(self._view) - self._pos)
            parts.append(bytes(self._view[self._pos : self._pos + have]))
            self._pos += have
            count -= have
            if count and not self._advance():
                raise BadArchive("the tar archive ends in the middle of an entry")
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            have = min(count, len(self._view) - self._pos)
            self._pos += have
            count -= have
            if count and not self._advance():
                raise BadArchive("the tar archive ends in the middle of an entry")

    def pieces(self) -> Iterator[memoryview]:
        """The current entry's stored bytes, in order. What is not read is skipped by the next step."""
        while self._left:
            if self._pos == len(self._view) and not self._advance():
                raise BadArchive("the tar archive ends in the middle of an entry")
            start = self._pos
            have = min(self._left, len(self._view) - start)
            self._pos += have
            self._left -= have
            yield self._view[start : start + have]

    def whole(self) -> memoryview | None:
        """All of the current entry's data at once if they lie in one chunk, else None (use pieces())."""
        start = self._pos
        end = start + self._left
        if end > len(self._view):
            return None
        self._pos = end
        self._left = 0
        return self._view[start:end]

    def drain(self) -> None:
        """Read the stream to its end: what follows the archive's end mark is part of its digest."""
        while self._advance():
            pass
        self._pos = len(self._view)

    # headers

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[bytes, bytes] = {}
        longname = longlink = b""
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            if kind in b"xgLK":
                data = self._meta(header)
                if kind == b"x":
                    pax = parse_pax(data)
                elif kind == b"g":
                    self._globals.update(parse_pax(data))
                elif kind == b"L":
                    longname = data.partition(b"\0")[0]
                else:
                    longlink = data.partition(b"\0")[0]
                continue
            yield self._entry(header, {**self._globals, **pax} if self._globals else pax, longname, longlink)
            if pax:
                pax = {}
            longname = longlink = b""

    def _next_header(self) -> bytes | None:
        if self._left or self._pad:
            self._skip(self._left + self._pad)
            self._left = self._pad = 0
        if self._pos == len(self._view) and not self._advance():
            return None  # many writers leave out the two blocks of zeros
        header = self._take(BLOCK)
        if header == _ZEROS:
            return None
        check(header)
        return header

    def _meta(self, header: bytes) -> bytes:
        size = number(header[124:136])
        if not 0 <= size <= MAX_META:
            raise LimitExceeded(f"an extended header of {size} bytes (the limit is {MAX_META})")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _entry(self, header: bytes, pax: dict[bytes, bytes], longname: bytes, longlink: bytes) -> Entry:
        (
            name,
            mode,
            uid,
            gid,
            size,
            mtime,
            _check,
            kind,
            linkname,
            magic,
            _user,
            _group,
            devmajor,
            devminor,
            prefix,
        ) = _HEADER.unpack(header)
        name = name.partition(b"\0")[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            name = prefix.partition(b"\0")[0] + b"/" + name
        if longname:
            name = longname
        entry = Entry(
            name, kind, number(mode) & 0o7777, number(uid), number(gid), number(mtime) * 1_000_000_000
        )
        entry.stored = number(size)
        if longlink:
            entry.linkname = longlink
        elif linkname[0]:
            entry.linkname = linkname.partition(b"\0")[0]
        if kind in b"34":
            entry.devmajor = number(devmajor)
            entry.devminor = number(devminor)
        if pax:
            _apply_pax(entry, pax)
        if entry.stored < 0:
            raise BadArchive(f"entry {show(entry.name)}: negative size")
        if kind in _REGULAR_KINDS:
            entry.kind = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        if entry.kind in _DATALESS:
            entry.stored = 0  # the size field of these means nothing, as for every other reader
        self._left = entry.size = entry.stored
        self._pad = -entry.stored % BLOCK
        if kind == b"S":
            self._old_sparse(entry, header)
        elif pax:
            self._pax_sparse(entry, pax)
        return entry

    # sparse files

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own format: four segments in the header, 21 in each block that follows while told so."""
        pairs = _sparse_pairs(header, 386, 4)
        more = header[482]
        while more:
            block = self._take(BLOCK)
            pairs += _sparse_pairs(block, 0, 21)
            more = block[504]
            _limit_segments(entry, len(pairs))
        _set_segments(entry, pairs, number(header[483:495]))

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes]) -> None:
        """PAX sparse 1.0 (the map leads the data), 0.1 (one record) and 0.0 (repeated records, joined by
        parse_pax)."""
        if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            pairs = self._sparse_map_1_0(entry)
        elif b"GNU.sparse.map" in pax:
            numbers = (
                [_decimal(n) for n in pax[b"GNU.sparse.map"].split(b",")] if pax[b"GNU.sparse.map"] else []
            )
            pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        else:
            return
        size = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if size is None:
            raise BadArchive(f"entry {show(entry.name)}: a sparse file without its size")
        _limit_segments(entry, len(pairs))
        _set_segments(entry, pairs, _decimal(size))

    def _sparse_map_1_0(self, entry: Entry) -> list[tuple[int, int]]:
        text = bytearray()
        lines = -1  # lines to expect: the first one tells

        def pull() -> None:
            if self._left < BLOCK:
                raise BadArchive(f"entry {show(entry.name)}: the map of the sparse file is cut short")
            text.extend(self._take(BLOCK))
            self._left -= BLOCK
            entry.stored -= BLOCK

        while lines < 0 or text.count(b"\n") < lines:
            pull()
            if lines < 0 and b"\n" in text:
                count = _decimal(bytes(text.partition(b"\n")[0]))
                _limit_segments(entry, count)
                lines = 1 + 2 * count
        numbers = [_decimal(bytes(n)) for n in text.split(b"\n")[1:lines]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def check(header: bytes) -> None:
    """Raise BadArchive unless the header's checksum holds (the sum of its bytes, its own field taken as
    spaces)."""
    try:
        stored = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise BadArchive("not a tar archive, or a damaged one: a header without a checksum") from None
    # Adler-32's low half, begun at 0, is the sum of the bytes modulo 65521: twenty times faster than sum().
    if (zlib.adler32(header[:148], 0) + zlib.adler32(header[156:], 0) + 256 - stored) & 0xFFFF == 0:
        return
    unsigned = sum(header[:148]) + 256 + sum(header[156:])
    signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])  # some old writers' sum
    if stored not in (unsigned, signed):
        raise BadArchive("not a tar archive, or a damaged one: a header's checksum is wrong")


def number(field: bytes) -> int:
    """A header's number: octal digits, or GNU's base 256 (first bit set), which may be negative."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        return value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if (
        not digits.isdigit() or b"8" in digits or b"9" in digits
    ):  # int() takes signs, prefixes and underscores
        raise BadArchive(f"not a tar archive, or a damaged one: {show(field)} is not a number")
    return int(digits, 8)


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: "LENGTH KEY=VALUE\\n" each. Sparse 0.0's repeated pairs become
    0.1's map."""
    records: dict[bytes, bytes] = {}
    pairs: list[bytes] = []
    pos = 0
    while pos < len(data):
        space = data.find(b" ", pos, pos + 20)
        length = _decimal(data[pos:space]) if space > 0 else 0
        end = pos + length
        record = data[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if space < 0 or end > len(data) or end <= space or not equals or value[-1:] != b"\n":
            raise BadArchive("a damaged tar archive: an extended header that cannot be read")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pairs.append(value[:-1])
        else:
            records[key] = value[:-1]
        pos = end
    if pairs:
        records[b"GNU.sparse.map"] = b",".join(pairs)
    return records


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key == b"path" or key == b"GNU.sparse.name":
            if value and not (key == b"path" and b"GNU.sparse.name" in pax):
                entry.name = _text(value)
        elif key == b"linkpath":
            entry.linkname = _text(value)
        elif key == b"mtime":
            entry.mtime = _nanoseconds(value)
        elif key == b"atime":
            entry.atime = _nanoseconds(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key == b"size":
            entry.stored = _decimal(value)
        elif key.startswith(b"SCHILY.xattr."):
            _add_xattr(entry, key[13:], value)
        elif key.startswith(b"LIBARCHIVE.xattr.") and b"SCHILY.xattr." + key[17:] not in pax:
            _add_xattr(entry, unquote_to_bytes(key[17:]), _base64(value))


def _add_xattr(entry: Entry, name: bytes, value: bytes) -> None:
    if entry.xattrs is None:
        entry.xattrs = {}
    entry.xattrs[name] = value


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except ValueError:
        raise BadArchive("a damaged tar archive: an extended attribute that cannot be read") from None


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise BadArchive(f"entry {show(value)}: a name with a NUL byte")
    return value


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise BadArchive(f"a damaged tar archive: {show(value[:40])} is not a number")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    """A PAX time, "[-]SECONDS[.FRACTION]", exactly."""
    sign = -1 if value.startswith(b"-") else 1
    seconds, _, fraction = value.lstrip(b"-").partition(b".")
    return sign * (_decimal(seconds) * 1_000_000_000 + _decimal((fraction + b"000000000")[:9]))


def _sparse_pairs(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    pairs = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break
        pairs.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return pairs


def _limit_segments(entry: Entry, count: int) -> None:
    if count > MAX_SEGMENTS:
        raise LimitExceeded(f"entry {show(entry.name)}: more than {MAX_SEGMENTS} pieces in a sparse file")


def _set_segments(entry: Entry, pairs: list[tuple[int, int]], size: int) -> None:
    """Keep the map if it is sound: ascending, without overlap, inside the file, and as long as the stored
    data."""
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0:
            raise BadArchive(f"entry {show(entry.name)}: a sparse file whose pieces overlap")
        end = offset + length
    if end > size or sum(length for _, length in pairs) != entry.stored:
        raise BadArchive(f"entry {show(entry.name)}: a sparse file whose pieces do not fit its size")
    entry.segments = [pair for pair in pairs if pair[1]]
    entry.size = size
