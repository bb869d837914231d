"""Requests about names in directories. Handlers: see `server.desk`."""

from __future__ import annotations

from unionfs.server.desk import DEFER, NO_REPLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.desk import Desk, Reply
    from unionfs.wire.decode import Who


def lookup(desk: Desk, nodeid: int, name: bytes) -> Reply:
    found = desk.union.lookup(desk.dirs[nodeid], name)
    if found is None:
        return desk.negative
    return desk.entry(*found)


def forget(desk: Desk, nodeid: int, nlookup: int) -> Reply:
    desk.state.forget(nodeid, nlookup)
    return NO_REPLY


def batch_forget(desk: Desk, _nodeid: int, pairs: list[tuple[int, int]]) -> Reply:
    forget = desk.state.forget
    for nodeid, nlookup in pairs:
        forget(nodeid, nlookup)
    return NO_REPLY


def symlink(desk: Desk, nodeid: int, name: bytes, target: bytes, who: Who) -> Reply:
    return desk.entry(*desk.union.symlink(desk.dirs[nodeid], name, target, who))


def mknod(desk: Desk, nodeid: int, name: bytes, mode: int, rdev: int, who: Who) -> Reply:
    return desk.entry(*desk.union.mknod(desk.dirs[nodeid], name, mode, rdev, who))


def mkdir(desk: Desk, nodeid: int, name: bytes, mode: int, who: Who) -> Reply:
    return desk.entry(*desk.union.mkdir(desk.dirs[nodeid], name, mode, who))


def unlink(desk: Desk, nodeid: int, name: bytes) -> Reply:
    desk.union.unlink(desk.dirs[nodeid], name)
    return desk.ok


def rmdir(desk: Desk, nodeid: int, name: bytes) -> Reply:
    desk.union.rmdir(desk.dirs[nodeid], name)
    return desk.ok


def rename(desk: Desk, nodeid: int, oldname: bytes, newdir: int, newname: bytes, flags: int) -> Reply:
    union, old, new = desk.union, desk.dirs[nodeid], desk.dirs[newdir]
    if desk.on_loop:
        moved = union.named(old, oldname)
        if moved is not None and union.slow(moved, False):
            return DEFER
    union.rename(old, oldname, new, newname, flags)
    return desk.done()


def link(desk: Desk, nodeid: int, oldnodeid: int, newname: bytes) -> Reply:
    node = desk.nodes[oldnodeid]
    if desk.busy(node, False):
        return DEFER
    return desk.entry(node, desk.union.link(node, desk.dirs[nodeid], newname))
