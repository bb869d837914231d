"""Renaming: copy-up of what moves, marks that keep directories what they are, then one rename on disk.

A directory with lower parts is not copied: its upper part moves and a redirect says where the lower parts are. The
whiteout that the old name needs comes with the rename itself (RENAME_WHITEOUT) wherever the file system can.
"""

from __future__ import annotations

import os
from errno import EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, EXDEV

from unionfs.layer import verbs
from unionfs.libc import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from unionfs.union import checks, marks, whiteout
from unionfs.union.copyup import copy_up, keep_lower_path, link_up, set_impure
from unionfs.union.lookup import check_name, entry, named, require
from unionfs.union.merge import LOWER, WHITEOUT
from unionfs.union.node import UPPER, Dir, Node
from unionfs.union.parts import lower_path
from unionfs.union.remove import bury, detach, hold, require_empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.stack import Stack


_FLAGS = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT


def rename(stack: Stack, old_dir: Dir, old: bytes, new_dir: Dir, new: bytes, flags: int = 0) -> None:
    """rename(2) and renameat2(2). RENAME_WHITEOUT leaves a whiteout in the upper whatever the lowers have.

    EXDEV for a directory with lower parts where redirect_dir is not `on`: the caller then copies, as `mv` does.
    """
    stack.require_writable()
    if flags & ~_FLAGS or (flags & RENAME_EXCHANGE and flags != RENAME_EXCHANGE):
        raise OSError(EINVAL, os.strerror(EINVAL))
    check_name(new)
    if new_dir.removed or (stack.abilities.whiteout == "aufs" and new.startswith(marks.AUFS_PREFIX)):
        error = ENOENT if new_dir.removed else EINVAL
        raise OSError(error, os.strerror(error), new)
    source = require(stack, old_dir, old)
    target = named(stack, new_dir, new)
    if target is not None and flags & RENAME_NOREPLACE:
        raise OSError(EEXIST, os.strerror(EEXIST), new)
    if target is None and flags & RENAME_EXCHANGE:
        raise OSError(ENOENT, os.strerror(ENOENT), new)
    if source is target:
        return  # two names of one inode: POSIX asks for nothing
    if flags & RENAME_EXCHANGE and target is not None:
        _exchange(stack, source, old_dir, old, target, new_dir, new)
    else:
        _move(stack, source, old_dir, old, target, new_dir, new, bool(flags & RENAME_WHITEOUT))


def _move(stack: Stack, source: Node, old_dir: Dir, old: bytes, target: Node | None, new_dir: Dir, new: bytes,
          whiteout_asked: bool) -> None:
    if target is not None:
        _check_replaceable(stack, source, target, new)
    _prepare(stack, source, old_dir, old, new_dir)
    copy_up(stack, new_dir)
    old_fd, new_fd = stack.part_fd(old_dir, UPPER), stack.part_fd(new_dir, UPPER)
    _clear_target(stack, target, new_fd, new)
    held = None if target is None or target.is_dir else hold(stack, target, new_dir, new)
    try:
        needs_whiteout = whiteout_asked or bool(entry(stack, old_dir, old) & LOWER)
        over_whiteout = bool(entry(stack, new_dir, new) & WHITEOUT)
        _move_on_disk(stack, source, old_fd, old, new_fd, new, needs_whiteout, over_whiteout)
    except BaseException:
        if held is not None:
            os.close(held)
        raise
    try:
        if target is not None and target.is_dir:
            bury(stack, target, new_dir, new)  # type: ignore[arg-type]
        elif target is not None:
            detach(stack, target, new_dir, new, held)
    finally:
        old_dir.children.pop(old, None)
        if old_dir.listing is not None:
            old_dir.listing.remove(old, whiteout_asked)
        _rename_node(source, old_dir, old, new_dir, new)
        _list(new_dir, new, source)


def _check_replaceable(stack: Stack, source: Node, target: Node, name: bytes) -> None:
    if target.is_dir and not source.is_dir:
        raise OSError(EISDIR, os.strerror(EISDIR), name)
    if source.is_dir and not target.is_dir:
        raise OSError(ENOTDIR, os.strerror(ENOTDIR), name)
    if target.is_dir:
        require_empty(stack, target)  # type: ignore[arg-type]


def _clear_target(stack: Stack, target: Node | None, fd: int, name: bytes) -> None:
    """An upper directory about to be replaced must be empty on disk, too: no whiteouts inside."""
    if target is not None and target.is_dir and target.layer == UPPER:
        part = stack.part_fd(target, UPPER)  # type: ignore[arg-type]
        if next(verbs.scan(part), None) is not None:
            whiteout.clear(stack, fd, name)
            _cleared(stack, target)  # type: ignore[arg-type]


def _cleared(stack: Stack, directory: Dir) -> None:
    """Its upper part is another directory now, and the only one."""
    stack.close_parts(directory)
    directory.layers[:] = [UPPER]
    directory.paths.clear()
    directory.opaque, directory.redirect = True, b""


