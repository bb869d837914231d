"""The rules of overlay over a stack of layers. No struct, no nodeid, no reply: this is what a front end serves.

`Union` is the whole API. Its methods raise OSError with the errno that the application is to see, and nothing else on
purpose. A caller holds `union.lock` around every call and every look at a node; slow methods (copy-up of much data,
fsync, fallocate) release it while they do pure I/O, so they belong on a worker thread: `slow(node)` tells, cheaply,
whether an operation that copies a node up is such a one. Constructing a Union raises ConfigError.
"""

from __future__ import annotations

from unionfs.union import attr as _attr
from unionfs.union import copyup as _copyup
from unionfs.union import create as _create
from unionfs.union import data as _data
from unionfs.union import lookup as _lookup
from unionfs.union import remove as _remove
from unionfs.union import rename as _rename
from unionfs.union import settle as _settle
from unionfs.union.attr import UTIME_NOW
from unionfs.union.config import Config, ConfigError
from unionfs.union.data import File
from unionfs.union.node import Dir, Node
from unionfs.union.stack import Stack


class Union(Stack):
    """A stack and every verb on it. One line per verb; the docstrings are where the verbs are."""

    # names → nodes
    lookup = _lookup.lookup
    named = _lookup.named
    stat = _lookup.stat
    nlink = _lookup.nlink
    statx_btime = _lookup.birth_time
    parent = _lookup.parent
    forget = _lookup.forget
    readdir = _lookup.readdir

    # new objects; who = (uid, gid, umask)
    create = _create.create
    mknod = _create.mknod
    mkdir = _create.mkdir
    symlink = _create.symlink
    tmpfile = _create.tmpfile
    link = _create.link

    # names that go or move
    unlink = _remove.unlink
    rmdir = _remove.rmdir
    rename = _rename.rename

    # attributes
    chmod = _attr.chmod
    chown = _attr.chown
    utimens = _attr.utimens
    truncate = _attr.truncate
    kill_priv = _attr.kill_priv
    readlink = _lookup.readlink
    getxattr = _attr.getxattr
    listxattr = _attr.listxattr
    setxattr = _attr.setxattr
    removexattr = _attr.removexattr
    getflags = _data.getflags
    setflags = _data.setflags

    # data
    open = _data.open_node
    read_soon = _data.read_soon
    release = _data.release
    fsync = _data.fsync
    fsyncdir = _data.fsyncdir
    syncfs = _data.syncfs
    fallocate = _data.fallocate
    lseek = _data.lseek
    copy_file_range = _data.copy_file_range
    statfs = _data.statfs
    slow = _copyup.slow
    settle = _settle.settle


__all__ = ["UTIME_NOW", "Config", "ConfigError", "Dir", "File", "Node", "Union"]
