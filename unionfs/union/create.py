"""New objects in the upper layer.

Where nothing is in the way the object is made in its place by one system call, with the caller's file system ids and
umask, so that owner, setgid directories and default ACLs are the upper file system's own doing. Over a whiteout it is
made in the work directory, in a directory that passes on the same things, and moved over the whiteout.
"""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, ENODATA, ENOENT, EOPNOTSUPP, EPERM
from stat import S_IFCHR, S_IFDIR, S_IFMT, S_IFREG, S_ISGID

from unionfs import libc
from unionfs.layer import verbs
from unionfs.union import checks, marks, whiteout
from unionfs.union.copyup import copy_up, keep_lower_path, set_impure
from unionfs.union.data import File
from unionfs.union.lookup import check_name, entry, is_whiteout, place, remember_links, stat, upper_key
from unionfs.union.merge import LOWER, TYPE, WHITEOUT, Names
from unionfs.union.node import HERE, KINDS, NOWHERE, UPPER, Dir, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.union.stack import Stack

    Who = tuple[int, int, int]  # uid, gid, umask of the caller
    Made = tuple[Node, os.stat_result]

_DEFAULT_ACL = b"system.posix_acl_default"
_STAGE = b"#stage"
# A listing of a new directory is kept from the start, since it is known to be empty; beyond this many names it is
# only read again when someone lists the directory.
_KNOWN_NAMES = 50_000


def mknod(stack: Stack, directory: Dir, name: bytes, mode: int, rdev: int, who: Who) -> Made:
    """A file, FIFO, socket or device. EPERM for device 0:0, which would be a whiteout."""
    if S_IFMT(mode) == S_IFCHR and rdev == marks.WHITEOUT_RDEV:
        raise OSError(EPERM, os.strerror(EPERM), name)
    return _new(stack, directory, name, who, lambda fd, at: verbs.mknod(fd, at, mode, rdev))[:2]


def symlink(stack: Stack, directory: Dir, name: bytes, target: bytes, who: Who) -> Made:
    return _new(stack, directory, name, who, lambda fd, at: verbs.symlink(fd, at, target))[:2]


def mkdir(stack: Stack, directory: Dir, name: bytes, mode: int, who: Who) -> Made:
    node, st, covered = _new(stack, directory, name, who, lambda fd, at: verbs.mkdir(fd, at, mode), is_dir=True)
    node.opaque = covered  # type: ignore[attr-defined]
    return node, st


