"""Requests about directories. There are no handles: a cookie is an offset in the directory's listing, which
the union keeps stable. "." has cookie 1 behind it, ".." 2; the listing's own begin there.

Handlers: see `server.desk`.
"""

from __future__ import annotations

from errno import ENOSYS
from stat import S_IFDIR

from unionfs.server.desk import DEFER
from unionfs.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.desk import Desk, Reply
    from unionfs.union.node import Dir

_DT_DIR = S_IFDIR >> 12
# Names of a directory that are given with their attributes. The kernel keeps 1 KiB for each, and we half of that: too
# much for all of a huge directory, when perhaps only names are wanted.
PLUS = 10_000
_put_dirent = encode.put_dirent
_put_direntplus = encode.put_direntplus


def opendir(desk: Desk, _nodeid: int, _flags: int, _open_flags: int) -> Reply:
    # The kernel then opens directories by itself and caches what it reads (FUSE_NO_OPENDIR_SUPPORT).
    return desk.failure(ENOSYS)


def releasedir(desk: Desk, _nodeid: int, *_values: int) -> Reply:
    return desk.ok


def readdir(
    desk: Desk, nodeid: int, _fh: int, offset: int, size: int, _read_flags: int, _owner: int, _flags: int
) -> Reply:
    directory = desk.dirs[nodeid]
    union, out = desk.union, desk.out
    limit = 16 + min(size, len(out) - 16)
    at = 16
    for ino, name, cookie in _dots(desk, directory, offset):
        if at + 32 > limit:
            return desk.finished(at)
        at = _put_dirent(out, at, name, ino, _DT_DIR, cookie)
    for name, ino, dtype, cookie in union.readdir(directory, offset):
        if at + 24 + (len(name) + 7 & ~7) > limit:
            break
        at = _put_dirent(out, at, name, ino, dtype, cookie)
    return desk.finished(at)


def readdirplus(
    desk: Desk, nodeid: int, _fh: int, offset: int, size: int, _read_flags: int, _owner: int, _flags: int
) -> Reply:
    directory = desk.dirs[nodeid]
    union, out, (valid, valid_ns) = desk.union, desk.out, desk.valid
    lookup, nlink, know = union.lookup, union.nlink, desk.know
    ahead = desk.state.readahead.going
    nodes = []
    limit = 16 + min(size, len(out) - 16)
    at = 16
    for ino, name, cookie in _dots(desk, directory, offset):
        if at + 160 > limit:
            return desk.finished(at)
        at = encode.put_direntplus_bare(out, at, name, ino, _DT_DIR, cookie)
    for name, ino, dtype, cookie in union.readdir(directory, offset):
        if at + 152 + (len(name) + 7 & ~7) > limit:
            break
        try:
            found = lookup(directory, name) if cookie <= PLUS else None
        except OSError:
            found = None  # whoever looks it up will learn why
        if found is None:
            # Far behind, removed since the listing was made, or not to be had: as READDIR would show it.
            at = encode.put_direntplus_bare(out, at, name, ino, dtype, cookie)
            continue
        node, st = found
        if ahead:
            nodes.append((node, st.st_size))
        at = _put_direntplus(out, at, name, dtype, cookie, know(node), node.ino, nlink(node, st), st, valid, valid_ns)
    if nodes and desk.state.readahead.wanted():
        desk.state.readahead.read(nodes)
    return desk.finished(at)


def _dots(desk: Desk, directory: Dir, offset: int) -> list[tuple[int, bytes, int]]:
    if offset >= 2:
        return []
    dots = [(directory.ino, b".", 1), (desk.union.parent(directory).ino, b"..", 2)]
    return dots[offset:]


def fsyncdir(desk: Desk, nodeid: int, _fh: int, _flags: int) -> Reply:
    if desk.on_loop:
        return DEFER
    desk.union.fsyncdir(desk.dirs[nodeid])
    return desk.ok
