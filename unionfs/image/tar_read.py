"""A lean reader of tar streams: ustar, GNU and PAX headers, long names, xattrs and sparse maps.

The input is an iterable of byte chunks, read once and never sought. Data come out as memoryviews into these
chunks, so that a file's bytes go from the decompressor to write(2) without being copied.
"""

from __future__ import annotations

from unionfs.image.errors import BadArchive, LimitExceeded, show
from unionfs.image.tar_entry import BLOCK, Entry, check, decimal, number, parse_pax, read_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_META = 1 << 20
"""Longest PAX record block or GNU long name believed: Linux paths and xattrs fit many times over."""
MAX_SEGMENTS = 1 << 20
"""Most data segments in one sparse file."""

_ZEROS = bytes(BLOCK)


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
        entry = read_header(header, pax, longname, longlink)
        self._left = entry.stored
        self._pad = -entry.stored % BLOCK
        if header[156:157] == b"S":
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
                [decimal(n) for n in pax[b"GNU.sparse.map"].split(b",")] if pax[b"GNU.sparse.map"] else []
            )
            pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        else:
            return
        size = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if size is None:
            raise BadArchive(f"entry {show(entry.name)}: a sparse file without its size")
        _limit_segments(entry, len(pairs))
        _set_segments(entry, pairs, decimal(size))

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
                count = decimal(bytes(text.partition(b"\n")[0]))
                _limit_segments(entry, count)
                lines = 1 + 2 * count
        numbers = [decimal(bytes(n)) for n in text.split(b"\n")[1:lines]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


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
