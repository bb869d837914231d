"""Overlay's marks on disk: names of xattrs, their values, whiteouts. Pure values, no I/O except reading one object.

Source: Documentation/filesystems/overlayfs.rst and fs/overlayfs/overlayfs.h of Linux 6.18.
"""

from __future__ import annotations

from errno import EINVAL, ENODATA, EOPNOTSUPP, EPERM
from struct import Struct

from unionfs.layer import verbs

AUFS_PREFIX = b".wh."
AUFS_META = b".wh..wh."
AUFS_OPAQUE = b".wh..wh..opq"
WHITEOUT_RDEV = 0

# struct ovl_fb: version, magic, len, flags, type, uuid; then the file handle
_HANDLE = Struct("<BBBBB16s")
_VERSION, _MAGIC = 0, 0xFB
_BIG_ENDIAN, _PATH_UPPER = 1, 4
REDIRECT_MAX = 256  # longer redirects are not followed by the kernel


class Marks:
    """The xattr names of one namespace: `trusted.overlay.` (root) or `user.overlay.` (userxattr)."""

    __slots__ = ("prefix", "escaped", "opaque", "redirect", "origin", "impure", "metacopy", "nlink", "whiteout",
                 "upper", "protattr", "uuid")

    def __init__(self, user: bool) -> None:
        self.prefix = b"user.overlay." if user else b"trusted.overlay."
        self.escaped = self.prefix + b"overlay."
        self.opaque = self.prefix + b"opaque"
        self.redirect = self.prefix + b"redirect"
        self.origin = self.prefix + b"origin"
        self.impure = self.prefix + b"impure"
        self.metacopy = self.prefix + b"metacopy"
        self.nlink = self.prefix + b"nlink"
        self.whiteout = self.prefix + b"whiteout"
        self.upper = self.prefix + b"upper"
        self.protattr = self.prefix + b"protattr"
        self.uuid = self.prefix + b"uuid"

    def to_disk(self, key: bytes) -> bytes:
        """The name under which a user's xattr is kept: overlay's own are escaped, so that overlays nest."""
        return self.escaped + key[len(self.prefix):] if key.startswith(self.prefix) else key

    def to_user(self, key: bytes) -> bytes | None:
        """Law: to_user(to_disk(k)) == k. None for a mark of our own, which no user sees."""
        if not key.startswith(self.prefix):
            return key
        return self.prefix + key[len(self.escaped):] if key.startswith(self.escaped) else None


def read(fd: int, name: bytes, key: bytes) -> bytes | None:
    """The value of a mark, None where there is none or the layer cannot have any."""
    try:
        return verbs.getxattr(fd, name, key)
    except OSError as error:
        if error.errno in (ENODATA, EOPNOTSUPP, EPERM):
            return None
        raise


def present(fd: int, name: bytes, prefix: bytes) -> list[bytes]:
    """The names of the marks on an object."""
    try:
        return [key for key in verbs.listxattr(fd, name) if key.startswith(prefix)]
    except OSError as error:
        if error.errno == EOPNOTSUPP:
            return []
        raise


# --- redirects -----------------------------------------------------------------------------------------------------

def parse_redirect(value: bytes) -> list[bytes]:
    """Components of a redirect: [name] for a sibling, [b"", a, b] for an absolute path.

    Raises EINVAL for what could lead astray: empty components, `.`, `..`, a relative path of several components.
    """
    parts = value.split(b"/")
    names = parts[1:] if len(parts) > 1 and not parts[0] else parts
    if (len(parts) > 1 and parts[0]) or any(name in (b"", b".", b"..") or b"\0" in name for name in names):
        raise OSError(EINVAL, "invalid redirect", value)
    return parts


# --- origin --------------------------------------------------------------------------------------------------------

def pack_origin(kind: int, handle: bytes, uuid: bytes, upper: bool = False) -> bytes:
    """A file handle in the form in which overlay keeps it (`struct ovl_fb`); uuid is the file system's, 16 bytes."""
    flags = _PATH_UPPER if upper else 0
    return _HANDLE.pack(_VERSION, _MAGIC, _HANDLE.size + len(handle), flags, kind, uuid) + handle


def unpack_origin(value: bytes) -> tuple[int, bytes, bytes] | None:
    """(handle type, handle, uuid), or None where the value is empty (origin unknown), foreign or malformed."""
    if len(value) < _HANDLE.size:
        return None
    version, magic, length, flags, kind, uuid = _HANDLE.unpack_from(value)
    if version != _VERSION or magic != _MAGIC or length != len(value) or flags & _BIG_ENDIAN:
        return None
    return kind, value[_HANDLE.size:], uuid


def inode_of(kind: int, handle: bytes) -> int | None:
    """The inode number inside a file handle, None for layouts not known here (then the upper's own number is shown)."""
    size = len(handle)
    if kind in (1, 2) and size in (8, 16):          # ext4 and most others: ino32, generation[, parent]
        return int.from_bytes(handle[:4], "little")
    if kind == 1 and size == 12:                    # tmpfs: generation, ino64
        return int.from_bytes(handle[4:12], "little")
    if kind in (0x81, 0x82) and size >= 12:         # xfs: ino64, generation
        return int.from_bytes(handle[:8], "little")
    if kind in (0x4D, 0x4E, 0x4F) and size >= 8:    # btrfs: object id first
        return int.from_bytes(handle[:8], "little")
    return None
