"""POSIX ACLs as the xattrs system.posix_acl_access and system.posix_acl_default hold them."""

from __future__ import annotations

import struct

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_TAGS = {"u": 0x01, "user": 0x02, "g": 0x04, "group": 0x08, "m": 0x10, "o": 0x20}
_ANY = 0xFFFFFFFF


def encode(text: str) -> bytes:
    """ "u:7 user:1000:6 g:5 m:7 o:0" → the xattr. Entries in this order, named ones by number."""
    value = struct.pack("<I", 2)
    for entry in text.split():
        parts = entry.split(":")
        number = int(parts[1]) if len(parts) == 3 else _ANY
        value += struct.pack("<HHI", _TAGS[parts[0]], int(parts[-1]), number)
    return value


def decode(value: bytes) -> str:
    names = {tag: name for name, tag in _TAGS.items()}
    entries = []
    for tag, bits, number in struct.iter_unpack("<HHI", value[4:]):
        middle = "" if number == _ANY else f"{number}:"
        entries.append(f"{names[tag]}:{middle}{bits}")
    return " ".join(entries)