def create(stack: Stack, directory: Dir, name: bytes, mode: int, flags: int,
           who: Who) -> tuple[Node, os.stat_result, File]:
    """A regular file, open. EEXIST where the name is taken."""
    opened = NOWHERE

    def make(fd: int, at: bytes) -> int:
        nonlocal opened
        opened = verbs.open_file(fd, at, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        return opened

    try:
        node, st, _covered = _new(stack, directory, name, who, make)
    except BaseException:
        if opened >= 0:
            os.close(opened)
        raise
    return node, st, File.adopt(stack, node, flags, opened)


def tmpfile(stack: Stack, directory: Dir, mode: int, flags: int, who: Who) -> tuple[Node, os.stat_result, File]:
    """A regular file without a name (O_TMPFILE); link() can give it one."""
    stack.require_writable()
    copy_up(stack, directory)
    fd = stack.part_fd(directory, UPPER)
    held = _as_caller(stack, who, verbs.open_unnamed, fd, mode)
    st = os.fstat(held)
    node = Node(stack.inode_number(UPPER, st.st_ino), S_IFREG, UPPER, directory, b"")
    node.linked, node.data = False, HERE
    node.fd = os.open(verbs.at(held, b""), os.O_PATH | os.O_CLOEXEC)
    return node, st, File.adopt(stack, node, flags, held)


def link(stack: Stack, node: Node, directory: Dir, name: bytes) -> os.stat_result:
    """Another name for a node, which is copied up first."""
    value = _free_name(stack, directory, name)
    copy_up(stack, node)
    keep_lower_path(stack, node)
    copy_up(stack, directory)
    st = stat(stack, node)
    if node.ino != stack.inode_number(UPPER, st.st_ino):
        set_impure(stack, directory)
    try:
        _link_on_disk(stack, node, stack.part_fd(directory, UPPER), name, bool(value & WHITEOUT))
        _settle_links(stack, node, directory, name)
        _note(stack, directory, name, node)
        return stat(stack, node)
    except BaseException:
        stack.drop_listing(directory)
        raise


def _link_on_disk(stack: Stack, node: Node, fd: int, name: bytes, over_whiteout: bool) -> None:
    if not over_whiteout:
        verbs.link(*place(stack, node), fd, name)
        return
    made = stack.temp_name()
    verbs.link(*place(stack, node), stack.work_fd, made)
    try:
        whiteout.cover(stack, made, fd, name, is_dir=False)
    except BaseException:
        checks.discard(stack.work_fd, made)
        raise


def _settle_links(stack: Stack, node: Node, directory: Dir, name: bytes) -> None:
    if not node.linked:  # made by O_TMPFILE: this is its first name
        os.close(node.fd)
        node.parent, node.name, node.fd, node.linked = directory, name, NOWHERE, True
    elif node.names is None:
        node.names = {(node.parent, node.name)}
    if node.names is not None:
        node.names.add((directory, name))
        remember_links(stack, node, upper_key(stat(stack, node)))
    if node.links >= 0:
        node.links += 1
        if stack.index is not None:
            stack.index.renew(stack, node, None)


# --- making ---------------------------------------------------------------------------------------------------------

def _free_name(stack: Stack, directory: Dir, name: bytes) -> int:
    """What stands at a name that is to be made: 0 or a whiteout. Raises EEXIST, and what else forbids making it."""
    stack.require_writable()
    if directory.removed:
        raise OSError(ENOENT, os.strerror(ENOENT), name)
    check_name(name)
    if stack.abilities.whiteout == "aufs" and name.startswith(marks.AUFS_PREFIX):
        raise OSError(EINVAL, "a name that would be a whiteout", name)
    if directory.listing is None and directory.layers == [UPPER]:
        return 0  # the upper file system itself says whether the name is free
    value = entry(stack, directory, name)
    if value & TYPE:
        raise OSError(EEXIST, os.strerror(EEXIST), name)
    return value


def _new(stack: Stack, directory: Dir, name: bytes, who: Who, make: Callable[[int, bytes], int | None],
         is_dir: bool = False) -> tuple[Node, os.stat_result, bool]:
    """Run `make(fd, name)` as the caller; it may return a descriptor on what it made. And whether it covers a whiteout.

    Where that fails half-way the directory is read again: memory and disk say the same.
    """
    value = _free_name(stack, directory, name)
    if directory.layer != UPPER:
        copy_up(stack, directory)
    try:
        opened, covered = _make(stack, directory, name, value, who, make, is_dir)
        return *_born(stack, directory, name, opened), covered
    except BaseException:
        stack.drop_listing(directory)
        raise


def _make(stack: Stack, directory: Dir, name: bytes, value: int, who: Who, make: Callable[[int, bytes], int | None],
          is_dir: bool) -> tuple[int | None, bool]:
    """In place or over a whiteout: (what `make` returned, whether it went over a whiteout)."""
    fd = stack.part_fd(directory, UPPER)
    if not value & (WHITEOUT | LOWER):
        try:
            return _as_caller(stack, who, make, fd, name), False
        except FileExistsError:
            if not is_whiteout(stack, fd, name, verbs.stat(fd, name)):
                raise
    return _make_over_whiteout(stack, fd, name, who, make, is_dir), True


def _make_over_whiteout(stack: Stack, fd: int, name: bytes, who: Who, make: Callable[[int, bytes], int | None],
                        is_dir: bool) -> int | None:
    made = stack.temp_name()
    try:
        opened = _make_staged(stack, fd, made, who, make)
        if is_dir:
            whiteout.set_opaque(stack, stack.work_fd, made)
        whiteout.cover(stack, made, fd, name, is_dir)
        return opened
    except BaseException:
        checks.discard(stack.work_fd, made)
        raise


def _make_staged(stack: Stack, fd: int, made: bytes, who: Who, make: Callable[[int, bytes], int | None]) -> int | None:
    """Make it in work, with what it inherits from the directory `fd`."""
    inherited = _inherited(fd)
    if inherited is None:
        return _as_caller(stack, who, make, stack.work_fd, made)
    verbs.mkdir(stack.work_fd, _STAGE, 0o700)
    stage = NOWHERE
    try:
        stage = _dress_stage(stack, *inherited)
        opened = _as_caller(stack, who, make, stage, made)
        verbs.rename(stage, made, stack.work_fd, made)
        return opened
    finally:
        if stage >= 0:
            os.close(stage)
        checks.discard(stack.work_fd, _STAGE)


def _inherited(fd: int) -> tuple[os.stat_result, bytes | None] | None:
    """The directory's stat and default ACL, None where new objects inherit nothing from it."""
    st = os.stat(fd)
    acl = None
    try:
        acl = verbs.getxattr(fd, b"", _DEFAULT_ACL)
    except OSError as error:
        if error.errno not in (ENODATA, EOPNOTSUPP):
            raise
    return None if acl is None and not st.st_mode & S_ISGID else (st, acl)


def _dress_stage(stack: Stack, st: os.stat_result, acl: bytes | None) -> int:
    stage = verbs.open_dir(stack.work_fd, _STAGE)
    try:
        verbs.chown(stage, b"", -1, st.st_gid)
        verbs.chmod(stage, b"", 0o700 | st.st_mode & S_ISGID)
        if acl is not None:
            verbs.setxattr(stage, b"", _DEFAULT_ACL, acl)
    except BaseException:
        os.close(stage)
        raise
    return stage


def _as_caller(stack: Stack, who: Who, make: Callable[..., _R], *arguments: object) -> _R:
    """Call with the caller's umask and file system ids; the daemon keeps its capabilities meanwhile.

    The kernel has already checked that the caller may do it (default_permissions).
    """
    uid, gid, umask = who
    if umask != stack.umask:
        os.umask(umask)
        stack.umask = umask
    if not (uid or gid) or not stack.can_impersonate:
        return make(*arguments)
    libc.set_fs_ids(uid, gid)
    try:
        return make(*arguments)
    finally:
        libc.set_fs_ids(0, 0)


# --- remembering ----------------------------------------------------------------------------------------------------

def _born(stack: Stack, directory: Dir, name: bytes, opened: int | None) -> Made:
    st = os.fstat(opened) if opened is not None else verbs.stat(stack.part_fd(directory, UPPER), name)
    ino, kind = stack.inode_number(UPPER, st.st_ino), KINDS[st.st_mode >> 12]
    if kind == S_IFDIR:
        node: Node = Dir(ino, [UPPER], {}, directory, name)
        node.listing = Names({}, {})  # type: ignore[attr-defined]
    else:
        node = Node(ino, kind, UPPER, directory, name)
        node.data = HERE
        node.bare = True
    _note(stack, directory, name, node)
    return node, st


def _note(stack: Stack, directory: Dir, name: bytes, node: Node) -> None:
    directory.children[name] = node
    listing = directory.listing
    if listing is not None:
        listing.add(name, node.kind >> 12, node.ino)
        if len(listing.entries) > _KNOWN_NAMES and listing.order is None and directory.layers == [UPPER]:
            stack.drop_listing(directory)


if TYPE_CHECKING:
    from typing import TypeVar

    _R = TypeVar("_R")
