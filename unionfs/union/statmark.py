"""`override_stat`, the xattr that says what an object is shown as. Values only, no I/O.

    user.containers.override_stat = UID:GID:MODE[:TYPE…]    decimal, decimal, octal

TYPE is file, dir, symlink, pipe, socket, block-MAJOR-MINOR or char-MAJOR-MINOR; a regular file stands for what an
ordinary user cannot make. containers/storage (force_mask) and fuse-overlayfs (xattr_permissions=2) keep it so; older
versions of the latter wrote `user.fuseoverlayfs.override_stat`. `security.` xattrs, which that user cannot set either,
are kept under `user.containers.override_` and their own name; so are the ACLs of an image, which on disk would speak of
the wrong owners.
"""

from __future__ import annotations

import os
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_IMODE

KEY = b"user.containers.override_stat"
OLD_KEY = b"user.fuseoverlayfs.override_stat"
PREFIX = b"user.containers.override_"
_OLD_PREFIX = b"user.fuseoverlayfs."
_SECURITY = b"security."
_KEPT = (_SECURITY, b"system.posix_acl_")
_ID_MAX = 0xFFFFFFFE  # the number after it means "no id" everywhere

_WORDS = {S_IFREG: b"file", S_IFDIR: b"dir", S_IFLNK: b"symlink", S_IFIFO: b"pipe", S_IFSOCK: b"socket",
          S_IFCHR: b"char", S_IFBLK: b"block"}
_STAND_INS = {b"pipe": S_IFIFO, b"socket": S_IFSOCK, b"char": S_IFCHR, b"block": S_IFBLK}


def value(mode: int, uid: int, gid: int, rdev: int = 0) -> bytes:
    """Law: shown(st, value(st.st_mode, …)) has these attributes. mode: with the type."""
    kind = S_IFMT(mode)
    word = _WORDS[kind]
    if kind in (S_IFCHR, S_IFBLK):
        word = b"%b-%d-%d" % (word, os.major(rdev), os.minor(rdev))
    return b"%d:%d:%04o:%b" % (uid, gid, S_IMODE(mode), word)


def shown(st: os.stat_result, text: bytes) -> os.stat_result:
    """st with what the xattr says; unchanged where that cannot be read. Only a regular file can stand for another type:
    what a directory or a symlink is, the disk knows better.
    """
    fields = text.split(b":")
    if len(fields) < 3 or not (fields[0].isdigit() and fields[1].isdigit()):
        return st
    try:
        uid, gid, mode = int(fields[0]), int(fields[1]), int(fields[2], 8)
        kind, rdev = _type(S_IFMT(st.st_mode), fields[3] if len(fields) > 3 else b"")
    except (ValueError, OverflowError):
        return st
    if uid > _ID_MAX or gid > _ID_MAX or mode < 0:
        return st
    return replaced(st, kind | S_IMODE(mode), uid, gid, rdev)


def unmarked(st: os.stat_result, uid: int, gid: int) -> os.stat_result:
    """st of an object without the xattr: what belongs to the user himself, with these ids, is root's."""
    if uid == gid == 0:
        return st
    return replaced(st, st.st_mode, 0 if st.st_uid == uid else st.st_uid, 0 if st.st_gid == gid else st.st_gid)


def _type(on_disk: int, word: bytes) -> tuple[int, int]:
    """(S_IFMT part, device number). ValueError for a device without numbers."""
    name, *numbers = word.split(b"-")
    kind = _STAND_INS.get(name, on_disk) if on_disk == S_IFREG else on_disk
    if kind not in (S_IFCHR, S_IFBLK) or kind == on_disk:
        return kind, 0
    if len(numbers) < 2 or not (numbers[0].isdigit() and numbers[1].isdigit()):
        raise ValueError("a device without numbers")
    return kind, os.makedev(int(numbers[0]), int(numbers[1]))


def replaced(st: os.stat_result, mode: int, uid: int, gid: int, rdev: int | None = None) -> os.stat_result:
    """st with another mode (type included), owner and device number."""
    fields: tuple[tuple[int, ...], dict[str, int]] = st.__reduce__()[1]  # type: ignore[assignment]
    plain, more = fields
    if rdev is not None:
        more = {**more, "st_rdev": rdev}
    return os.stat_result((mode, *plain[1:4], uid, gid, *plain[6:]), more)


def to_disk(key: bytes) -> bytes | None:
    """The name under which an xattr of the user's is kept; None for names that are not his to use."""
    if key.startswith((PREFIX, _OLD_PREFIX)):
        return None
    return PREFIX + key if key.startswith(_SECURITY) else key


def packed(key: bytes) -> bytes | None:
    """The name of an xattr in the image, for its name on disk; None for what is no part of it."""
    if key.startswith(PREFIX):
        inner = key[len(PREFIX):]
        return inner if inner.startswith(_KEPT) else None
    return None if key.startswith((_OLD_PREFIX, *_KEPT)) else key


def unpacked(key: bytes) -> bytes | None:
    """Law: packed(unpacked(k)) == k. None for a name that an image cannot have here."""
    return PREFIX + key if key.startswith(_KEPT) else to_disk(key)


def to_user(key: bytes) -> bytes | None:
    """Law: to_user(to_disk(k)) == k. None for what no user sees."""
    if key.startswith(PREFIX):
        inner = key[len(PREFIX):]
        return inner if inner.startswith(_SECURITY) else None
    return None if key.startswith((_OLD_PREFIX, _SECURITY)) else key
