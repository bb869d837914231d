"""What a tar says of one member: the fields of its header, and the extended (PAX) records that override them."""

from __future__ import annotations

import base64
import struct
import zlib
from urllib.parse import unquote_to_bytes

from unionfs.image.errors import BadArchive, HostileEntry, show

BLOCK = 512
REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_KINDS = frozenset((b"0", b"\0", b"7", b"S"))
_DATALESS = frozenset((HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO))

_NO_ID = 0xFFFFFFFF  # what chown(2) takes for "leave it"

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")


class Entry:
    """One member of a tar: its header with every extension applied."""

    __slots__ = (
        "atime", "devmajor", "devminor", "gid", "kind", "linkname", "mode", "mtime", "name", "segments", "size",
        "stored", "uid", "xattrs",
    )  # fmt: skip

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


def read_header(header: bytes, pax: dict[bytes, bytes], longname: bytes, longlink: bytes) -> Entry:
    """The member that a header block describes, with what came before it: PAX records, GNU's long names.

    Its segments are not read yet.
    """
    (
        name, mode, uid, gid, size, mtime, _check, kind, linkname, magic, _user, _group, devmajor, devminor, prefix,
    ) = _HEADER.unpack(header)  # fmt: skip
    name = name.partition(b"\0")[0]
    if magic[:6] == b"ustar\0" and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    if longname:
        name = longname
    entry = Entry(name, kind, number(mode) & 0o7777, number(uid), number(gid), number(mtime) * 1_000_000_000)
    entry.stored = number(size)
    if longlink:
        entry.linkname = longlink
    elif linkname[0]:
        entry.linkname = linkname.partition(b"\0")[0]
    if kind in b"34":
        entry.devmajor = number(devmajor)
        entry.devminor = number(devminor)
    if pax:
        apply_pax(entry, pax)
    if entry.stored < 0:
        raise BadArchive(f"entry {show(entry.name)}: negative size")
    if not (0 <= entry.uid < _NO_ID and 0 <= entry.gid < _NO_ID):
        raise HostileEntry(entry.name, f"no owner can be {entry.uid}:{entry.gid}")
    if kind in _REGULAR_KINDS:
        entry.kind = DIRECTORY if entry.name.endswith(b"/") else REGULAR
    if entry.kind in _DATALESS:
        entry.stored = 0  # the size field of these means nothing, as for every other reader
    entry.size = entry.stored
    return entry


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
        length = decimal(data[pos:space]) if space > 0 else 0
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


def apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    """Let the records of an extended header override what the header says. Sparse files are the reader's to read."""
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
            entry.uid = decimal(value)
        elif key == b"gid":
            entry.gid = decimal(value)
        elif key == b"size":
            entry.stored = decimal(value)
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


def decimal(value: bytes) -> int:
    """A number of an extended header."""
    if not value.isdigit() or len(value) > 20:
        raise BadArchive(f"a damaged tar archive: {show(value[:40])} is not a number")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    """A PAX time, "[-]SECONDS[.FRACTION]", exactly."""
    sign = -1 if value.startswith(b"-") else 1
    seconds, _, fraction = value.lstrip(b"-").partition(b".")
    return sign * (decimal(seconds) * 1_000_000_000 + decimal((fraction + b"000000000")[:9]))