def _move_on_disk(stack: Stack, source: Node, old_fd: int, old: bytes, new_fd: int, new: bytes, needs_whiteout: bool,
                  over_whiteout: bool) -> None:
    able = stack.abilities
    at_once = needs_whiteout and able.rename_whiteout
    if able.whiteout == "aufs":
        _move_beside_marks(stack, old_fd, old, new_fd, new, needs_whiteout, over_whiteout)
    elif over_whiteout and (source.is_dir or (needs_whiteout and not at_once and able.exchange)):
        if needs_whiteout and able.whiteout == "xattr":
            whiteout.announce(stack, old_fd)
        verbs.rename(old_fd, old, new_fd, new, RENAME_EXCHANGE)  # the whiteout goes where the object was
        if not needs_whiteout:
            checks.discard(old_fd, old)
    elif at_once:
        verbs.rename(old_fd, old, new_fd, new, RENAME_WHITEOUT)
        whiteout.count(stack, old)
    elif needs_whiteout:
        _move_and_put(stack, source, old_fd, old, new_fd, new)
    else:
        verbs.rename(old_fd, old, new_fd, new)


def _move_beside_marks(stack: Stack, old_fd: int, old: bytes, new_fd: int, new: bytes, needs_whiteout: bool,
                       over_whiteout: bool) -> None:
    """AUFS form: an object beside its mark shows, so the mark for the old name comes first."""
    if needs_whiteout:
        whiteout.put(stack, old_fd, old)
    try:
        verbs.rename(old_fd, old, new_fd, new)
        if over_whiteout:
            _lift_or_move_back(stack, old_fd, old, new_fd, new)
    except BaseException:
        if needs_whiteout:
            whiteout.lift(stack, old_fd, old)
        raise


def _lift_or_move_back(stack: Stack, old_fd: int, old: bytes, new_fd: int, new: bytes) -> None:
    try:
        whiteout.lift(stack, new_fd, new)
    except BaseException:
        verbs.rename(new_fd, new, old_fd, old)
        raise


def _move_and_put(stack: Stack, source: Node, old_fd: int, old: bytes, new_fd: int, new: bytes) -> None:
    """Where no whiteout comes with a rename. What is replaced changes places first, so that it can come back."""
    flags = RENAME_EXCHANGE if stack.abilities.exchange and verbs.exists(new_fd, new) else 0
    verbs.rename(old_fd, old, new_fd, new, flags)
    try:
        if flags:
            whiteout.replace(stack, old_fd, old, source.is_dir)
        else:
            whiteout.put(stack, old_fd, old)
    except BaseException:
        verbs.rename(new_fd, new, old_fd, old, flags)
        raise


def _exchange(stack: Stack, source: Node, old_dir: Dir, old: bytes, target: Node, new_dir: Dir, new: bytes) -> None:
    _prepare(stack, source, old_dir, old, new_dir)
    _prepare(stack, target, new_dir, new, old_dir)
    verbs.rename(stack.part_fd(old_dir, UPPER), old, stack.part_fd(new_dir, UPPER), new, RENAME_EXCHANGE)
    _rename_node(source, old_dir, old, new_dir, new)
    _rename_node(target, new_dir, new, old_dir, old)
    _list(new_dir, new, source)
    _list(old_dir, old, target)


# --- before ---------------------------------------------------------------------------------------------------------

def _prepare(stack: Stack, node: Node, old_dir: Dir, old: bytes, new_dir: Dir) -> None:
    """Bring a node that will move into the upper, under the name it moves from, with the marks it needs there."""
    if node.is_dir:
        _prepare_dir(stack, node, new_dir)  # type: ignore[arg-type]
    else:
        copy_up(stack, node)
        link_up(stack, node, old_dir, old)
        keep_lower_path(stack, node)
    copy_up(stack, new_dir)
    if old_dir is not new_dir and (old_dir.impure or (node.is_dir and len(node.layers) > 1)):  # type: ignore[attr-defined]
        set_impure(stack, new_dir)


def _prepare_dir(stack: Stack, node: Dir, new_dir: Dir) -> None:
    if len(node.layers) == 1 and node.layer == UPPER:
        if not node.opaque and any(layer != UPPER for layer in new_dir.layers):
            whiteout.set_opaque(stack, stack.part_fd(node, UPPER), b"")
            node.opaque = True
        return
    if stack.config.redirect_dir != "on" or not stack.abilities.xattr:
        raise OSError(EXDEV, os.strerror(EXDEV), node.name)
    value = lower_path(node, node.redirect)
    if new_dir is node.parent and not node.redirect.startswith(b"/"):
        value = value.rpartition(b"/")[2]  # a sibling's name is enough, and stays right when the parent moves
    if len(value) > marks.REDIRECT_MAX:
        raise OSError(EXDEV, "path too long for a redirect", node.name)
    copy_up(stack, node)
    verbs.setxattr(stack.part_fd(node, UPPER), b"", stack.marks.redirect, value)
    node.redirect = value


# --- after ----------------------------------------------------------------------------------------------------------

def _rename_node(node: Node, old_dir: Dir, old: bytes, new_dir: Dir, new: bytes) -> None:
    if old_dir.children.get(old) is node:
        del old_dir.children[old]
    new_dir.children[new] = node
    if node.names is not None:
        node.names.discard((old_dir, old))
        node.names.add((new_dir, new))
    if (node.parent, node.name) == (old_dir, old):
        node.parent, node.name = new_dir, new


def _list(directory: Dir, name: bytes, node: Node) -> None:
    if directory.listing is not None:
        directory.listing.add(name, node.kind >> 12, node.ino)
